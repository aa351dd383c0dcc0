"""Random numbers of one task, as functions of its seed and their purpose.

A counter-based generator (as Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"):
element i of a draw is a hash of (seed, name, i), computed with tensor operations. So the numbers do
not depend on the execution plan, on the chunk size, on the other tasks of a block or on how often a
step is computed again, and under ``vmap`` or in a compiled program each task has its own. Torch's
generators cannot do that: under ``vmap`` the tasks of a block share one.

The hash is Wellons' lowbias32 (github.com/skeeto/hash-prospector), keyed twice.

What runs a task says whose numbers are drawn, and for what (`task_numbers`, `numbers_for`);
what draws (random layers of a network) asks `drawn_for`. Knows no method and no network.
"""

from __future__ import annotations

import contextlib
import math
import threading
import zlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_TWO_TO_32 = 2**32


@dataclass(frozen=True)
class Purpose:
    """What random numbers are drawn for.

    Attributes:
        seed: of the task: at least 0, or a tensor [] int64.
        place: where in the computation of the task: ``step 3`` of the inner loop, ``query 0``, ...
    """

    seed: int | Tensor
    place: str


_NO_TASK = Purpose(0, "")
_PURPOSE: ContextVar[Purpose] = ContextVar("purpose", default=_NO_TASK)


def drawn_for() -> Purpose:
    """The task and the place in its computation that the caller draws for."""
    return _PURPOSE.get()


@contextlib.contextmanager
def task_numbers(seed: int | Tensor) -> Iterator[None]:
    """Within the context, this thread draws for the task with this seed."""
    token = _PURPOSE.set(Purpose(seed, ""))
    try:
        yield
    finally:
        _PURPOSE.reset(token)


@contextlib.contextmanager
def numbers_for(place: str) -> Iterator[None]:
    """Within the context, this thread draws for a place in the same task's computation."""
    token = _PURPOSE.set(Purpose(_PURPOSE.get().seed, place))
    try:
        yield
    finally:
        _PURPOSE.reset(token)


def random_bits(
    seed: int | Tensor, name: str, shape: torch.Size | tuple[int, ...], device: torch.device
) -> Tensor:
    """Integers in 0 .. 2^32 - 1, all equally likely: [*shape] int64.

    Args:
        seed: at least 0, or a tensor [] int64 on any device.
        name: draws of different names are independent.
        shape: of the draw.
        device: where the numbers are wanted.
    """
    start = torch.as_tensor(seed, dtype=torch.int64).to(device)
    key = _mixed(_mixed((start ^ (start >> 32)) & _MASK) ^ zlib.crc32(name.encode()))
    elements = torch.arange(math.prod(shape), device=device).reshape(shape)
    return _mixed((_mixed(elements ^ key) + _mixed(key ^ 0x9E3779B9)) & _MASK)


def random_uniform(
    seed: int | Tensor, name: str, shape: torch.Size | tuple[int, ...], device: torch.device
) -> Tensor:
    """Uniform in [0, 1), multiples of 2^-24: [*shape] float32. Arguments: see `random_bits`."""
    return (random_bits(seed, name, shape, device) >> 8).float() * 2.0**-24


def random_normal(
    seed: int | Tensor, name: str, shape: torch.Size | tuple[int, ...], device: torch.device
) -> Tensor:
    """Standard normal: [*shape] float32 (Box & Muller 1958). Arguments: see `random_bits`."""
    radius = (-2 * torch.log(1 - random_uniform(seed, f"{name}/radius", shape, device))).sqrt()
    angle = 2 * math.pi * random_uniform(seed, f"{name}/angle", shape, device)
    return radius * torch.cos(angle)


def keep_mask(
    seed: int | Tensor,
    name: str,
    shape: torch.Size | tuple[int, ...],
    rate: float,
    device: torch.device,
) -> Tensor:
    """[*shape] bool, False with probability `rate`. Other arguments: see `random_bits`."""
    return random_bits(seed, name, shape, device) >= round(rate * _TWO_TO_32)


def random_order(seed: int | Tensor, name: str, size: int, device: torch.device) -> Tensor:
    """0 .. size - 1 in random order: [size] int64. Other arguments: see `random_bits`."""
    return random_bits(seed, name, (size,), device).argsort(stable=True)


_GENERATOR = threading.RLock()


@contextlib.contextmanager
def seeded_generator(part: str, device: torch.device) -> Iterator[None]:
    """Torch's generators as functions of the task and the place in its computation.

    For what draws from them all the same. They belong to the whole process, so only one thread at a
    time is within the context; they are restored afterwards.

    Args:
        part: of the computation at this place; others draw other numbers.
        device: whose generator is seeded, besides the CPU's.
    """
    purpose = drawn_for()
    own = zlib.crc32(f"{int(purpose.seed)}/{purpose.place}/{part}".encode())
    with _GENERATOR:
        if device.type == "cuda":
            with torch.random.fork_rng(devices=[device]):
                torch.manual_seed(own)
                yield
            return
        # Without torch.manual_seed, which would note a stack trace for devices that are not there.
        before = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(own)
            yield
        finally:
            torch.set_rng_state(before)


def _mixed(h: Tensor) -> Tensor:
    """A bijection of 0 .. 2^32 - 1; no product leaves int64."""
    h = h ^ (h >> 16)
    h = (h * 0x7FEB352D) & _MASK
    h = h ^ (h >> 15)
    h = (h * (0x846CA68B - _TWO_TO_32)) & _MASK  # the same factor modulo 2^32, below 2^31 in size
    return h ^ (h >> 16)


@dataclass(frozen=True)
class Noise:
    """What a method draws for one task, by name; a name always gives the same numbers.

    Attributes:
        seed: of the task, [] int64, at least 0; None: silent, everything is its expectation.
    """

    seed: Tensor | None

    def sample(self, mean: Tensor, std: Tensor, name: str) -> Tensor:
        """A draw from N(mean, diag(std^2)), differentiable in both; the mean if silent."""
        if self.seed is None:
            return mean
        return mean + std * random_normal(self.seed, name, mean.shape, mean.device).to(mean)

    def dropout(self, x: Tensor, rate: float, name: str) -> Tensor:
        """Elements set to 0 with probability `rate`, the others divided by 1 - rate.

        Srivastava et al. 2014, section 10 (the scaled form); x itself if silent.
        """
        if self.seed is None or rate == 0:
            return x
        return x * keep_mask(self.seed, name, x.shape, rate, x.device).to(x) / (1 - rate)
