"""The server side of a run: the flat meta-parameter vector and its outer optimiser.

It knows a vector and an optimiser, not what either is for. Everything here and on disk is float32,
whatever the gradients' precision on their way; the arithmetic is that of `torch.optim` on one flat
parameter. It acts on each element by itself, so the vector may be divided among several servers;
what concerns all of it, a norm, is added up from chunks of fixed size, and so has the same bits
however it is divided.

Letters: P length of the whole vector, p of a server's part of it.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from dmeta.bilevel.flat import Layout, sha256_of
from dmeta.runtime.protocol import ApplyReport, Gradient, ServerState, Sums, Vector
from dmeta.runtime.summation import total_of
from dmeta.training.checkpoint import META_PARAMS, meta_params_of
from dmeta.training.config import OuterOptions

CHUNK = 65_536
"""Elements whose squares are added up together; a part of a vector begins at a multiple."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_VECTOR, _OPTIMIZER = "vector", "optimizer/"


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
    """Meta-parameters, their optimiser and the number of steps taken (a `Server`)."""

    def __init__(self, factory: OuterLoopFactory) -> None:
        self._factory = factory
        self._vector = torch.from_numpy(factory.initial.copy())
        self._optimizer = _optimizer(factory.options, self._vector)
        self._version = 0
        self._mean: torch.Tensor | None = None  # [p], that was gathered last
        self._gather_s = 0.0
        self._last: ApplyReport | None = None

    def vector(self) -> Vector:
        """A copy of the current meta-parameters [p]."""
        return self._vector.numpy().copy()

    def gather(self, gradients: Sequence[Gradient], num_tasks: int) -> Sums:
        """Two rows of sums of squares, a column for each chunk: before and after clipping by value.

        Empty without gradients. See `dmeta.runtime.protocol.Server.gather`.
        """
        started = time.perf_counter()
        self._mean, sums = None, np.empty((2, 0))
        if gradients:
            self._mean = torch.from_numpy(total_of(gradients))
            self._mean /= num_tasks
            before = after = _squares(self._mean)
            bound = self._factory.options.clip_value
            if bound is not None:
                self._mean.clamp_(-bound, bound)
                after = _squares(self._mean)
            sums = np.stack([before, after])
        self._gather_s = time.perf_counter() - started
        return sums

    def commit(self, step: int, sums: Sequence[Sums]) -> ApplyReport:
        """See `dmeta.runtime.protocol.Server.commit`."""
        started = time.perf_counter()
        mean, self._mean = self._mean, None
        if step == self._version - 1 and self._last is not None:
            return self._last
        assert step == self._version, f"step {step} at version {self._version}"
        options = self._factory.options
        lr = learning_rate(options, step, self._factory.num_steps)
        norm, clipped = (_norm(rows) for rows in zip(*sums, strict=True))
        if mean is None:
            norm = math.nan
        most = _FLOAT32_MAX if options.reject_norm is None else options.reject_norm
        is_taken = norm <= most  # NaN is not
        if mean is not None and is_taken:
            self._move(mean, clipped, lr)
        seconds = self._gather_s + time.perf_counter() - started
        self._version, self._last = step + 1, ApplyReport(step, is_taken, norm, lr, seconds)
        return self._last

    def _move(self, gradient: torch.Tensor, norm: float, lr: float) -> None:
        clip = self._factory.options.clip_norm
        if clip is not None:
            gradient *= min(1.0, clip / max(norm, 1e-12))
        self._vector.grad = gradient
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()

    def state(self) -> ServerState:
        """The vector [p] and the optimiser's state: [p] each, or one number of all elements."""
        arrays: dict[str, npt.NDArray[np.generic]] = {_VECTOR: self.vector()}
        for key, value in self._optimizer.state.get(self._vector, {}).items():
            if value is not None:
                arrays[f"{_OPTIMIZER}{key}"] = torch.as_tensor(value).numpy().copy()
        return ServerState(self._version, arrays)

    def load(self, state: ServerState) -> None:
        """See `dmeta.runtime.protocol.Server.load`."""
        self._vector = torch.from_numpy(state.arrays[_VECTOR].copy())
        self._optimizer = _optimizer(self._factory.options, self._vector)
        of_optimizer = {
            name.removeprefix(_OPTIMIZER): torch.from_numpy(array.copy())
            for name, array in state.arrays.items()
            if name.startswith(_OPTIMIZER)
        }
        if of_optimizer:
            self._optimizer.state[self._vector] = of_optimizer
        self._version, self._mean, self._last = state.step, None, None


def _squares(vector: torch.Tensor) -> Sums:
    """Sum of squares of each chunk, in float64."""
    values = vector.numpy()
    chunks = (values[first : first + CHUNK] for first in range(0, len(values), CHUNK))
    return np.array([np.square(chunk, dtype=np.float64).sum() for chunk in chunks])


def _norm(rows: Sequence[npt.NDArray[np.float64]]) -> float:
    """2-norm, from the sums of squares of all chunks, in whatever rows they come."""
    return math.sqrt(math.fsum(np.concatenate(rows)))


@dataclass(frozen=True)
class OuterLoopFactory:
    """Plain data that becomes a server (see `dmeta.runtime.protocol.ServerFactory`).

    Attributes:
        initial: [p] float32, the meta-parameters at step 0.
        layout: names and shapes of the parts of the whole vector [P].
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

    def parts(self, num: int) -> list[OuterLoopFactory]:
        """Of neighbouring chunks, as equal as they can be; no more than there are chunks."""
        cuts = _cuts(self.layout.size, num)
        return [
            OuterLoopFactory(self.initial[first:end], self.layout, self.options, self.num_steps)
            for first, end in itertools.pairwise(cuts)
        ]

    def joined(self, parts: Sequence[ServerState]) -> ServerState:
        """Meta-parameters by their names, the optimiser's state by its keys."""
        first = parts[0]
        whole = {
            name: array if array.ndim == 0 else np.concatenate([p.arrays[name] for p in parts])
            for name, array in first.arrays.items()
        }
        vector = torch.from_numpy(whole.pop(_VECTOR))
        named = self.layout.unflatten(vector)
        return ServerState(
            first.step, {f"{META_PARAMS}{name}": p.numpy() for name, p in named.items()} | whole
        )

    def divided(self, state: ServerState, num: int) -> list[ServerState]:
        """What `joined` joins."""
        of_optimizer = {n: a for n, a in state.arrays.items() if n.startswith(_OPTIMIZER)}
        vector = self.layout.flatten(meta_params_of(state)).numpy()
        whole = {_VECTOR: vector, **of_optimizer}
        return [
            ServerState(
                state.step, {n: a if a.ndim == 0 else a[first:end] for n, a in whole.items()}
            )
            for first, end in itertools.pairwise(_cuts(self.layout.size, num))
        ]

    def digest(self, pieces: Sequence[Vector]) -> str:
        """SHA-256 (hex) of names, shapes and values of the meta-parameters."""
        return sha256_of(self.layout, *pieces)


def _cuts(size: int, num: int) -> list[int]:
    """Where a vector is cut into `num` parts or fewer, its ends included."""
    num_chunks = max(1, math.ceil(size / CHUNK))
    num = min(num, num_chunks)
    return [min(size, CHUNK * (num_chunks * part // num)) for part in range(num + 1)]
