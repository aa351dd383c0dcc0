"""`compute.plan`: chosen by rule (auto) or by timing the first block (measure), and kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dmeta
from dmeta.training.autotune import plan_timing, planning
from dmeta.training.autotune.planning import plan_line, planned
from dmeta.training.setup import Run, prepare
from tests.conftest import TINY, Branching, tiny_config

AUTO, MEASURE = {"compute__plan": "auto"}, {"compute__plan": "measure"}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that each plan is made to take; a plan that is not named fails the test."""
    seconds: dict[str, float] = {
        "vmap": 1.0,
        "loop": 1.0,
        "loop_channels_last": 1.0,
        "loop_mixed": 1.0,
    }
    monkeypatch.setattr(planning, "eager_seconds", lambda run, plan, *rest: seconds[plan])
    return seconds


def measured(**changes: Any) -> Run:
    return planned(prepare(tiny_config("run", **MEASURE, **changes)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"vmap": 1.0, "loop": 2.0}, "vmap"),
        ({"vmap": 1.0, "loop": 0.9}, "vmap"),  # not clearly faster
        ({"vmap": 1.0, "loop": 0.7}, "loop"),
        ({"vmap": 1.0, "loop": 0.7, "loop_channels_last": 0.6}, "loop_channels_last"),
    ],
)
def test_the_fastest_is_taken_if_it_is_clearly_faster(
    clock: dict[str, float], seconds: Mapping[str, float], expected: str
) -> None:
    clock.update(seconds)
    run = measured(task="glyphs", model__filters=2, model__blocks=1)
    assert run.config.compute.plan == run.work.plan == expected
    assert run.config.compute.chunk_size == run.work.chunk_size == 2
    line = plan_line(run)
    assert line is not None
    assert line.startswith(f"plan={expected} for blocks of 2 tasks (vmap 1 s, loop ")
    assert "compiled not timed: the run's" in line


@pytest.mark.slow
def test_images_are_no_question_without_convolutions(clock: dict[str, float]) -> None:
    choice = measured().plan
    assert choice is not None
    assert choice.seconds.keys() == {"vmap", "loop"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "words"), [(3, "s of computing would not repay it"), (5000, " s of compiling")]
)
def test_compiling_is_not_tried_where_it_would_not_be_repaid(
    clock: dict[str, float], steps: int, words: str
) -> None:
    clock.update(vmap=0.001)
    choice = measured(steps=steps).plan
    assert choice is not None
    assert choice.plan == "vmap"
    assert words in choice.left_out["compiled"]


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "expected"), [(0.5, "compiled"), (0.95, "vmap")])
def test_compiled_is_timed_where_it_would_be_repaid(
    clock: dict[str, float], monkeypatch: pytest.MonkeyPatch, seconds: float, expected: str
) -> None:
    monkeypatch.setattr(plan_timing, "_seconds", lambda program, inputs: seconds)
    monkeypatch.setattr(planning.PlanTrial, "objection", lambda *asked: None)  # nor compiled for it
    run = measured(steps=10000)
    assert run.plan is not None
    assert run.plan.seconds["compiled"] == seconds
    assert run.work.plan == expected


def test_a_method_that_can_not_be_compiled_says_why(clock: dict[str, float]) -> None:
    choice = measured(steps=10000, algorithm="maml_pp").plan
    assert choice is not None
    assert "does not look at the outer step" in choice.left_out["compiled"]


@pytest.mark.slow
@pytest.mark.parametrize("plan", [AUTO, MEASURE])
def test_a_model_that_can_not_be_vectorised_falls_back_with_a_reason(
    clock: dict[str, float], plan: Mapping[str, str]
) -> None:
    config = tiny_config("run", **plan)
    run = planned(prepare(config, model=Branching()))
    assert run.work.plan == "loop"
    line = plan_line(run)
    assert line is not None
    assert "vmap not timed: " in line
    assert "data-dependent control flow" in line
    for plan in ("vmap", "compiled"):
        with pytest.raises(ValueError, match=rf"compute.plan={plan} must have a model that .*loop"):
            prepare(tiny_config("run", compute__plan=plan), model=Branching())


def test_a_plan_that_was_asked_for_is_taken_and_nothing_is_timed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(plan_timing, "_seconds", None)
    monkeypatch.setattr(planning, "operations_of", None)
    for plan in ("loop", "loop_channels_last", "vmap"):
        run = planned(prepare(tiny_config("run", compute__plan=plan)))
        assert run.work.plan == plan
        assert run.plan is not None
        assert not run.plan.seconds
        assert plan_line(run) is None or plan != "loop"


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["vmap", "measure"])
def test_a_block_is_cut_where_the_memory_does_not_hold_it(
    monkeypatch: pytest.MonkeyPatch, clock: dict[str, float], plan: str
) -> None:
    def at_once(limit: float) -> Run:
        if plan == "measure":  # half of what is free
            monkeypatch.setattr(planning, "available_memory_bytes", lambda: 2 * limit)
        else:
            monkeypatch.setattr(planning, "available_memory_bytes", lambda: 1e12)
            monkeypatch.setitem(planning._AT_ONCE_BYTES, "cpu", limit)
        sizes = {"compute__block_size": 5, "meta_batch_size": 5}
        return planned(prepare(tiny_config("run", compute__plan=plan, **sizes)))

    whole = at_once(1e12)
    assert whole.work.chunk_size == 5
    assert at_once(1.0).work.chunk_size == 1
    inputs = planning.first_block_inputs(whole)
    few = planning.sized(inputs, 3, 1)
    # The first count of a run has what is made once, the network's copy for this thread.
    peak = min(planning.block_peak("vmap", whole.work.estimator, few) for _ in range(2))
    assert at_once(peak).work.chunk_size == 3
    assert at_once(peak - 1).work.chunk_size == 2


@pytest.mark.slow
@pytest.mark.parametrize(("limit", "expected"), [(1e9, "vmap"), (1.0, "loop")])
def test_auto_follows_a_rule_and_reads_no_clock(
    monkeypatch: pytest.MonkeyPatch, limit: float, expected: str
) -> None:
    monkeypatch.setattr(plan_timing, "_seconds", None)
    monkeypatch.setattr(planning, "LOOP_FROM_OPERATIONS", limit)
    monkeypatch.setattr(planning, "_memory_limit", lambda inputs, seat: 1e12)
    run = planned(prepare(tiny_config("run", **AUTO)))
    assert run.work.plan == expected
    assert run.plan is not None
    assert not run.plan.seconds
    # Of the forward and the backward pass of the tiny network: counted, the same every time.
    again = planned(prepare(tiny_config("run", **AUTO))).plan
    assert again is not None
    assert run.plan.operations == again.operations
    assert (run.plan.operations or 0) > 1000
    line = plan_line(run)
    assert line is not None
    assert "million operations a task" in line


def test_a_gpu_maps_over_tasks_however_large_they_are() -> None:
    many = planning.LOOP_FROM_OPERATIONS
    assert planning._preferred("cuda", many) == ["vmap", "loop"]
    assert planning._preferred("cpu", many) == ["loop", "vmap"]
    assert planning._preferred("cpu", many - 1) == ["vmap", "loop"]


@pytest.mark.slow
def test_chunks_change_a_result_by_rounding_alone(tmp_path: Path) -> None:
    same = TINY | {"eval.every": 0, "compute.block_size": 5}
    losses = []
    for size in (2, 5):
        result = dmeta.train(
            same | {"run_dir": str(tmp_path / f"{size}"), "compute.chunk_size": size}
        )
        losses.append(result.test.value)
        assert result.summary["plan"]["chunk_size"] == size
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


@pytest.mark.slow
def test_what_was_chosen_is_kept_when_the_run_is_resumed(
    tmp_path: Path, clock: dict[str, float]
) -> None:
    clock.update(loop=0.1)
    asked = TINY | {"compute.plan": "measure", "run_dir": str(tmp_path / "run"), "eval.every": 0}
    first = dmeta.train(asked | {"steps": 2})
    assert first.summary["plan"]["plan"] == "loop"
    assert first.summary["plan"]["seconds"] == {"vmap": 1.0, "loop": 0.1}
    saved = json.loads((tmp_path / "run" / "config.json").read_text())["settings"]["compute"]
    assert (saved["plan"], saved["chunk_size"]) == ("loop", 2)
    clock.update(loop=10.0)
    for again in (asked, {"run_dir": asked["run_dir"]}):
        longer = dmeta.train(again | {"resume": True, "steps": 4})
        assert longer.summary["settings"]["compute"]["plan"] == "loop"
    with pytest.raises(ValueError, match=r"different: compute.plan"):
        dmeta.train({"run_dir": asked["run_dir"], "resume": True, "compute.plan": "vmap"})


def test_seconds_are_the_least_of_a_few_and_leave_torchs_random_numbers_alone() -> None:
    run = prepare(tiny_config("run"))
    inputs, calls = planning.first_block_inputs(run), []

    def program(*given: Any) -> Any:
        calls.append(given)
        torch.rand(3)

    before = torch.random.get_rng_state()
    assert 0 <= plan_timing._seconds(program, inputs) < 1
    assert len(calls) == 6
    assert torch.equal(torch.random.get_rng_state(), before)
