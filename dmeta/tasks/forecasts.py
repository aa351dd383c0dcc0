"""Few-shot forecasting: a task is one series, its windows of the past, and what came next.

What the numbers measure is unknown here.

Letters: G series, V series of a split, M values of all series, H values of a history, F values of a
horizon, K shots, Q queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmeta.bilevel.types import Kind
from dmeta.tasks.classes import IntArray
from dmeta.tasks.samplers import check_sampler
from dmeta.tasks.sizes import check_positive, key
from dmeta.tasks.source import SPLITS, DrawnTask, EpisodeSize, Split

FloatArray = npt.NDArray[np.float64]


@final
@dataclass(frozen=True, eq=False, repr=False)
class Forecasts:
    """Series, which of them each split has, and until when they are known.

    A task has a time, "now". Its query set are the last Q windows: the newest one is to be
    forecast from `now` on, the others one horizon earlier each. Its support set are the K newest
    windows, at steps of a season, whose values all lie before those to be forecast. In training
    `now` is drawn at random; a validation or test task forecasts the end of the series.

    Attributes:
        values: [M]; series g is values[starts[g]:starts[g + 1]].
        series_names: of the G series.
        starts: [G + 1] int64 offsets into values.
        splits: split -> [V] int64 series.
        ends: split -> [G] int64: values of each series that a task of the split may see or be asked
            for.
        history: H.
        horizon: F.
        season: values of a season; 1: none.
        sha256: of the files that they were read from; None: of none.
    """

    values: FloatArray
    series_names: tuple[str, ...]
    starts: IntArray
    splits: Mapping[Split, IntArray]
    ends: Mapping[Split, IntArray]
    history: int
    horizon: int
    season: int
    sha256: str | None = None

    metrics: ClassVar[tuple[str, ...]] = ("smape", "mase")

    def __repr__(self) -> str:
        counts = ", ".join(f"{len(self.splits[split]):,} {split}" for split in SPLITS)
        return f"Forecasts({len(self.values):,} values, {self.history} -> {self.horizon}, series: {counts})"  # noqa: E501  # fmt: skip

    @property
    def kind(self) -> Kind:
        """Regression."""
        return "regression"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(H,)."""
        return (self.history,)

    def num_outputs(self, ways: int) -> int:  # noqa: ARG002 - the protocol's signature
        """F."""
        return self.horizon

    def check(self, split: Split, size: EpisodeSize) -> None:
        """Raises ValueError if the split has no series, or one of them is too short."""
        check_positive(split, size)
        check_sampler(split, size, ("fixed",))
        if size.ways != 1:
            raise ValueError(
                f"ways must be 1 for a forecast, got {size.ways}; set {key(split, 'ways')} to 1"
            )
        own = self.splits[split]
        if not len(own):
            raise ValueError(
                f"split {split!r} must have series, got none; change task.split_ratio"
                + ("" if split != "val" else ", or train without validation (eval.every=0)")
            )
        ends, needed = self.ends[split][own], self._least_now(size) + self.horizon
        least = int(np.argmin(ends))
        if needed > ends[least]:
            raise ValueError(
                f"a series must have {needed} values in split {split!r} for {size.shots} shots and "
                f"{size.queries} queries, got {ends[least]} (series "
                f"{self.series_names[own[least]]!r}); lower {key(split, 'shots')}, task.history or "
                "task.season"
            )

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        """A series, all equally likely, at its end or, in training, at a time before it.

        All values are in units of the mean error, until now, of repeating each after a season: so
        the mean absolute error is the MASE (Hyndman & Koehler 2006). The sMAPE is the same in any
        unit.
        """
        self.check(split, size)
        series = int(rng.choice(self.splits[split]))
        now = int(self.ends[split][series]) - self.horizon
        if split == "train":
            now = int(rng.integers(self._least_now(size), now + 1))
        own = self.values[self.starts[series] : self.starts[series] + now + self.horizon]
        own = own / self._seasonal_error(own[:now])
        query = now - self.horizon * np.arange(size.queries)
        support = query[-1] - self.horizon - self.season * np.arange(size.shots)
        (x, y), (query_x, query_y) = (
            self._windows(own, origins) for origins in (rng.permutation(support), query)
        )
        return DrawnTask(x, y, query_x, query_y)

    def preprocess(self, x: Tensor) -> Tensor:
        """As they are: [..., H] float32."""
        return x.to(torch.float32)

    def _least_now(self, size: EpisodeSize) -> int:
        """The earliest time at which a task has its windows, and a season before it."""
        before = self.season * (size.shots - 1) + self.history + self.horizon * size.queries
        return max(before, self.season + 1)

    def _seasonal_error(self, past: FloatArray) -> float:
        """Mean absolute difference over a season; 1 instead of 0."""
        return float(np.abs(past[self.season :] - past[: -self.season]).mean()) or 1.0

    def _windows(
        self, own: FloatArray, origins: IntArray
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """[n, H] histories before the origins and [n, F] values from them on."""
        before = own[origins[:, None] + np.arange(-self.history, 0)]
        after = own[origins[:, None] + np.arange(self.horizon)]
        return before.astype(np.float32), after.astype(np.float32)
