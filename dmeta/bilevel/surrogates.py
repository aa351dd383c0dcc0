"""Surrogates: scalars whose plain gradient is the meta-gradient of an estimator.

An estimator is a *surrogate*: a scalar function of the meta-parameters and one task whose ordinary
gradient with respect to the meta-parameters is the estimate. So every execution plan
(`plans.py`) runs every estimator, and no plan knows which one it runs.

Letters: theta meta-parameters, theta' what a task adapts them to, L the query loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias

import torch
from torch import Tensor

from dmeta.bilevel.adjoint import ProblemAt, StepPull, Walk, sweep, vjp, walk
from dmeta.bilevel.inner import InnerProblem
from dmeta.bilevel.linear import add
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Adapted, Examples, Loss, Outcome, Params, Stage, Task
from dmeta.randomness import numbers_for


class Differentiable(Protocol):
    """As much of an algorithm as an estimator needs (see `dmeta.algorithms.algorithm`)."""

    @property
    def loss(self) -> Loss:
        """The query loss."""
        ...

    def adapt(
        self, meta_params: Params, support: Examples, solve: Solver, stage: Stage
    ) -> Adapted | Outcome:
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
        notes: name -> scalar that the estimator has to say of itself, such as a residual.
    """

    scalar: Tensor
    loss: Tensor
    prediction: Tensor
    notes: Mapping[str, Tensor] = field(default_factory=dict)


Estimator: TypeAlias = Callable[[Differentiable, Params, Task, Stage], Surrogate]

Notes: TypeAlias = Mapping[str, Tensor]

PullBack: TypeAlias = Callable[
    [ProblemAt, Params, Walk, Mapping[int, Params]], tuple[Params, Notes]
]


def query_loss(
    algorithm: Differentiable, meta_params: Params, task: Task, stage: Stage, solve: Solver
) -> Surrogate:
    """The meta-loss itself, differentiated through whatever `solve` leaves a graph of."""
    outcome = algorithm.adapt(meta_params, task.support, solve, stage)
    judged = _meta_loss(algorithm, outcome, task)
    return Surrogate(judged.scalar, judged.loss.detach(), judged.prediction.detach())


class _Judged(NamedTuple):
    scalar: Tensor
    loss: Tensor
    prediction: Tensor


def predict_queries(algorithm: Differentiable, adapted: Adapted, task: Task) -> Tensor:
    """Predictions of a task's query set [Q, ...], together or, if its network says so, apart."""
    network = getattr(algorithm, "network", None)
    if getattr(network, "queries_apart", False):
        return predict_apart(algorithm, adapted, task)
    return algorithm.predict(adapted, task.query.x)


def predict_apart(algorithm: Any, adapted: Adapted, task: Task) -> Tensor:
    """Predictions of a task's query set [Q, ...] on the batch statistics of its support set.

    Support and query set are one batch, whose statistics are those of its first rows.
    """
    rows = task.support.x.shape[0]
    network = algorithm.network.with_statistics_of_first(rows)
    own = getattr(algorithm, "with_network", None)
    apart = dataclasses.replace(algorithm, network=network) if own is None else own(network)
    out: Tensor = apart.predict(adapted, torch.cat([task.support.x, task.query.x]))[rows:]
    return out


def _meta_loss(algorithm: Differentiable, outcome: Adapted | Outcome, task: Task) -> _Judged:
    """The meta-loss; the query loss and predictions of the state that predicts."""
    if not isinstance(outcome, Outcome):
        outcome = Outcome((outcome,), (1.0,))
    predictions = []
    for place, state in enumerate(outcome.states):
        with numbers_for(f"query {place}"):
            predictions.append(predict_queries(algorithm, state, task))
    losses = [algorithm.loss(prediction, task.query.y) for prediction in predictions]
    if outcome.weights == (1.0,):
        scalar = losses[0]
    else:
        weighed = [w * loss for w, loss in zip(outcome.weights, losses, strict=True)]
        scalar = torch.stack(weighed).sum()
    if outcome.penalty is not None:
        scalar = scalar + outcome.penalty
    return _Judged(scalar, losses[-1], predictions[-1])


def swept(
    algorithm: Differentiable,
    meta_params: Params,
    task: Task,
    stage: Stage,
    step_pull: StepPull,
    last: int | None = None,
    window: int | None = None,
) -> Surrogate:
    """The surrogate of a sweep (see there)."""

    def pull_back(
        problem_at: ProblemAt, still: Params, walked: Walk, cotangents: Mapping[int, Params]
    ) -> tuple[Params, Notes]:
        return sweep(problem_at, still, walked, cotangents, step_pull, last, window), {}

    return pulled_back(algorithm, meta_params, task, stage, pull_back, for_sweep=True)


def pulled_back(
    algorithm: Differentiable,
    meta_params: Params,
    task: Task,
    stage: Stage,
    pull_back: PullBack,
    *,
    for_sweep: bool,
) -> Surrogate:
    """Walk without a graph, differentiate the query loss there, pull that back to theta.

    Args:
        algorithm: adapt, predict and loss.
        meta_params: theta.
        task: one task.
        stage: when.
        pull_back: (problem, theta, walk, cotangents) -> sum_k v_k^T d w_k / d theta, for the
            cotangents v_k = dL/dw_k, and notes.
        for_sweep: whether it needs more of the walk than the judged iterates.
    """
    still = {name: p.detach() for name, p in meta_params.items()}

    def problem_at(theta: Params) -> InnerProblem:
        return inner_problem_of(algorithm, theta, task.support, stage)

    walked = walk(problem_at(still), for_sweep=for_sweep)

    def meta_loss(theta: Params, iterates: dict[int, Params]) -> _Judged:
        outcome = algorithm.adapt(theta, task.support, lambda p: p.outcome(iterates), stage)
        return _meta_loss(algorithm, outcome, task)

    judged, pull = vjp(meta_loss, still, {k: dict(w) for k, w in walked.judged.items()})
    ones = torch.ones_like(judged.scalar)
    zeros = torch.zeros_like(judged.loss), torch.zeros_like(judged.prediction)
    direct, cotangents = pull(_Judged(ones, *zeros))
    pulled, notes = pull_back(problem_at, still, walked, cotangents)
    total = add(direct, pulled)
    scalar = torch.stack([(p * total[name].detach()).sum() for name, p in meta_params.items()])
    return Surrogate(scalar.sum(), judged.loss.detach(), judged.prediction.detach(), notes)


def inner_problem_of(
    algorithm: Differentiable, meta_params: Params, support: Examples, stage: Stage
) -> InnerProblem:
    """The inner problem that a method hands to its solver.

    Raises:
        ValueError: the method has none.
    """
    problems: list[InnerProblem] = []

    def solve(problem: InnerProblem) -> Adapted:
        problems.append(problem)
        return problem.finish(problem.start, 0)

    algorithm.adapt(meta_params, support, solve, stage)
    if len(problems) > 1:
        raise ValueError(
            f"this gradient must have a method with one inner loop, got {type(algorithm).__name__} "
            "with several; choose gradient=exact or first_order"
        )
    if not problems:
        raise ValueError(
            f"this gradient must have a method with an inner loop, got {type(algorithm).__name__}; "
            "choose gradient=exact"
        )
    return problems[0]
