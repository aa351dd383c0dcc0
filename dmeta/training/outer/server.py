"""The server side of a run: the flat meta-parameter vector and its outer optimiser.

It knows a vector and an optimiser, not what either is for. Everything here and on disk is float32,
whatever the gradients' precision on their way; the arithmetic is that of `torch.optim` on one flat
parameter. It acts on each element by itself, so the vector may be divided among several servers;
a norm is added up from chunks of fixed size (cut at the ends of tensors too, where it is that of a
tensor), and so has the same bits however the vector is divided.

Letters: P length of the whole vector, p of a server's part of it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from dmeta.bilevel.flat import Layout, sha256_of
from dmeta.runs.checkpoint import META_PARAMS, meta_params_of
from dmeta.runtime.messages import (
    ApplyReport,
    Gradient,
    ServerState,
    Sums,
    Vector,
)
from dmeta.runtime.reduction import total_of
from dmeta.training.outer.moving_averages import MovingAverages
from dmeta.training.outer.optimizers import make_optimizer
from dmeta.training.outer.options import OuterOptions

CHUNK = 65_536
"""Elements whose squares are added up together; a part of a vector begins at a multiple."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_VECTOR, _OPTIMIZER = "vector", "optimizer/"


def learning_rate(options: OuterOptions, step: int, num_steps: int) -> float:
    """Outer learning rate of `step` (from 0) in a run of `num_steps`.

    ``linear``: lr + (final_lr - lr) * step / num_steps, as in Reptile's code; ``cosine``:
    Loshchilov & Hutter 2017 (arXiv:1608.03983), eq. 5, without restarts. With `schedule_every` the
    rate stays as it was at the first step of every so many. In the first `warmup_steps` it is
    lr * (step + 1) / warmup_steps (Goyal et al. 2017, arXiv:1706.02677, section 2.2), and the
    schedule is that of the steps after them.
    """
    warmup = options.warmup_steps
    if step < warmup:
        return options.lr * (step + 1) / warmup
    if options.schedule == "constant":
        return options.lr
    step, num_steps = step - warmup, max(1, num_steps - warmup)
    done = min((step - step % options.schedule_every) / num_steps, 1.0)
    if options.schedule == "cosine":
        done = (1 - math.cos(math.pi * done)) / 2
    return options.lr + (options.final_lr - options.lr) * done


class OuterLoop:
    """Meta-parameters, their optimiser and the number of steps taken (a `Server`)."""

    def __init__(self, factory: OuterLoopFactory) -> None:
        self._factory = factory
        layout, first, options = factory.layout, factory.first, factory.options
        self._segments = _segments(layout, options, first, first + len(factory.initial))
        self._tensors = np.array([s.tensor for s in _segments(layout, options, 0, layout.size)])
        self._vector = torch.from_numpy(factory.initial.copy())
        self._optimizer = make_optimizer(factory.options, self._vector)
        end = first + len(factory.initial)
        self._averages = MovingAverages(layout, factory.averages, first, end)
        self._version = 0
        self._mean: torch.Tensor | None = None  # [p], that was gathered last
        self._gather_s = 0.0
        self._last: ApplyReport | None = None

    def vector(self) -> Vector:
        """A copy of the current meta-parameters [p]."""
        return self._vector.numpy().copy()

    def gather(self, gradients: Sequence[Gradient], num_tasks: int) -> Sums:
        """Two rows of sums of squares, a column a segment: before and after clipping by value.

        Empty without gradients. See `dmeta.runtime.protocol.Server.gather`.
        """
        started = time.perf_counter()
        self._mean, sums = None, np.empty((2, 0))
        if gradients:
            self._mean = torch.from_numpy(total_of(gradients))
            self._mean /= num_tasks
            self._averages.take_from(self._mean)
            before = after = self._squares()
            bound = self._factory.options.clip_value
            if bound is not None:
                self._mean.clamp_(-bound, bound)
                after = self._squares()
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
        before, after = (np.concatenate(rows) for rows in zip(*sums, strict=True))
        norm = _norm(before)
        if mean is None:
            norm = math.nan
        most = _FLOAT32_MAX if options.reject_norm is None else options.reject_norm
        is_taken = norm <= most  # NaN is not
        if mean is not None and is_taken:
            self._move(mean, after, lr)
        seconds = self._gather_s + time.perf_counter() - started
        self._version, self._last = step + 1, ApplyReport(step, is_taken, norm, lr, seconds)
        return self._last

    def _squares(self) -> Sums:
        """Sum of squares of the mean in each segment, in float64."""
        assert self._mean is not None
        values = self._mean.numpy()
        pieces = (values[own.first : own.end] for own in self._segments)
        return np.array([np.square(piece, dtype=np.float64).sum() for piece in pieces])

    def _clip_norm(self, gradient: torch.Tensor, squares: Sums) -> None:
        """Scale it down to the bound; `squares`: of all segments of the whole vector."""
        options = self._factory.options
        if options.clip_norm is None:
            return
        if options.clip_norm_over == "all":
            gradient *= _shrink(options.clip_norm, squares)
            return
        for own in self._segments:
            scale = _shrink(options.clip_norm, squares[self._tensors == own.tensor])
            gradient[own.first : own.end] *= scale

    def _move(self, gradient: torch.Tensor, squares: Sums, lr: float) -> None:
        self._clip_norm(gradient, squares)
        self._vector.grad = gradient
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        averages = self._averages.moved(self._vector)
        self._optimizer.step()
        self._averages.write(self._vector, averages)

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
        self._optimizer = make_optimizer(self._factory.options, self._vector)
        of_optimizer = {
            name.removeprefix(_OPTIMIZER): torch.from_numpy(array.copy())
            for name, array in state.arrays.items()
            if name.startswith(_OPTIMIZER)
        }
        if of_optimizer:
            self._optimizer.state[self._vector] = of_optimizer
        self._version, self._mean, self._last = state.step, None, None


class _Segment(NamedTuple):
    """A piece of a server's part: elements first to end - 1 of [p], all of one tensor if cut so."""

    first: int
    end: int
    tensor: int


def _segments(layout: Layout, options: OuterOptions, begin: int, end: int) -> list[_Segment]:
    """Chunks of elements begin to end - 1 of the whole vector.

    They are cut at the ends of tensors too, if each tensor's norm is asked for.
    """
    starts = np.cumsum([0, *(math.prod(shape) for shape in layout.shapes)])[:-1]
    cuts = {*range(begin, end, CHUNK), end}
    if options.clip_norm_over == "tensor":
        cuts |= {int(start) for start in starts if begin < start < end}
    return [
        _Segment(a - begin, b - begin, int(np.searchsorted(starts, a, side="right")) - 1)
        for a, b in itertools.pairwise(sorted(cuts))
    ]


def _norm(squares: Sums) -> float:
    """2-norm, from sums of squares."""
    return math.sqrt(math.fsum(squares))


def _shrink(bound: float, squares: Sums) -> float:
    """What to multiply with, so that the 2-norm is at most `bound`."""
    return min(1.0, bound / max(_norm(squares), 1e-12))


@dataclass(frozen=True)
class OuterLoopFactory:
    """Plain data that becomes a server (see `dmeta.runtime.protocol.ServerFactory`).

    Attributes:
        initial: [p] float32, the meta-parameters at step 0.
        layout: names and shapes of the parts of the whole vector [P].
        options: the outer optimiser.
        num_steps: length of the run, for the schedule.
        first: of a part, where it begins in the whole vector.
        averages: names of the parts that follow a moving average, and their rates; 0: constants.
    """

    initial: Vector
    layout: Layout
    options: OuterOptions
    num_steps: int
    first: int = 0
    averages: Mapping[str, float] = field(default_factory=dict)

    def build(self) -> OuterLoop:
        """The server at step 0."""
        return OuterLoop(self)

    def parts(self, num: int) -> list[OuterLoopFactory]:
        """Of neighbouring chunks, as equal as they can be; no more than there are chunks."""
        cuts = _cuts(self.layout.size, num)
        return [
            dataclasses.replace(self, initial=self.initial[first:end], first=first)
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
