"""The server side of a run: the flat meta-parameter vector and its outer optimiser.

It knows a vector and an optimiser, not what either is for. Everything here and on disk is float32,
whatever the gradients' precision on their way; the arithmetic is that of `torch.optim` on one flat
parameter.

Letters: P length of the vector.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from dmeta.bilevel.flat import Layout, sha256_of
from dmeta.runtime.protocol import ApplyReport, Gradient, ServerState, Vector
from dmeta.runtime.summation import total_of
from dmeta.training.checkpoint import META_PARAMS, meta_params_of
from dmeta.training.config import OuterOptions

_OPTIMIZER = "optimizer/"


def learning_rate(options: OuterOptions, step: int, num_steps: int) -> float:
    """Outer learning rate of `step` (from 0) in a run of `num_steps`.

    ``linear``: lr + (final_lr - lr) * step / num_steps, as in Reptile's code; ``cosine``:
    Loshchilov & Hutter 2017 (arXiv:1608.03983), eq. 5, without restarts.
    """
    if options.schedule == "constant":
        return options.lr
    done = min(step / num_steps, 1.0)
    if options.schedule == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return options.lr + (options.final_lr - options.lr) * done


def _optimizer(options: OuterOptions, vector: torch.Tensor) -> torch.optim.Optimizer:
    if options.name == "adam":
        return torch.optim.Adam(
            [vector], lr=options.lr, betas=(options.beta1, options.beta2), eps=options.eps
        )
    return torch.optim.SGD([vector], lr=options.lr, momentum=options.momentum)


class OuterLoop:
    """The meta-parameters, their optimiser and the number of steps taken (a `Server`)."""

    def __init__(self, factory: OuterLoopFactory) -> None:
        self._factory = factory
        self._vector = torch.from_numpy(factory.initial.copy())
        self._optimizer = _optimizer(factory.options, self._vector)
        self._version = 0
        self._last: ApplyReport | None = None

    def vector(self) -> Vector:
        """A copy of the current meta-parameters [P]."""
        return self._vector.numpy().copy()

    def digest(self) -> str:
        """SHA-256 (hex) of names, shapes and values of the meta-parameters."""
        return sha256_of(self._factory.layout, self._vector.numpy())

    def apply(self, step: int, gradients: Sequence[Gradient], num_tasks: int) -> ApplyReport:
        """See `dmeta.runtime.protocol.Server.apply`."""
        started = time.perf_counter()
        if step == self._version - 1 and self._last is not None:
            return self._last
        assert step == self._version, f"step {step} at version {self._version}"
        lr = learning_rate(self._factory.options, step, self._factory.num_steps)
        report = ApplyReport(step, applied=False, gradient_norm=math.nan, lr=lr)
        if gradients:
            report = self._take_step(report, gradients, num_tasks)
        report = dataclasses.replace(report, seconds=time.perf_counter() - started)
        self._version, self._last = step + 1, report
        return report

    def _take_step(
        self, report: ApplyReport, gradients: Sequence[Gradient], num_tasks: int
    ) -> ApplyReport:
        total = torch.from_numpy(total_of(gradients))
        total /= num_tasks
        norm = float(torch.linalg.vector_norm(total))
        options = self._factory.options
        bound = math.inf if options.reject_norm is None else options.reject_norm
        if not math.isfinite(norm) or norm > bound:
            return dataclasses.replace(report, gradient_norm=norm)
        if options.clip_value is not None:
            total.clamp_(-options.clip_value, options.clip_value)
        if options.clip_norm is not None:
            clipped = float(torch.linalg.vector_norm(total))
            total *= min(1.0, options.clip_norm / max(clipped, 1e-12))
        self._vector.grad = total
        for group in self._optimizer.param_groups:
            group["lr"] = report.lr
        self._optimizer.step()
        return dataclasses.replace(report, applied=True, gradient_norm=norm)

    def state(self) -> ServerState:
        """The vector by the names of its parts, and the optimiser's state."""
        arrays: dict[str, npt.NDArray[np.generic]] = {
            f"{META_PARAMS}{name}": tensor.numpy().copy()
            for name, tensor in self._factory.layout.unflatten(self._vector).items()
        }
        for key, value in self._optimizer.state.get(self._vector, {}).items():
            if value is not None:
                arrays[f"{_OPTIMIZER}{key}"] = torch.as_tensor(value).numpy().copy()
        return ServerState(self._version, arrays)

    def load(self, state: ServerState) -> None:
        """See `dmeta.runtime.protocol.Server.load`."""
        self._vector = self._factory.layout.flatten(meta_params_of(state))
        self._optimizer = _optimizer(self._factory.options, self._vector)
        of_optimizer = {
            name.removeprefix(_OPTIMIZER): torch.from_numpy(array.copy())
            for name, array in state.arrays.items()
            if name.startswith(_OPTIMIZER)
        }
        if of_optimizer:
            self._optimizer.state[self._vector] = of_optimizer
        self._version, self._last = state.step, None


@dataclass(frozen=True)
class OuterLoopFactory:
    """Plain data that becomes the server.

    Attributes:
        initial: [P] float32, the meta-parameters at step 0.
        layout: names and shapes of the vector's parts.
        options: the outer optimiser.
        num_steps: length of the run, for the schedule.
    """

    initial: Vector
    layout: Layout
    options: OuterOptions
    num_steps: int

    def build(self) -> OuterLoop:
        """The server at step 0."""
        return OuterLoop(self)
