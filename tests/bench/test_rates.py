"""Arithmetic, counted and timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import nn

from dmeta.bench import rates
from dmeta.bench.rates import product_rate
from dmeta.training.autotune.operations import operations_of


def test_a_product_and_its_gradients_are_counted() -> None:
    left, right = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7, requires_grad=True)
    assert operations_of(lambda: left @ right) == 2 * 3 * 5 * 7
    assert operations_of(lambda: (left @ right).sum().backward()) == 3 * 2 * 3 * 5 * 7


def test_a_convolution_is_counted_by_its_outputs() -> None:
    layer = nn.Conv2d(3, 4, 3, padding=1)
    assert operations_of(lambda: layer(torch.ones(2, 3, 8, 8))) == 2 * 2 * 8 * 8 * 4 * 3 * 9


def test_the_rate_is_that_of_the_fastest_product(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str]] = []

    def seconds(
        computations: Mapping[str, Callable[[], object]], repeats: int, device: str
    ) -> dict[str, tuple[float, ...]]:
        asked.append((repeats, device))
        return dict.fromkeys(computations, (4.0, 2.0, 3.0))

    monkeypatch.setattr(rates, "seconds_in_turn", seconds)
    assert product_rate("cpu", repeats=3) == 2 * 2048**3 / 2.0
    assert asked == [(1, "cpu"), (3, "cpu")], "the first one warms up"
