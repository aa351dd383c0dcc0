"""What a worker computes depends on the block alone, whatever the method."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dmeta.bilevel.compiled import CompiledBlocks
from dmeta.cli.settings.hydra_app import compose
from dmeta.runtime.blocks import blocks_of
from dmeta.runtime.messages import Block
from dmeta.runtime.reduction import widened
from dmeta.training.autotune.memory_budget import first_block_inputs
from dmeta.training.config import run_config
from dmeta.training.setup import Run, prepare
from dmeta.training.work.episodes import task_seeds
from tests.bilevel.problems import ONCE
from tests.conftest import tiny_config

NEEDED = {"cavia": ["model.context=3"]}
SMALL = {
    "regression": ["task=sinusoid", "model.hidden=8"],
    "classification": ["task=glyphs", "model=conv4_strided", "model.filters=4", "task.ways=3"],
}


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "kind"), ONCE)
def test_a_block_has_the_same_bits_on_any_worker_in_any_order(algorithm: str, kind: Any) -> None:
    overrides = [f"algorithm={algorithm}", *SMALL[kind], *NEEDED.get(algorithm, [])]
    run = prepare(run_config(compose("train", [*overrides, "compute.block_size=2"])))
    vector = run.outer.build().vector()
    blocks = blocks_of("train", 3, 5, 2)
    evaluated = blocks_of("test", 0, 5, 2, with_predictions=True)
    one = run.work.build("cpu")
    other = pickle.loads(pickle.dumps(run.work)).build("cpu")  # as it travels to another process
    first = [one.gradient(vector, block) for block in blocks]
    scores = [one.evaluate(vector, block) for block in evaluated]
    for i in (2, 0, 1, 2):
        again, result = other.evaluate(vector, evaluated[i]), other.gradient(vector, blocks[i])
        assert np.array_equal(result.gradient, first[i].gradient)
        assert result.report.sums == first[i].report.sums
        assert again.per_task.keys() == scores[i].per_task.keys()
        for name, value in again.per_task.items():
            assert np.array_equal(value, scores[i].per_task[name])
        ((mine,), (theirs,)) = again.predictions, scores[i].predictions
        for name, value in mine.arrays.items():
            assert np.array_equal(value, theirs.arrays[name])
    assert not np.array_equal(first[0].gradient, first[1].gradient)


def leo(run_dir: Path, **changes: object) -> Run:
    small = {"task__num_classes": 30, "task__drawings": 6, "task__queries": 2, "model__filters": 4}
    return prepare(tiny_config(run_dir, task="glyphs", algorithm="leo", **small, **changes))


def block(first: int, num: int, step: int = 3) -> Block:
    return Block(phase="train", step=step, index=0, first_slot=first, num_slots=num)


def test_a_tasks_seed_is_its_slots() -> None:
    together = task_seeds(0, block(2, 4)).tolist()
    assert together == [int(task_seeds(0, block(slot, 1))) for slot in range(2, 6)]
    others = [task_seeds(1, block(2, 4)), task_seeds(0, block(2, 4, step=4))]
    assert len({*together, *(int(s) for seeds in others for s in seeds)}) == 12
    assert min(together) >= 0


@pytest.mark.parametrize("plan", ["loop", "vmap"])
def test_leos_noise_does_not_depend_on_how_slots_are_cut_into_blocks(
    tmp_path: Path, plan: str
) -> None:
    run = leo(tmp_path, compute__plan=plan)
    work, vector = run.work.build("cpu"), run.outer.initial
    whole = work.gradient(vector, block(0, 3))
    parts = [work.gradient(vector, block(0, 2)), work.gradient(vector, block(2, 1))]
    again = work.gradient(vector, block(0, 3))
    assert np.array_equal(again.gradient, whole.gradient)
    difference = sum(p.gradient for p in parts) - whole.gradient
    assert np.linalg.norm(difference) < 1e-5 * np.linalg.norm(whole.gradient)
    assert sum(p.report.sums["loss"] for p in parts) == pytest.approx(whole.report.sums["loss"])
    other = work.gradient(vector, block(0, 3, step=4))
    difference = other.gradient - whole.gradient
    assert np.linalg.norm(difference) > 0.1 * np.linalg.norm(whole.gradient)


def test_leos_initial_parts_follow_the_runs_seed(tmp_path: Path) -> None:
    one, same, other = (leo(tmp_path, seed=s).algorithm.init_meta_params() for s in (1, 1, 2))
    for name in ("leo/encoder", "leo/decoder"):
        assert np.array_equal(one[name], same[name])
        assert not np.array_equal(one[name], other[name])


def test_a_gradient_travels_in_the_precision_of_the_run(tmp_path: Path) -> None:
    results = []
    for precision in ("float32", "bfloat16"):
        run = prepare(tiny_config(tmp_path, compute__gradient_precision=precision))
        work, vector = run.work.build("cpu"), run.outer.initial
        results.append(work.gradient(vector, block(0, 2)))
    whole, half = results
    assert half.gradient.nbytes == whole.gradient.nbytes // 2
    rounded = torch.from_numpy(whole.gradient).bfloat16().float()
    assert torch.equal(torch.from_numpy(widened(half.gradient)), rounded)
    assert half.report.sums == whole.report.sums


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["loop", "loop_channels_last", "loop_mixed", "vmap"])
def test_every_plan_computes_in_the_precision_of_the_run(tmp_path: Path, plan: str) -> None:
    small = {"task": "glyphs", "model": "conv4", "model__filters": 8, "task__num_classes": 30}
    results = {}
    for precision in ("float32", "tf32", "bfloat16"):
        changes = {**small, "compute__plan": plan, "compute__precision": precision}
        run = prepare(tiny_config(tmp_path, **changes))
        work, vector = run.work.build("cpu"), run.outer.initial
        results[precision] = work.gradient(vector, block(0, 2)).gradient
    exact, half = results["float32"], results["bfloat16"]
    assert np.array_equal(results["tf32"], exact), "there is none on a CPU"
    difference = np.linalg.norm(half - exact) / np.linalg.norm(exact)
    assert 1e-3 < difference < 0.2


@pytest.mark.slow
def test_a_program_is_written_down_in_the_precision_of_the_run(tmp_path: Path) -> None:
    """Not compiled: its operations are those that would be."""
    small = {"task": "glyphs", "model": "conv4", "model__filters": 8, "task__num_classes": 30}
    gradients = {}
    for precision in ("float32", "bfloat16"):
        run = prepare(tiny_config(tmp_path, **small, compute__precision=precision))
        inputs = first_block_inputs(run, 2)
        program = CompiledBlocks(run.work.estimator, inputs.algorithm, None, lambda graph: graph)
        found = program(*inputs[1:]).gradients
        gradients[precision] = run.work.layout.flatten(found)
    exact, half = gradients["float32"], gradients["bfloat16"]
    assert 1e-3 < (half - exact).norm() / exact.norm() < 0.2


def test_an_own_algorithm_that_is_ready_computes_in_the_precision_of_the_run(
    tmp_path: Path,
) -> None:
    ready = prepare(tiny_config(tmp_path)).algorithm
    for precision in ("bfloat16", "float32"):
        config = tiny_config(tmp_path, compute__precision=precision)
        made, own = prepare(config), prepare(config, algorithm=ready)
        ready = own.algorithm  # the next run is not bound by what this one asked for
        vector = made.outer.initial
        expected, got = (run.work.build("cpu").gradient(vector, block(0, 2)) for run in (made, own))
        assert np.array_equal(got.gradient, expected.gradient)


def test_a_precision_that_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"compute\.gradient_precision must be"):
        tiny_config(tmp_path, compute__gradient_precision="float16")
