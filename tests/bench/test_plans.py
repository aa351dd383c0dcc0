"""What is measured of the execution plans, on small runs; nothing is compiled for real."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from dmeta.bench import plans
from dmeta.bench.plans import PLANS, PlanCost, PlanCosts, PlansOptions, plan_costs
from dmeta.bench.plans_figure import plans_figure
from dmeta.bilevel.compiled import CompiledBlocks
from dmeta.bilevel.plans import PlanName
from dmeta.training.setup import Run, prepare
from tests.conftest import Branching, tiny_config

IMAGES = {"task": "glyphs", "task__num_classes": 50, "model": "conv4", "model__filters": 2}


@pytest.fixture(autouse=True)
def _uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written down as a program is run as it is, without the C++ compiler."""

    def as_it_is(graph: GraphModule) -> Callable[..., list[Tensor]]:
        return graph

    program_of = plans.block_program

    def program(plan: PlanName, *arguments: Any) -> Any:
        if plan == "compiled":
            return CompiledBlocks(*arguments, compile_graph=as_it_is)
        return program_of(plan, *arguments)

    monkeypatch.setattr(plans, "block_program", program)
    monkeypatch.setattr(plans, "product_rate", lambda device, dtype: 1e9)


def costs_of(run: Run, **options: Any) -> PlanCosts:
    return plan_costs(run, PlansOptions(**{"repeats": 1, **options}), lambda line: None)


def run_of(**changes: Any) -> Run:
    return prepare(tiny_config("run", **changes))


def names_of(costs: PlanCosts) -> list[tuple[str, int]]:
    return [(row.plan, row.num_tasks) for row in costs.rows]


@pytest.mark.slow
def test_every_plan_is_measured_at_every_size() -> None:
    costs = costs_of(run_of(**IMAGES), num_tasks=(3, 1, 3), repeats=2)
    assert names_of(costs) == [(plan, size) for size in (1, 3) for plan in PLANS]
    assert costs.left_out == ()
    assert (costs.device, costs.threads) == ("cpu", 1)
    for row in costs.rows:
        assert len(row.seconds) == 2
        assert (row.compile_seconds is None) == (row.plan != "compiled")
        assert (row.peak_bytes is None) == (row.plan == "compiled"), "not counted on the CPU"
        assert 0 < row.error < 1e-3  # of loop as well: its rounding
    assert costs.reference == "float64"
    peaks = {(row.plan, row.num_tasks): row.peak_bytes or 0 for row in costs.rows}
    assert peaks["vmap", 3] > 2 * peaks["loop", 3], "one task at a time needs less"


def test_the_share_is_of_what_a_product_of_matrices_does() -> None:
    """1-40-40-1, 10 + 10 points: a forward pass, the product of the weights' gradient, ..."""
    costs = costs_of(run_of(algorithm__inner_steps=0, task__shots=10), plans=("loop",))
    # The query set alone, 10 points: forward, and backward to the weights and to the inputs of all
    # layers but the first.
    widths = [(1, 40), (40, 40), (40, 1)]
    forward = sum(2 * 10 * m * n for m, n in widths)
    assert costs.operations == 3 * forward - 2 * 10 * 40
    (row,) = costs.rows
    assert costs.share(row) == pytest.approx(row.tasks_per_second * costs.operations / 1e9)


def test_a_block_is_that_of_the_run_where_no_size_is_asked_for() -> None:
    costs = costs_of(run_of(), plans=("vmap",))
    assert names_of(costs) == [("vmap", 2)]
    few = costs_of(run_of(meta_batch_size=1), plans=("vmap",))
    assert names_of(few) == [("vmap", 1)]


def test_chunks_of_the_run_are_kept() -> None:
    whole, chunked = (
        costs_of(run_of(compute__chunk_size=size), plans=("vmap",), num_tasks=(4,)).rows[0]
        for size in ("auto", 1)
    )
    assert (chunked.peak_bytes or 0) < 0.6 * (whole.peak_bytes or 0)


def test_a_gradient_that_is_another_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    program_of = plans.block_program

    def program(plan: PlanName, *arguments: Any) -> Any:
        right = program_of(plan, *arguments)
        if plan != "vmap":
            return right

        def wrong(*inputs: Any) -> Any:
            result = right(*inputs)
            twice = {name: 2 * gradient for name, gradient in result.gradients.items()}
            return result._replace(gradients=twice)

        return wrong

    monkeypatch.setattr(plans, "block_program", program)
    (row,) = costs_of(run_of(), plans=("vmap",)).rows
    assert row.error == pytest.approx(1, rel=1e-4)


def test_images_stored_channels_last_are_no_plan_without_convolutions() -> None:
    costs = costs_of(run_of(), plans=("loop", "loop_channels_last"), num_tasks=(1, 2))
    assert names_of(costs) == [("loop", 1), ("loop", 2)]
    [left_out] = costs.left_out
    assert (left_out.plan, left_out.num_tasks) == ("loop_channels_last", None)
    assert "no meta-parameter has 4 dimensions" in left_out.reason


def test_what_can_not_be_compiled_is_left_out_with_the_reason() -> None:
    costs = costs_of(run_of(algorithm="maml_pp"), plans=("vmap", "compiled"))
    assert names_of(costs) == [("vmap", 2)]
    assert [each.plan for each in costs.left_out] == ["compiled"]
    assert "does not look at the outer step" in costs.left_out[0].reason


def test_a_model_that_can_not_be_vectorised_has_the_loop() -> None:
    run = prepare(tiny_config("run", compute__plan="auto"), model=Branching())
    costs = costs_of(run)
    assert names_of(costs) == [("loop", 2)]
    reasons = {each.plan: each.reason for each in costs.left_out}
    assert reasons.keys() == {"loop_channels_last", "loop_mixed", "vmap", "compiled"}
    assert "data-dependent control flow" in reasons["vmap"]


def test_a_plan_that_fails_at_a_size_is_not_tried_at_a_larger_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    program_of, tried = plans.block_program, []

    def program(plan: PlanName, *arguments: Any) -> Any:
        right = program_of(plan, *arguments)

        def fails(params: Any, tasks: Any, *rest: Any) -> Any:
            size = len(tasks.support.x)
            tried.append(size)
            if size > 1:
                raise RuntimeError("out of memory\nand more words")
            return right(params, tasks, *rest)

        return fails if plan == "vmap" else right

    monkeypatch.setattr(plans, "block_program", program)
    costs = costs_of(run_of(), plans=("vmap", "loop"), num_tasks=(1, 2, 3))
    assert names_of(costs) == [("vmap", 1), ("loop", 1), ("loop", 2), ("loop", 3)]
    [left_out] = costs.left_out
    assert (left_out.num_tasks, left_out.reason) == (2, "out of memory")
    assert set(tried) == {1, 2}


def test_torchs_random_numbers_are_left_alone() -> None:
    before = torch.random.get_rng_state()
    costs_of(run_of(), plans=("vmap",))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_seconds_to_compile_are_those_beyond_a_usual_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = iter([(40.0,), (1.0, 3.0, 2.0), (0.5,), (1.0, 3.0, 2.0)])

    def seconds(computations: Any, repeats: int, device: str) -> dict[str, tuple[float, ...]]:
        for compute in computations.values():
            compute()
        return dict.fromkeys(computations, next(told))

    monkeypatch.setattr(plans, "seconds_in_turn", seconds)
    rows = [costs_of(run_of(), plans=("compiled",)).rows[0] for _ in range(2)]
    assert [row.compile_seconds for row in rows] == [38.0, 0.0]
    assert rows[0].median_seconds == 2.0
    assert rows[0].tasks_per_second == 1.0


@functools.cache
def rows() -> list[PlanCost]:
    return [
        PlanCost(plan, size, (0.1, 0.2), None if plan == "compiled" else size * 2**20, None, 1e-7)
        for size in (1, 4)
        for plan in PLANS
    ]


@pytest.mark.parametrize("sizes", [{1}, {1, 4}])
@pytest.mark.parametrize("names", [PLANS, ("compiled",)])
def test_the_figure_is_written(sizes: set[int], names: tuple[str, ...], tmp_path: Path) -> None:
    own = [row for row in rows() if row.num_tasks in sizes and row.plan in names]
    path = plans_figure(own, "maml on sinusoid", tmp_path / "new" / "plans.png")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_tasks": ()}, "bench.num_tasks must have an entry"),
        ({"num_tasks": (4, 0)}, "bench.num_tasks must be >= 1 or null, got 0"),
        ({"plans": ()}, "bench.plans must have an entry"),
        ({"repeats": 0}, "bench.repeats must be >= 1"),
    ],
)
def test_impossible_options_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PlansOptions(**changes)
