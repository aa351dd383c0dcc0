"""Meta-gradient estimators: how the meta-loss of one task is differentiated.

Each is a function or a frozen dataclass that makes a `Surrogate` (`dmeta.bilevel.surrogates`).

Letters: theta meta-parameters, theta' what a task adapts them to, L the query loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from dmeta.bilevel.adjoint import difference_pull, exact_pull
from dmeta.bilevel.solvers import stop_gradient, unrolled
from dmeta.bilevel.surrogates import (
    Differentiable,
    Estimator,
    Surrogate,
    predict_queries,
    query_loss,
    swept,
)
from dmeta.bilevel.types import Params, Stage, Task
from dmeta.options import check_fields
from dmeta.randomness import numbers_for


def exact(algorithm: Differentiable, meta_params: Params, task: Task, stage: Stage) -> Surrogate:
    """dL(theta'(theta))/dtheta through every inner step (Finn et al. 2017, eq. 1)."""
    return query_loss(algorithm, meta_params, task, stage, unrolled)


def first_order(
    algorithm: Differentiable, meta_params: Params, task: Task, stage: Stage
) -> Surrogate:
    """The same with inner gradients taken for constants (Nichol et al. 2018, eq. 7).

    For MAML this is dL/dtheta' at theta'. Meta-parameters that enter the inner step directly, such
    as learned rates, still get their first-order derivative.
    """
    return query_loss(algorithm, meta_params, task, stage, stop_gradient)


def displacement(
    algorithm: Differentiable, meta_params: Params, task: Task, stage: Stage
) -> Surrogate:
    """Theta - theta': Reptile (Nichol et al. 2018, algorithm 1).

    The query set is only looked at for the report.

    Raises:
        ValueError: what the algorithm adapts is not the meta-parameters themselves.
    """
    still = {name: p.detach() for name, p in meta_params.items()}
    adapted: Any = algorithm.adapt(still, task.support, stop_gradient, stage)
    same = (
        isinstance(adapted, Mapping)
        and adapted.keys() == still.keys()
        and all(adapted[name].shape == p.shape for name, p in still.items())
    )
    # A part that is handed through is never learned; all of it is, where there is no inner step.
    if not same or len({adapted[name] is p for name, p in still.items()}) > 1:
        raise ValueError(
            "gradient=displacement must have an algorithm that adapts exactly its meta-parameters, "
            f"got {type(algorithm).__name__}; choose gradient=exact or first_order"
        )
    scalar = torch.stack(
        [(p * (still[name] - adapted[name]).detach()).sum() for name, p in meta_params.items()]
    ).sum()
    with numbers_for("query 0"):
        prediction = predict_queries(algorithm, adapted, task).detach()
    return Surrogate(scalar, algorithm.loss(prediction, task.query.y).detach(), prediction)


@dataclass(frozen=True)
class Checkpointed:
    """The exact meta-gradient in little memory: inner steps are computed again on the way back.

    Memory is that of one inner step and of 2 sqrt(K) iterates; each inner gradient, but those of
    the last sqrt(K) steps, is computed three times instead of once (Griewank & Walther 2000,
    "Algorithm 799: revolve", with one level; the sweep is reverse-mode differentiation of
    hyper-parameters, Franceschi et al. 2017, arXiv:1703.01785, algorithm 1).
    """

    def __call__(
        self, algorithm: Differentiable, meta_params: Params, task: Task, stage: Stage
    ) -> Surrogate:
        """See `exact`."""
        return swept(algorithm, meta_params, task, stage, exact_pull)


@dataclass(frozen=True)
class Truncated:
    """Exact through the last inner steps, first-order before them; or cut into windows.

    Two truncations, which may be combined:

    * `last` leaves out second derivatives. Shaban et al. 2019 (arXiv:1810.10667), section 3, where
      the steps before are dropped; here they keep their first-order part, without which initial
      weights would have no meta-gradient at all.
    * `window` leaves out chains: truncated backpropagation through time (Werbos 1990; Andrychowicz
      et al. 2016, arXiv:1606.04474, section 3.1, 20 of 100 steps). The steps are cut into windows,
      from the first on. The loss after step k is differentiated through the steps of its own window
      alone; the iterate and the optimiser's state at the window's begin are constants. All windows'
      losses count, so this is for a meta-loss of every step (else only the last window has any),
      and for what enters every step, such as a learned rule: initial weights hear of the first
      window's losses alone.

    Memory as of `Checkpointed`, whatever the window: it bounds how far gradients explode or vanish.

    Differs from Andrychowicz et al.'s code: there each window ends in an outer step; here an outer
    step is of the whole inner loop, and the windows' gradients are added up.

    Attributes:
        last: how many of a window's last steps are exact; 0 is first order, all and more is exact.
        window: steps of a window; None: one window of all steps.
    """

    last: NonNegativeInt = 1
    window: PositiveInt | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "gradient")

    def __call__(
        self, algorithm: Differentiable, meta_params: Params, task: Task, stage: Stage
    ) -> Surrogate:
        """See `exact`."""
        return swept(algorithm, meta_params, task, stage, exact_pull, self.last, self.window)


@dataclass(frozen=True)
class Annealed:
    """First-order up to an outer step, exact from there on.

    MAML++'s derivative-order annealing, Antoniou et al. 2019 (arXiv:1810.09502), section 4.

    Attributes:
        first_order_until: the outer step up to which the meta-gradient is first-order; 0: exact
            from the beginning.
    """

    first_order_until: NonNegativeInt = 0

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "gradient")

    def __call__(
        self, algorithm: Differentiable, meta_params: Params, task: Task, stage: Stage
    ) -> Surrogate:
        """See `exact`."""
        of_now = first_order if stage.step < self.first_order_until else exact
        return of_now(algorithm, meta_params, task, stage)


@dataclass(frozen=True)
class FiniteDifference:
    """Second derivatives by differences of first-order gradients, two more for each inner step.

    HF-MAML, Fallah, Mokhtari & Ozdaglar 2020 (arXiv:1908.10400), section 5. A ReLU or max-pool that
    switches within the step makes the difference far too large, however small the step: the step
    must be so short that none does, which float32 just allows. Median error relative to `exact`,
    float32, one inner step, single tasks at initial weights (first_order: 0.19, 1.0, 0.94):

        relative_step           1e-2   1e-3    1e-4   1e-5   3e-6   1e-6    1e-7
        mlp, sinusoid          0.069 0.0019 0.00001 0.0001 0.0002 0.0008  0.0052
        conv4, glyphs            1.4    5.3     4.6 0.0035 0.0097  0.023    0.15
        conv4_strided, glyphs    1.8    5.8     6.5 0.0035  0.011  0.021    0.15

    At 1e-5 one task in 4 of conv4_strided still had a switch (error above 10), at 3e-6 none had.
    Of many inner steps one with a switch spoils all: with 20 and more (conv4_strided) expect that.

    Attributes:
        relative_step: length of the difference over max(1, length of the weights). Longer: ReLUs
            and max-pools switch within the step; shorter: rounding errors.
    """

    relative_step: PositiveFloat = 3e-6

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "gradient")

    def __call__(
        self, algorithm: Differentiable, meta_params: Params, task: Task, stage: Stage
    ) -> Surrogate:
        """See `exact`."""
        pull = difference_pull(self.relative_step)
        return swept(algorithm, meta_params, task, stage, pull)


def make_exact(memory_budget: int | str | None = None) -> Estimator:  # noqa: ARG001 - see below
    """`exact`.

    Args:
        memory_budget: the most memory that the tensors of one block may take at a time, such as
            ``500MB`` or ``1.5GiB``: the run then uses this gradient if that fits, else
            ``gradient=checkpointed`` (the same gradient, slower) if that fits, else refuses to
            start; None: no budget. Read by the run, not by the estimator.
    """
    return exact
