"""Meta-gradient estimators: how the meta-loss of one task is differentiated.

An estimator is a *surrogate*: a scalar function of the meta-parameters and one task whose ordinary
gradient with respect to the meta-parameters is the estimate. So every execution plan
(`plans.py`) runs every estimator, and no plan knows which one it runs.

Letters: theta meta-parameters, theta' what a task adapts them to, L the query loss.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from dmeta.bilevel.solvers import Solver, stop_gradient, unrolled
from dmeta.bilevel.types import Adapted, Examples, Params, Stage, Task
from dmeta.registry import Entry, Registry

Loss: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""(prediction [N, ...], target [N, ...]) -> scalar, the mean over the N examples."""


class Differentiable(Protocol):
    """As much of an algorithm as an estimator needs (see `dmeta.algorithms.Algorithm`)."""

    @property
    def loss(self) -> Loss:
        """The query loss."""
        ...

    def adapt(self, meta_params: Params, support: Examples, solve: Solver, stage: Stage) -> Adapted:
        """Learn one task."""
        ...

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        """Predict with what was learnt."""
        ...


@dataclass(frozen=True)
class Surrogate:
    """One task's value: differentiate `scalar`, report the rest.

    Attributes:
        scalar: its gradient with respect to the meta-parameters is the estimate.
        loss: query loss after adaptation, detached.
        prediction: query predictions after adaptation [Q, ...], detached.
    """

    scalar: Tensor
    loss: Tensor
    prediction: Tensor


Estimator: TypeAlias = Callable[[Differentiable, Params, Task, Stage], Surrogate]


def _query_loss(
    algorithm: Differentiable, meta_params: Params, task: Task, stage: Stage, solve: Solver
) -> Surrogate:
    adapted = algorithm.adapt(meta_params, task.support, solve, stage)
    prediction = algorithm.predict(adapted, task.query.x)
    loss = algorithm.loss(prediction, task.query.y)
    return Surrogate(loss, loss.detach(), prediction.detach())


def exact(algorithm: Differentiable, meta_params: Params, task: Task, stage: Stage) -> Surrogate:
    """dL(theta'(theta))/dtheta through every inner step (Finn et al. 2017, eq. 1)."""
    return _query_loss(algorithm, meta_params, task, stage, unrolled)


def first_order(
    algorithm: Differentiable, meta_params: Params, task: Task, stage: Stage
) -> Surrogate:
    """The same with inner gradients taken for constants (Nichol et al. 2018, eq. 7).

    For MAML this is dL/dtheta' at theta'. Meta-parameters that enter the inner step directly, such
    as learned rates, still get their first-order derivative.
    """
    return _query_loss(algorithm, meta_params, task, stage, stop_gradient)


def displacement(
    algorithm: Differentiable, meta_params: Params, task: Task, stage: Stage
) -> Surrogate:
    """Theta - theta': Reptile (Nichol et al. 2018, algorithm 1).

    The query set is only looked at for the report.

    Raises:
        ValueError: what the algorithm adapts is not the meta-parameters themselves.
    """
    still = {name: p.detach() for name, p in meta_params.items()}
    adapted = algorithm.adapt(still, task.support, stop_gradient, stage)
    same_names = isinstance(adapted, Mapping) and adapted.keys() == still.keys()
    # A part that is handed through is never learned; all of it is, where there is no inner step.
    if not same_names or len({adapted[name] is p for name, p in still.items()}) > 1:
        raise ValueError(
            "gradient=displacement must have an algorithm that adapts exactly its meta-parameters, "
            f"got {type(algorithm).__name__}; choose gradient=exact or first_order"
        )
    scalar = torch.stack(
        [(p * (still[name] - adapted[name]).detach()).sum() for name, p in meta_params.items()]
    ).sum()
    prediction = algorithm.predict(adapted, task.query.x).detach()
    return Surrogate(scalar, algorithm.loss(prediction, task.query.y).detach(), prediction)


ESTIMATORS: Registry[Estimator] = Registry(
    "gradient",
    {
        "exact": Entry(lambda: exact, "through every inner step", "Finn et al. 2017, eq. 1"),
        "first_order": Entry(
            lambda: first_order, "inner gradients taken for constants", "Nichol et al. 2018, eq. 7"
        ),
        "displacement": Entry(
            lambda: displacement, "theta - theta' (Reptile)", "Nichol et al. 2018, algorithm 1"
        ),
    },
)
