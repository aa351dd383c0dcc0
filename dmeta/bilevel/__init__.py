"""Bilevel mathematics: inner problems, solvers, meta-gradient estimators and execution plans.

Estimators are found by name in `ESTIMATORS`. Looking up names imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmeta.registry import LazyEntry, Registry

if TYPE_CHECKING:
    from dmeta.bilevel.surrogates import Estimator

ESTIMATORS: Registry[Estimator] = Registry(
    "gradient",
    {
        "exact": LazyEntry(
            "dmeta.bilevel.estimators:make_exact",
            "through every inner step",
            "Finn et al. 2017, eq. 1",
        ),
        "first_order": LazyEntry(
            "dmeta.bilevel.estimators:first_order",
            "inner gradients taken for constants",
            "Nichol et al. 2018, eq. 7",
            is_ready=True,
        ),
        "checkpointed": LazyEntry(
            "dmeta.bilevel.estimators:Checkpointed",
            "exact, inner steps computed again instead of remembered",
            "Griewank & Walther 2000",
        ),
        "truncated": LazyEntry(
            "dmeta.bilevel.estimators:Truncated",
            "exact through the last inner steps, or through each window of steps",
            "Shaban et al. 2019, arXiv:1810.10667; Werbos 1990",
        ),
        "annealed": LazyEntry(
            "dmeta.bilevel.estimators:Annealed",
            "first_order at first, then exact (MAML++)",
            "Antoniou et al. 2019, section 4",
        ),
        "finite_difference": LazyEntry(
            "dmeta.bilevel.estimators:FiniteDifference",
            "exact up to differences of first-order gradients (HF-MAML)",
            "Fallah et al. 2020, arXiv:1908.10400",
        ),
        "implicit": LazyEntry(
            "dmeta.bilevel.implicit:Implicit",
            "of the inner problem's solution, whatever the path (iMAML)",
            "Rajeswaran et al. 2019, arXiv:1909.04630",
        ),
        "displacement": LazyEntry(
            "dmeta.bilevel.estimators:displacement",
            "theta - theta' (Reptile)",
            "Nichol et al. 2018, algorithm 1",
            is_ready=True,
        ),
    },
)
