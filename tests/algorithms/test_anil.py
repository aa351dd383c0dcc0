"""ANIL: what the inner loop leaves as it is is computed once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from dmeta.bilevel import ESTIMATORS
from dmeta.bilevel.plans import block_gradient
from dmeta.models.network import Network
from tests.bilevel.problems import TRAINING, flat, problem, relative_error


def convolutions_of(at: Any, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many convolutions one task's loss takes."""
    calls = []
    forward = nn.Conv2d.forward

    def counted(self: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
        calls.append(self)
        return forward(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(nn.Conv2d, "forward", counted)
        tasks = type(at.tasks)(*(type(p)(p.x[:1], p.y[:1]) for p in at.tasks))
        block_gradient("loop", ESTIMATORS["exact"].make(), at.algorithm, at.params, tasks, TRAINING)
    return len(calls)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 2 + 2),  # two layers, of the support and of the query set
        ({"adapt": ["head.*", "block2.*"]}, 1 + 5 + 2),
        ({"inner_batch_size": 3}, 5 * 2 + 2),  # batch statistics are those of a mini-batch
        ({"adapt": "all"}, 5 * 2 + 2),
    ],
)
def test_what_does_not_change_is_computed_once(
    options: dict[str, Any], expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = problem("conv4", algorithm="anil", **({"inner_steps": 5} | options))
    assert convolutions_of(at, monkeypatch) == expected


@pytest.mark.parametrize("gradient", ["exact", "first_order", "checkpointed", "finite_difference"])
@pytest.mark.parametrize("plan", ["loop", "vmap"])
def test_that_changes_nothing(plan: Any, gradient: str, monkeypatch: pytest.MonkeyPatch) -> None:
    at = problem("conv4", algorithm="anil", inner_steps=3)

    def gradients() -> torch.Tensor:
        estimator = ESTIMATORS[gradient].make()
        return flat(
            block_gradient(plan, estimator, at.algorithm, at.params, at.tasks, TRAINING).gradients
        )

    cut = gradients()
    monkeypatch.setattr(Network, "cut_before", lambda *_: None)
    assert relative_error(cut, gradients()) < (1e-7 if gradient == "finite_difference" else 1e-12)
