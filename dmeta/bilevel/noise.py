"""Random numbers of one task: a function of its seed, whatever the plan and whoever computes it.

Torch's own generators are of no use here: under ``vmap`` the tasks of a block would share one, so
that a task's numbers depended on its neighbours. Knows no method: what is drawn has a name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from dmeta.bilevel.types import Stage

Distribution: TypeAlias = Literal["normal", "uniform"]


@dataclass(frozen=True)
class Noise:
    """Draws by name; a name always gives the same numbers.

    Attributes:
        seed: [] int64 on the CPU, at least 0; None: silent, everything is its expectation.
    """

    seed: Tensor | None

    @staticmethod
    def of(stage: Stage) -> Noise:
        """The task's own in training, silent at evaluation."""
        return Noise(torch.as_tensor(stage.task_seed) if stage.training else None)

    def sample(self, mean: Tensor, std: Tensor, name: str) -> Tensor:
        """A draw from N(mean, diag(std^2)), differentiable in both; the mean if silent."""
        if self.seed is None:
            return mean
        return mean + std * self._draw("normal", mean, name)

    def dropout(self, x: Tensor, rate: float, name: str) -> Tensor:
        """Elements set to 0 with probability `rate`, the others divided by 1 - rate.

        Srivastava et al. 2014, section 10 (the scaled form); x itself if silent.
        """
        if self.seed is None or rate == 0:
            return x
        return x * (self._draw("uniform", x, name) >= rate).to(x) / (1 - rate)

    def _draw(self, distribution: Distribution, like: Tensor, name: str) -> Tensor:
        drawn: Tensor = _Draw.apply(self.seed, distribution, tuple(like.shape), name)  # type: ignore[no-untyped-call]
        return drawn.to(like)


def _draw(seed: Tensor, distribution: Distribution, shape: tuple[int, ...], name: str) -> Tensor:
    rng = np.random.default_rng([int(seed), *name.encode()])
    draw = rng.standard_normal if distribution == "normal" else rng.random
    return torch.from_numpy(np.asarray(draw(shape, dtype=np.float32)))


class _Draw(torch.autograd.Function):
    """`_draw` as a function that ``vmap`` can map: it sees the value of each seed."""

    @staticmethod
    def forward(
        seed: Tensor, distribution: Distribution, shape: tuple[int, ...], name: str
    ) -> Tensor:
        return _draw(seed, distribution, shape, name)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:  # noqa: ARG004
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, ...]:  # noqa: ARG004
        return None, None, None, None

    @staticmethod
    def vmap(
        info: Any,  # noqa: ARG004
        in_dims: tuple[Any, ...],
        seeds: Tensor,
        distribution: Distribution,
        shape: tuple[int, ...],
        name: str,
    ) -> tuple[Tensor, int]:
        rows = [_draw(seed, distribution, shape, name) for seed in seeds.unbind(in_dims[0])]
        return torch.stack(rows), 0
