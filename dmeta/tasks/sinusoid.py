"""Sinusoid regression (Finn et al. 2017, arXiv:1703.03400, sec. 5.1).

A task is one sine wave, y = amplitude * sin(frequency * x - phase); support and query points are
drawn from the same interval. It must not know who fits the wave.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from dmeta.bilevel.types import Kind
from dmeta.tasks.samplers import check_sampler, draw_shots
from dmeta.tasks.sizes import check_positive, key
from dmeta.tasks.source import DrawnTask, EpisodeSize, Sampler, Split


@dataclass(frozen=True)
class Sinusoid:
    """Sine waves of random amplitude and phase, and of random frequency if asked for.

    train, val and test are one distribution: they differ only by the generator that the caller
    passes, so give each split its own seed.

    Attributes:
        amplitude_min: smallest amplitude.
        amplitude_max: largest amplitude.
        phase_max: phases are uniform in [0, phase_max], radians.
        frequency_min: smallest frequency, radians per unit of x; Li et al. 2017 (Meta-SGD,
            arXiv:1707.09835, section 4.1) draw from 0.8 to 1.2.
        frequency_max: largest frequency.
        x_min: left end of the inputs' interval.
        x_max: right end of the inputs' interval.
    """

    amplitude_min: float = 0.1
    amplitude_max: float = 5.0
    phase_max: float = math.pi
    frequency_min: float = 1.0
    frequency_max: float = 1.0
    x_min: float = -5.0
    x_max: float = 5.0

    samplers: ClassVar[tuple[Sampler, ...]] = ("fixed", "uniform")

    def __post_init__(self) -> None:
        _check_interval("amplitude", self.amplitude_min, self.amplitude_max)
        _check_interval("x", self.x_min, self.x_max)
        if not 0 < self.frequency_min <= self.frequency_max < math.inf:
            raise ValueError(
                "frequency_min must be > 0 and <= frequency_max, both finite, got "
                f"{self.frequency_min} and {self.frequency_max}; change task.frequency_min or "
                "task.frequency_max"
            )
        if not (math.isfinite(self.phase_max) and self.phase_max >= 0):
            raise ValueError(
                f"phase_max must be finite and >= 0, got {self.phase_max}; change task.phase_max"
            )

    @property
    def kind(self) -> Kind:
        """Regression, mean squared error."""
        return "regression"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One number."""
        return (1,)

    def num_outputs(self, ways: int) -> int:  # noqa: ARG002 - the protocol's signature
        """One number, whatever the ways."""
        return 1

    def check(self, split: Split, size: EpisodeSize) -> None:
        """Raises ValueError unless ways is 1 and there is a support and a query point."""
        check_positive(split, size)
        check_sampler(split, size, self.samplers)
        if size.ways != 1:
            raise ValueError(
                f"ways must be 1 for the sinusoid (regression has no classes), got {size.ways}; "
                f"set {key(split, 'ways')} to 1"
            )

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        """One wave: shots support and queries query points, x and y [N, 1] float32."""
        self.check(split, size)
        amplitude = rng.uniform(self.amplitude_min, self.amplitude_max)
        phase = rng.uniform(0.0, self.phase_max)
        k = draw_shots(size, rng)
        x = rng.uniform(self.x_min, self.x_max, size=(k + size.queries, 1))
        # Drawn last: waves of one frequency are then those that they always were.
        frequency = rng.uniform(self.frequency_min, self.frequency_max)
        y = (amplitude * np.sin(frequency * x - phase)).astype(np.float32)
        x = x.astype(np.float32)
        return DrawnTask(x[:k].copy(), y[:k].copy(), x[k:].copy(), y[k:].copy())

    def preprocess(self, x: Tensor) -> Tensor:
        """Inputs are stored as the network sees them."""
        return x.to(torch.float32)


def _check_interval(name: str, low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(
            f"{name}_min must be < {name}_max, both finite, got {low} and {high}; "
            f"change task.{name}_min or task.{name}_max"
        )
