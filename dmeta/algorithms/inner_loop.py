"""The inner loop of every gradient-based method: its settings and its inner problem.

A method says what is minimised and from where; this says how: which parameters move, by which
rule, how far, on which examples, and whether the rates are meta-learned too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from dmeta.algorithms.adapted_names import Adapt, adapted_names
from dmeta.algorithms.inner_chain import check_chain, default_chain, named_chain, place_of
from dmeta.algorithms.multi_step_loss import multi_step_weights
from dmeta.bilevel.chain import Chain, Transform, is_carried, is_learned, meta_parameters
from dmeta.bilevel.inner import InnerOptimizer, InnerProblem, PulledBack
from dmeta.bilevel.transforms.rate import Learned, Rate
from dmeta.bilevel.types import Adapted, Examples, Params, Stage
from dmeta.models.network import Network
from dmeta.options import check_fields


@dataclass(frozen=True)
class InnerLoop:
    """Settings of an inner loop; each is a key of ``algorithm`` in a config.

    Attributes:
        inner_lr: inner learning rate, or factor of the LSTM's output; the initial value of learned
            rates.
        inner_steps: inner steps in training.
        inner_steps_max: None, or draw the number of steps of every outer step, the same for all its
            tasks, uniformly from `inner_steps` to `inner_steps_max`.
        eval_inner_steps: inner steps at evaluation.
        inner_optimizer: ``sgd``; ``adam`` with beta1 = 0 as in Reptile; or ``lstm``, a meta-learned
            rule (Andrychowicz et al. 2016, arXiv:1606.04474).
        carry_moments: with ``adam``, learn its second moments along with the weights instead of
            starting each task without any, as Reptile's code does (only with
            ``gradient=displacement``).
        inner_momentum: momentum of ``sgd`` (0: none).
        inner_clip_norm: bound on the 2-norm of a step's gradient over all tensors; None: no bound.
        inner_proximal: lambda of a term lambda/2 |w - start|^2 that is added to the objective
            (iMAML, Rajeswaran et al. 2019, arXiv:1909.04630, eq. 3); 0: none.
        proximal_at: ``every_step``: the term is part of every step; ``end``: the steps are plain,
            and in training one step on the term alone follows the last (iMAML's code).
        inner_batch_size: support examples per step in training; None: all of them.
        eval_inner_batch_size: support examples per step at evaluation; None: all of them.
        adapt: parameters that the inner loop changes: ``all``, the ``head`` (the network's last
            layer with parameters), the ``body`` (the others), or patterns of names such as
            ``[block4.*, head.*]``.
        learn_inner_lr: meta-learn the rates: one ``per_tensor``, one ``per_tensor_and_step``
            (evaluation repeats the last) or one ``per_element``; None: they stay `inner_lr`.
        precondition: meta-learn matrices that transform a step's (clipped) gradient before the
            rule uses it: ``curvature`` (Park & Oliva 2019, arXiv:1902.03356); None: nothing.
        inner_chain: None: `inner_clip_norm`, `precondition`, then `inner_optimizer` with its
            momentum and rate; or the transforms of the inner gradient in the order in which they
            are applied, by name or with options (``[{name: clip, max_norm: 1}, momentum, rate]``).
            ``rate`` takes `inner_lr` and `learn_inner_lr`; without it (``[]``, say) the rate is 1.
        multi_step_loss_until: outer step up to which the query losses after every inner step enter
            the meta-loss: with equal weights at first, then with falling weights for those before
            the last (MAML++, Antoniou et al. 2019, arXiv:1810.09502, section 4); 0: never.
    """

    inner_lr: PositiveFloat = 0.01
    inner_steps: NonNegativeInt = 1
    inner_steps_max: int | None = None
    eval_inner_steps: NonNegativeInt = 10
    inner_optimizer: Literal["sgd", "adam", "lstm"] = "sgd"
    carry_moments: bool = False
    inner_momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    inner_clip_norm: PositiveFloat | None = None
    inner_proximal: NonNegativeFloat = 0.0
    proximal_at: Literal["every_step", "end"] = "every_step"
    inner_batch_size: PositiveInt | None = None
    eval_inner_batch_size: PositiveInt | None = None
    adapt: Adapt = "all"
    learn_inner_lr: Learned | None = None
    precondition: Literal["curvature"] | None = None
    inner_chain: tuple[Any, ...] | None = None
    multi_step_loss_until: NonNegativeInt = 0

    def __post_init__(self) -> None:
        """Check the fields, and what does not go together."""
        check_fields(self, "algorithm")
        if self.inner_chain is not None:
            check_chain(self)
        if self.inner_momentum and self.inner_optimizer != "sgd":
            raise ValueError(
                f"algorithm.inner_momentum must be 0 with algorithm.inner_optimizer="
                f"{self.inner_optimizer}, got {self.inner_momentum}; choose sgd"
            )
        if self.carry_moments and self.inner_optimizer != "adam":
            raise ValueError(
                "algorithm.carry_moments must be false with algorithm.inner_optimizer="
                f"{self.inner_optimizer}, got true; choose adam"
            )
        if self.proximal_at == "end" and not (
            self.inner_proximal > 0 and self.inner_optimizer == "sgd"
        ):
            raise ValueError(
                "algorithm.proximal_at must be every_step without algorithm.inner_proximal > 0 and "
                f"algorithm.inner_optimizer=sgd, got end with {self.inner_proximal} and "
                f"{self.inner_optimizer}; set them, or remove it"
            )
        self._check_steps()

    def _check_steps(self) -> None:
        if self.inner_steps_max is not None and self.inner_steps_max < self.inner_steps:
            raise ValueError(
                f"algorithm.inner_steps_max must be >= algorithm.inner_steps ({self.inner_steps}) "
                f"or null, got {self.inner_steps_max}; raise it"
            )
        if self.learn_inner_lr == "per_tensor_and_step" and self.inner_steps < 1:
            raise ValueError(
                "algorithm.inner_steps must be >= 1 with algorithm.learn_inner_lr="
                f"per_tensor_and_step, got {self.inner_steps}; raise it"
            )

    @property
    def most_inner_steps(self) -> int:
        """Most steps that training takes."""
        return self.inner_steps if self.inner_steps_max is None else self.inner_steps_max

    def moved(self, network: Network) -> tuple[str, ...]:
        """Names of the network's parameters that the inner loop moves, in the network's order.

        Raises:
            ValueError: a pattern fits no parameter, or nothing is left to move.
        """
        head = network.head if self.adapt in ("head", "body") else ()
        return adapted_names(self.adapt, network.names, head)

    def init_meta_params(self, start: Params) -> dict[str, Tensor]:
        """The inner loop's own meta-parameters, in addition to those of the network.

        Args:
            start: what the inner loop moves.

        Returns: what the transforms of the chain learn (`dmeta.bilevel.transforms`): rates
            ``inner_lr/<name>``, matrices, an LSTM's weights, carried moments.
        """
        found = meta_parameters(self.transforms, start, self.most_inner_steps)
        return dict(sorted(found.items(), key=lambda each: place_of(each[0])))

    def problem(
        self,
        objective: Callable[[Params, Examples, int], Tensor],
        start: Params,
        meta_params: Params,
        support: Examples,
        stage: Stage,
        finish: Callable[[Params, int], Adapted],
        *,
        depends_on_meta: bool,
    ) -> InnerProblem:
        """The inner problem of one task.

        Args:
            objective: (iterate, support examples, inner step) -> scalar to be minimised.
            start: first iterate.
            meta_params: hold what the inner loop itself learns, if it does.
            support: the support set.
            stage: training or evaluation.
            finish: (iterate, steps taken) -> what the method's `predict` reads.
            depends_on_meta: whether the objective has meta-parameters that the iterate has not.
        """
        batch_size, num_steps = self._batch_size(stage), self._num_steps(stage)

        def regularised(iterate: Params, step: int) -> Tensor:
            moved = {name: iterate[name] for name in start}
            value = objective(moved, _mini_batch(support, batch_size, step), step)
            # The implicit meta-gradient asks for the objective after the last step, with the term.
            plain = self.proximal_at == "end" and step < num_steps
            if self.inner_proximal == 0 or plain:
                return value
            away = [(p - start[name]).square().sum() for name, p in moved.items()]
            return value + self.inner_proximal / 2 * torch.stack(away).sum()

        # Detached: only the displacement may move them (a learned moment could become negative).
        carried = {name: p.detach() for name, p in meta_params.items() if is_carried(name)}
        return InnerProblem(
            objective=regularised,
            start={**start, **carried},
            optimizer=self._optimizer(start, meta_params, stage),
            num_steps=num_steps,
            finish=finish,
            depends_on_meta=depends_on_meta or self.inner_proximal > 0,
            loss_weights=self._loss_weights(stage, num_steps),
        )

    def in_mini_batches(self, support: Examples, stage: Stage) -> bool:
        """Whether an inner step sees a part of the support set alone."""
        size = self._batch_size(stage)
        return size is not None and size < len(support.x)

    def _batch_size(self, stage: Stage) -> int | None:
        return self.inner_batch_size if stage.training else self.eval_inner_batch_size

    def _num_steps(self, stage: Stage) -> int:
        if stage.inner_steps is not None:
            return stage.inner_steps
        if not stage.training:
            return self.eval_inner_steps
        if self.inner_steps_max is None:
            return self.inner_steps
        rng = np.random.default_rng([stage.seed, stage.step])
        return int(rng.integers(self.inner_steps, self.inner_steps_max, endpoint=True))

    def _loss_weights(self, stage: Stage, num_steps: int) -> dict[int, float] | None:
        until = self.multi_step_loss_until
        if not stage.training or until == 0 or num_steps == 0 or stage.step >= until:
            return None
        return multi_step_weights(num_steps, stage.step / until)

    @functools.cached_property
    def transforms(self) -> tuple[Transform, ...]:
        """The links of the update rule, in the order in which they are applied."""
        return default_chain(self) if self.inner_chain is None else named_chain(self)

    def _optimizer(self, start: Params, meta_params: Params, stage: Stage) -> InnerOptimizer:
        optimizer: InnerOptimizer = Chain(self.transforms, meta_params)
        if stage.training and self.proximal_at == "end":
            rate = Rate(self.inner_lr, self.learn_inner_lr)
            optimizer = PulledBack(
                optimizer,
                start,
                lambda name, step: rate.at(name, step, meta_params),
                self.inner_proximal,
                self._num_steps(stage),
            )
        return optimizer


def network_params(meta_params: Params) -> dict[str, Tensor]:
    """The network's share of the meta-parameters: without what the inner loop itself learns."""
    return {name: p for name, p in meta_params.items() if not is_learned(name)}


def _mini_batch(support: Examples, size: int | None, step: int) -> Examples:
    """Rows step*size .. step*size + size - 1 of the support set, around its end if need be."""
    num_rows = support.x.shape[0]
    if size is None or size >= num_rows:
        return support
    rows = torch.arange(step * size, (step + 1) * size, device=support.x.device) % num_rows
    return Examples(support.x[rows], support.y[rows])
