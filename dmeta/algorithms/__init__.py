"""Few-shot learners, one method a file: adapt, predict, and what is meta-learned.

They know no data set, no runtime and no configuration system. A factory is called as
``make(network=..., loss=..., **options)``; one that takes ``input_shape`` or ``init_seed``, because
it has parameters in addition to the network's, is given them too. An entry is the whole method: the
factory's defaults are its inner loop, `Entry.gradient` names its meta-gradient estimator. Looking
up names imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmeta.registry import LazyEntry, Registry

if TYPE_CHECKING:
    from dmeta.algorithms.algorithm import Algorithm

ON_BATCHES = {"task.train_examples": 16, "meta_batch_size": 16}
"""Settings of methods that are trained on mini-batches: 16 of 16 examples in an outer step."""

ALGORITHMS: Registry[Algorithm] = Registry(
    "algorithm",
    {
        "maml": LazyEntry(
            "dmeta.algorithms.maml:Maml",
            "initial weights from which a few gradient steps learn a task; exact second order",
            "Finn et al. 2017, arXiv:1703.03400",
        ),
        "fomaml": LazyEntry(
            "dmeta.algorithms.maml:Maml",
            "MAML with the first-order meta-gradient",
            "Finn et al. 2017, section 5.2; Nichol et al. 2018, arXiv:1803.02999",
            {"gradient": "first_order"},
        ),
        "reptile": LazyEntry(
            "dmeta.algorithms.reptile:reptile",
            "move the initial weights towards the adapted ones",
            "Nichol et al. 2018, arXiv:1803.02999",
            {"gradient": "displacement"},
        ),
        "anil": LazyEntry(
            "dmeta.algorithms.anil:anil",
            "MAML whose inner loop moves the last layer alone",
            "Raghu et al. 2020, arXiv:1909.09157",
        ),
        "body_only": LazyEntry(
            "dmeta.algorithms.anil:body_only",
            "MAML whose inner loop leaves the last layer alone (BOIL)",
            "Oh et al. 2021, arXiv:2008.08882",
        ),
        "meta_sgd": LazyEntry(
            "dmeta.algorithms.meta_sgd:meta_sgd",
            "MAML with a meta-learned rate for every weight",
            "Li et al. 2017, arXiv:1707.09835",
        ),
        "meta_curvature": LazyEntry(
            "dmeta.algorithms.meta_curvature:meta_curvature",
            "MAML with meta-learned matrices that transform the inner gradients",
            "Park & Oliva 2019, arXiv:1902.03356",
        ),
        "learned_optimizer": LazyEntry(
            "dmeta.algorithms.learned_optimizer:LearnedOptimizer",
            "a meta-learned update rule: an LSTM that says the step of every weight",
            "Andrychowicz et al. 2016, arXiv:1606.04474",
            {"gradient": "first_order"},
        ),
        "cavia": LazyEntry(
            "dmeta.algorithms.cavia:Cavia",
            "adapt a few context parameters; the network is learned by the outer loop alone",
            "Zintgraf et al. 2019, arXiv:1810.03642",
            {"model.context": 5},
        ),
        "maml_pp": LazyEntry(
            "dmeta.algorithms.maml_pp:maml_pp",
            "MAML with a multi-step loss, learned rates and batch-norm per step (MAML++)",
            "Antoniou et al. 2019, arXiv:1810.09502",
            {"gradient": "annealed"},
        ),
        "imaml": LazyEntry(
            "dmeta.algorithms.imaml:imaml",
            "a proximal inner problem, differentiated at its solution",
            "Rajeswaran et al. 2019, arXiv:1909.04630",
            {"gradient": "implicit"},
        ),
        "protonet": LazyEntry(
            "dmeta.algorithms.protonet:ProtoNet",
            "the nearest class mean in a learned embedding; no inner loop",
            "Snell et al. 2017, arXiv:1703.05175",
        ),
        "matching": LazyEntry(
            "dmeta.algorithms.matching:MatchingNet",
            "attention over the support examples in a learned embedding; no inner loop",
            "Vinyals et al. 2016, arXiv:1606.04080",
        ),
        "feat": LazyEntry(
            "dmeta.algorithms.feat:Feat",
            "class means adapted to each other by self-attention; no inner loop",
            "Ye et al. 2020, arXiv:1812.03664",
        ),
        "siamese": LazyEntry(
            "dmeta.algorithms.siamese:Siamese",
            "whether two examples are of the same class, pair by pair; no inner loop",
            "Koch et al. 2015, ICML Deep Learning Workshop",
        ),
        "relation": LazyEntry(
            "dmeta.algorithms.relation:Relation",
            "a learned comparison of each example with each class; no inner loop",
            "Sung et al. 2018, arXiv:1711.06025",
        ),
        "proto_maml": LazyEntry(
            "dmeta.algorithms.proto_maml:ProtoMaml",
            "MAML whose last layer starts as a prototypical network's",
            "Triantafillou et al. 2020, arXiv:1903.03096",
        ),
        "leo": LazyEntry(
            "dmeta.algorithms.leo:Leo",
            "adapt a code of each class, from which a classifier of features is decoded",
            "Rusu et al. 2019, arXiv:1807.05960",
        ),
        "r2d2": LazyEntry(
            "dmeta.algorithms.r2d2:R2D2",
            "ridge regression in a learned embedding, solved in closed form; no inner loop",
            "Bertinetto et al. 2019, arXiv:1805.08136",
        ),
        "lrd2": LazyEntry(
            "dmeta.algorithms.lrd2:LRD2",
            "logistic regression in a learned embedding, by a few Newton steps",
            "Bertinetto et al. 2019, arXiv:1805.08136",
        ),
        "metaoptnet": LazyEntry(
            "dmeta.algorithms.metaoptnet:MetaOptNet",
            "a support vector machine or ridge regression in a learned embedding",
            "Lee et al. 2019, arXiv:1904.03758",
        ),
        "cnaps": LazyEntry(
            "dmeta.algorithms.cnaps:Cnaps",
            "scale and shift the network's channels for a task, and generate a classifier (FiLM)",
            "Requeima et al. 2019, arXiv:1906.07697",
        ),
        "tsa": LazyEntry(
            "dmeta.algorithms.tsa:Tsa",
            "adapters in the convolutions and a map of the features, learned at evaluation alone",
            "Li et al. 2022, arXiv:2107.00358",
            ON_BATCHES,
        ),
        "url": LazyEntry(
            "dmeta.algorithms.url:Url",
            "a network distilled from those of several data sets, and a map of its features",
            "Li et al. 2021, arXiv:2103.13841",
            ON_BATCHES,
        ),
        "baseline": LazyEntry(
            "dmeta.algorithms.baseline:Baseline",
            "a classifier of all training classes; a new linear layer for each task",
            "Chen et al. 2019, arXiv:1904.04232",
            ON_BATCHES,
        ),
        "baseline_pp": LazyEntry(
            "dmeta.algorithms.baseline_pp:BaselinePlusPlus",
            "the baseline with layers that compare directions (Baseline++)",
            "Chen et al. 2019, arXiv:1904.04232",
            ON_BATCHES,
        ),
        "simpleshot": LazyEntry(
            "dmeta.algorithms.simpleshot:SimpleShot",
            "a classifier of all training classes; the nearest class mean of its features",
            "Wang et al. 2019, arXiv:1911.04623",
            ON_BATCHES,
        ),
        "rfs": LazyEntry(
            "dmeta.algorithms.rfs:RFS",
            "a classifier of all training classes; logistic regression on its features",
            "Tian et al. 2020, arXiv:2003.11539",
            ON_BATCHES,
        ),
        "finetune": LazyEntry(
            "dmeta.algorithms.finetune:Finetune",
            "a classifier of all training classes, all of it fine-tuned on each task",
            "Dhillon et al. 2020, arXiv:1909.02729",
            ON_BATCHES,
        ),
        "joint": LazyEntry(
            "dmeta.algorithms.joint:joint",
            "pre-train on all tasks at once, fine-tune at evaluation (the classical baseline)",
            "Finn et al. 2017, section 5.1",
        ),
    },
)
