"""Few-shot learners, one method a file: adapt, predict, and what is meta-learned.

They know no data set, no runtime and no configuration system. A factory is called as
``make(network=..., loss=..., **options)``; one that takes ``input_shape`` or ``init_seed``, because
it has parameters in addition to the network's, is given them too. An entry is the whole method: the
factory's defaults are its inner loop, `Entry.gradient` names its meta-gradient estimator.
"""

from dmeta.algorithms.algorithm import Algorithm
from dmeta.algorithms.anil import anil, body_only
from dmeta.algorithms.cavia import Cavia
from dmeta.algorithms.imaml import imaml
from dmeta.algorithms.joint import joint
from dmeta.algorithms.learned_optimizer import LearnedOptimizer
from dmeta.algorithms.leo import Leo
from dmeta.algorithms.maml import Maml
from dmeta.algorithms.maml_pp import maml_pp
from dmeta.algorithms.meta_curvature import meta_curvature
from dmeta.algorithms.meta_sgd import meta_sgd
from dmeta.algorithms.proto_maml import ProtoMaml
from dmeta.algorithms.protonet import ProtoNet
from dmeta.algorithms.reptile import reptile
from dmeta.registry import Entry, Registry

ALGORITHMS: Registry[Algorithm] = Registry(
    "algorithm",
    {
        "maml": Entry(
            Maml,
            "initial weights from which a few gradient steps learn a task; exact second order",
            "Finn et al. 2017, arXiv:1703.03400",
        ),
        "fomaml": Entry(
            Maml,
            "MAML with the first-order meta-gradient",
            "Finn et al. 2017, section 5.2; Nichol et al. 2018, arXiv:1803.02999",
            {"gradient": "first_order"},
        ),
        "reptile": Entry(
            reptile,
            "move the initial weights towards the adapted ones",
            "Nichol et al. 2018, arXiv:1803.02999",
            {"gradient": "displacement"},
        ),
        "anil": Entry(
            anil,
            "MAML whose inner loop moves the last layer alone",
            "Raghu et al. 2020, arXiv:1909.09157",
        ),
        "body_only": Entry(
            body_only,
            "MAML whose inner loop leaves the last layer alone (BOIL)",
            "Oh et al. 2021, arXiv:2008.08882",
        ),
        "meta_sgd": Entry(
            meta_sgd,
            "MAML with a meta-learned rate for every weight",
            "Li et al. 2017, arXiv:1707.09835",
        ),
        "meta_curvature": Entry(
            meta_curvature,
            "MAML with meta-learned matrices that transform the inner gradients",
            "Park & Oliva 2019, arXiv:1902.03356",
        ),
        "learned_optimizer": Entry(
            LearnedOptimizer,
            "a meta-learned update rule: an LSTM that says the step of every weight",
            "Andrychowicz et al. 2016, arXiv:1606.04474",
            {"gradient": "first_order"},
        ),
        "cavia": Entry(
            Cavia,
            "adapt a few context parameters; the network is learned by the outer loop alone",
            "Zintgraf et al. 2019, arXiv:1810.03642",
            {"model.context": 5},
        ),
        "maml_pp": Entry(
            maml_pp,
            "MAML with a multi-step loss, learned rates and batch-norm per step (MAML++)",
            "Antoniou et al. 2019, arXiv:1810.09502",
            {"gradient": "annealed"},
        ),
        "imaml": Entry(
            imaml,
            "a proximal inner problem, differentiated at its solution",
            "Rajeswaran et al. 2019, arXiv:1909.04630",
            {"gradient": "implicit"},
        ),
        "protonet": Entry(
            ProtoNet,
            "the nearest class mean in a learned embedding; no inner loop",
            "Snell et al. 2017, arXiv:1703.05175",
        ),
        "proto_maml": Entry(
            ProtoMaml,
            "MAML whose last layer starts as a prototypical network's",
            "Triantafillou et al. 2020, arXiv:1903.03096",
        ),
        "leo": Entry(
            Leo,
            "adapt a code of each class, from which a classifier of features is decoded",
            "Rusu et al. 2019, arXiv:1807.05960",
        ),
        "joint": Entry(
            joint,
            "pre-train on all tasks at once, fine-tune at evaluation (the classical baseline)",
            "Finn et al. 2017, section 5.1",
        ),
    },
)
