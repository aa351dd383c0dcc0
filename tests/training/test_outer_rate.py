"""The outer rate: its warm-up and its schedules."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from dmeta.training.outer.options import OuterOptions
from dmeta.training.outer.server import learning_rate


def test_the_rate_rises_linearly_and_then_follows_its_schedule() -> None:
    options = OuterOptions(lr=0.4, final_lr=0.1, schedule="linear", warmup_steps=4)
    rates = [learning_rate(options, step, 10) for step in range(10)]
    np.testing.assert_allclose(rates[:4], [0.1, 0.2, 0.3, 0.4])
    after = dataclasses.replace(options, warmup_steps=0)
    assert rates[4:] == [learning_rate(after, step, 6) for step in range(6)]


def test_a_schedule_of_epochs_keeps_the_rate_of_their_first_step() -> None:
    options = OuterOptions(lr=1e-3, final_lr=1e-5, schedule="cosine", schedule_every=500)
    rates = [learning_rate(options, step, 50_000) for step in range(0, 50_000, 100)]
    parameter = torch.nn.Parameter(torch.zeros(1))
    adam = torch.optim.Adam([parameter], lr=1e-3)
    epochs = torch.optim.lr_scheduler.CosineAnnealingLR(adam, T_max=100, eta_min=1e-5)
    expected = []
    for _ in range(100):
        expected += 5 * epochs.get_last_lr()
        adam.step()
        epochs.step()
    assert rates == pytest.approx(expected)
    each = dataclasses.replace(options, schedule_every=1)
    assert learning_rate(each, 499, 50_000) < learning_rate(options, 499, 50_000) == 1e-3


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ("constant", [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]),
        ("linear", [0.5, 0.4, 0.3, 0.2, 0.1, 0.1]),
        ("cosine", [0.5, 0.1 + 0.2 * (1 + 0.5**0.5), 0.3, 0.1 + 0.2 * (1 - 0.5**0.5), 0.1, 0.1]),
    ],
)
def test_schedules_go_from_lr_to_final_lr_and_stay(schedule: Any, rates: list[float]) -> None:
    options = OuterOptions(lr=0.5, final_lr=0.1, schedule=schedule)
    got = [learning_rate(options, step, 8) for step in (0, 2, 4, 6, 8, 12)]
    assert got == pytest.approx(rates)
