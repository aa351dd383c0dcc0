"""Few-shot learners, one method a file: adapt, predict, and what is meta-learned.

They know no data set, no runtime and no configuration system. A factory is called as
``make(network=..., loss=..., **options)``.
"""

from dmeta.algorithms.algorithm import Algorithm
from dmeta.algorithms.maml import Maml
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
        ),
        "reptile": Entry(
            Maml,
            "move the initial weights towards the adapted ones",
            "Nichol et al. 2018, arXiv:1803.02999",
        ),
        "joint": Entry(
            Maml,
            "pre-train on all tasks at once, fine-tune at evaluation (the classical baseline)",
            "Finn et al. 2017, section 5.1",
        ),
    },
)
