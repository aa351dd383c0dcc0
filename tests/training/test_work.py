"""What a block computes, for a method that draws random numbers of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dmeta.runtime.protocol import Block
from dmeta.training.setup import Run, prepare
from dmeta.training.work import task_seeds
from tests.conftest import tiny_config


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
    run = leo(tmp_path, runtime__plan=plan)
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
