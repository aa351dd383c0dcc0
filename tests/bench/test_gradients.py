"""What is measured of the meta-gradients, on small runs."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dmeta.bench.agreement import agreement_of
from dmeta.bench.figures import cost_figure
from dmeta.bench.gradients import Cost, GradientCosts, GradientsOptions, gradient_costs
from dmeta.bilevel import ESTIMATORS
from dmeta.training.setup import prepare
from tests.conftest import tiny_config


def costs_of(options: GradientsOptions, **changes: Any) -> GradientCosts:
    return gradient_costs(prepare(tiny_config("run", **changes)), options, lambda line: None)


@functools.cache
def of_maml() -> GradientCosts:
    return costs_of(GradientsOptions(inner_steps=(1, 6), repeats=2))


def row_of(costs: GradientCosts, gradient: str, steps: int) -> Cost:
    (row,) = (r for r in costs.rows if (r.gradient, r.inner_steps) == (gradient, steps))
    return row


@pytest.mark.slow
def test_every_gradient_is_measured_or_left_out_with_its_reason() -> None:
    costs = of_maml()
    measured = {row.gradient for row in costs.rows}
    assert measured | {each.gradient for each in costs.left_out} == set(ESTIMATORS)
    assert [(each.gradient, each.inner_steps) for each in costs.left_out] == [("implicit", None)]
    assert "algorithm.inner_proximal" in costs.left_out[0].reason
    assert len(costs.rows) == 2 * len(measured)
    assert all(len(row.seconds) == 2 for row in costs.rows)
    assert costs.num_tasks == 2, "those of the run's first block"


def test_checkpointed_agrees_with_exact_and_first_order_does_not() -> None:
    costs = of_maml()
    for steps in (1, 6):
        same = row_of(costs, "checkpointed", steps).agreement
        other = row_of(costs, "first_order", steps).agreement
        assert same is not None
        assert other is not None
        assert same.relative_error < 1e-12 < same.relative_error_float32 < 1e-5
        assert same.cosine == pytest.approx(1)
        assert same.norm_ratio == pytest.approx(1)
        assert other.relative_error > 0.01


def test_the_peak_stands_beside_its_prediction() -> None:
    for gradient in ("exact", "checkpointed"):
        for steps in (1, 6):
            row = row_of(of_maml(), gradient, steps)
            assert row.predicted_bytes == pytest.approx(row.peak_bytes, rel=0.05)
    assert row_of(of_maml(), "first_order", 1).predicted_bytes is None
    assert row_of(of_maml(), "exact", 6).peak_bytes > row_of(of_maml(), "exact", 1).peak_bytes


def test_a_method_without_inner_loop_has_the_gradients_that_need_none() -> None:
    costs = costs_of(
        GradientsOptions(repeats=1), task="glyphs", algorithm="protonet", model__filters=2
    )
    assert {row.gradient for row in costs.rows} == {"exact", "first_order", "annealed"}
    assert {row.inner_steps for row in costs.rows} == {0}
    assert {each.gradient for each in costs.left_out} == set(ESTIMATORS) - {
        row.gradient for row in costs.rows
    }
    assert all(
        "inner loop" in each.reason for each in costs.left_out if "disp" not in each.gradient
    )


@pytest.mark.slow
def test_what_needs_too_much_memory_is_not_computed() -> None:
    names = ("exact", "checkpointed")  # of 20 steps exact takes more than twice as much
    options = GradientsOptions(inner_steps=(20,), repeats=1, gradients=names)
    peak = row_of(costs_of(options), "exact", 20).peak_bytes
    beside = costs_of(dataclasses.replace(options, memory_limit=peak + 1))
    assert [row.gradient for row in beside.rows] == list(names)
    assert row_of(beside, "exact", 20).agreement is None, "float64 would need twice as much"
    assert row_of(beside, "checkpointed", 20).agreement is not None
    less = costs_of(dataclasses.replace(options, memory_limit=peak - 1))
    assert [row.gradient for row in less.rows] == ["checkpointed"]
    assert [(each.gradient, each.inner_steps) for each in less.left_out] == [("exact", 20)]
    assert "predicted" in less.left_out[0].reason


def test_dropout_draws_the_same_masks_for_all_that_draw_in_the_same_order() -> None:
    model = nn.Sequential(nn.Linear(1, 8), nn.Dropout(0.5), nn.Linear(8, 1))
    run = prepare(tiny_config("run"), model=model)
    options = GradientsOptions(inner_steps=(0,), repeats=1, gradients=("exact", "first_order"))
    costs = gradient_costs(run, options, lambda line: None)
    assert [row.gradient for row in costs.rows] == ["exact", "first_order"]
    for row in costs.rows:
        assert row.agreement is not None
        assert row.agreement.relative_error < 1e-12


def test_agreement_is_of_all_parameters_together() -> None:
    exact = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([[4.0]])}
    twice = {name: 2 * g for name, g in exact.items()}
    turned = {"a": torch.tensor([0.0, 5.0]), "b": torch.tensor([[0.0]])}
    found = agreement_of(twice, turned, exact)
    assert (found.cosine, found.norm_ratio, found.relative_error) == pytest.approx((1, 2, 1))
    assert found.relative_error_float32 == pytest.approx(2**0.5)


@pytest.mark.parametrize("steps", [{1}, {1, 6}])
def test_the_figure_is_written(steps: set[int], tmp_path: Path) -> None:
    rows = [row for row in of_maml().rows if row.inner_steps in steps]
    path = cost_figure(rows, "maml on sinusoid", tmp_path / "new" / "gradients.png")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"inner_steps": ()}, "bench.inner_steps must have an entry"),
        ({"inner_steps": (1, -1)}, "bench.inner_steps must be >= 0 or null, got -1"),
        ({"gradients": ("exat",)}, "did you mean 'exact'"),
        ({"repeats": 0}, "bench.repeats must be >= 1"),
        ({"num_tasks": 0}, "bench.num_tasks must be >= 1"),
        ({"memory_limit": "much"}, "bench.memory_limit must be a size"),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GradientsOptions(**changes)
