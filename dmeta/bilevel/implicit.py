"""The implicit meta-gradient: of the inner problem's solution, whatever path led there.

Letters: theta meta-parameters, w the inner problem's iterate, G its objective, L the query loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeFloat, PositiveFloat, PositiveInt

from dmeta.bilevel.adjoint import ProblemAt, Walk, gradient_pull
from dmeta.bilevel.chain import is_carried, is_learned
from dmeta.bilevel.linear import conjugate_gradient, neumann_series, plus, scaled
from dmeta.bilevel.surrogates import Differentiable, Notes, Surrogate, pulled_back
from dmeta.bilevel.types import Params, Stage, Task
from dmeta.options import check_fields


@dataclass(frozen=True)
class Implicit:
    """The derivative of the inner problem's solution, whatever path led there.

    iMAML, Rajeswaran, Finn, Kakade & Levine 2019 (arXiv:1909.04630), eq. 6 and algorithm 2, by the
    implicit function theorem: at a stationary point of the objective G,

        dL/dtheta + v^T dw/dtheta,   v = dL/dw,   dw/dtheta = -(d2G/dw2)^-1 d2G/(dtheta dw).

    Attributes:
        solver: how the linear system is solved: ``cg`` (conjugate gradient) or ``neumann`` (a
            series).
        iterations: steps of cg, or terms of the series.
        damping: added to the diagonal of d2G/dw2.
        tolerance: cg stops at this relative residual.
        scale: of the Neumann series, in units of w per unit of gradient, as an inner step size.
    """

    solver: Literal["cg", "neumann"] = "cg"
    iterations: PositiveInt = 5
    damping: NonNegativeFloat = 0.0
    tolerance: NonNegativeFloat = 1e-6
    scale: PositiveFloat = 0.1

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "gradient")

    def __call__(
        self, algorithm: Differentiable, meta_params: Params, task: Task, stage: Stage
    ) -> Surrogate:
        """See `dmeta.bilevel.estimators.exact`.

        Raises:
            ValueError: the inner objective does not depend on the meta-parameters, or the update
                rule has some of its own.
        """

        def pull_back(
            problem_at: ProblemAt, still: Params, walked: Walk, cotangents: Mapping[int, Params]
        ) -> tuple[Params, Notes]:
            _check_rule(meta_params)
            problem = problem_at(still)
            if problem.judged != (problem.num_steps,):
                raise ValueError(
                    "gradient=implicit must have a meta-loss of the last inner step alone, got one "
                    "of several; set algorithm.multi_step_loss_until=0 (or sum_losses=false)"
                )
            if not problem.depends_on_meta:
                raise ValueError(
                    "gradient=implicit must have an inner objective that depends on the "
                    f"meta-parameters, got {type(algorithm).__name__} without a proximal term; set "
                    "algorithm.inner_proximal (as algorithm=imaml does) or choose gradient=exact"
                )
            end, v = walked.judged[problem.num_steps], cotangents[problem.num_steps]
            pull = gradient_pull(problem_at, still, end, problem.num_steps)

            def product(u: Params) -> Params:
                return plus(pull(u).iterate, self.damping, u)

            if self.solver == "cg":
                u, residual = conjugate_gradient(product, v, self.iterations, self.tolerance)
            else:
                u, residual = neumann_series(product, v, self.iterations, self.scale)
            return scaled(-1.0, pull(u).meta), {"residual": residual.detach()}

        return pulled_back(algorithm, meta_params, task, stage, pull_back, for_sweep=False)


def _check_rule(meta_params: Params) -> None:
    """The solution does not depend on the rule that finds it: its derivative is 0."""
    learned = [name for name in meta_params if is_learned(name) and not is_carried(name)]
    if learned:
        raise ValueError(
            "gradient=implicit must have an inner update that learns nothing itself, for it is the "
            f"derivative of the solution and not of the way there, got {learned[0]}; remove what "
            "asks for it (algorithm.learn_inner_lr, precondition, inner_optimizer=lstm, or a "
            "transform in inner_chain), or choose gradient=exact"
        )
