"""Predicted peaks of a block against counted ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmeta.bilevel import ESTIMATORS
from dmeta.runtime.messages import Block
from dmeta.training.autotune.memory_prediction import (
    EXACT,
    Exact,
    block_peak,
    most_inner_steps,
    predicted_peak,
    sized,
)
from dmeta.training.setup import prepare
from dmeta.training.work.worker import BlockInputs
from tests.conftest import tiny_config

CONV4 = {"task": "glyphs", "model": "conv4", "model__filters": 4}
CASES: dict[str, dict[str, Any]] = {
    "mlp": {},
    "mlp, one task at a time": {"compute__plan": "loop"},
    "mlp, inner Adam": {"algorithm__inner_optimizer": "adam"},
    "mlp, multi-step loss": {"algorithm__multi_step_loss_until": 10},
    "conv4": CONV4,
    "conv4_strided": {**CONV4, "model": "conv4_strided"},
}


def inputs_of(run_dir: Path, num_tasks: int, **changes: Any) -> tuple[BlockInputs, Any]:
    run = prepare(tiny_config(run_dir, **changes))
    block = Block("train", 0, 0, 0, num_tasks)
    (inputs,) = run.work.build("cpu").block_inputs(run.outer.initial, block)
    return inputs, run.config.compute.plan


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "gradient"),
    [
        *((name, gradient) for name in ("mlp", "conv4") for gradient in EXACT),
        ("mlp, one task at a time", "checkpointed"),
        ("mlp, inner Adam", "exact"),
        ("mlp, inner Adam", "checkpointed"),
        ("mlp, multi-step loss", "checkpointed"),
        ("conv4_strided", "exact"),
    ],
)
def test_it_foretells_large_blocks(name: str, gradient: Exact, tmp_path: Path) -> None:
    num_tasks = 8 if name.startswith("mlp") else 6
    inputs, plan = inputs_of(tmp_path, num_tasks, **CASES[name])
    for steps in (10, 20):  # the bar is 15%
        predicted = predicted_peak(gradient, plan, inputs, num_tasks, steps)
        estimator = ESTIMATORS[gradient].make()
        counted = block_peak(plan, estimator, sized(inputs, num_tasks, steps))
        assert predicted == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize("gradient", EXACT)
def test_of_a_small_block_it_is_the_count_itself(gradient: Exact, tmp_path: Path) -> None:
    inputs, plan = inputs_of(tmp_path, 2)
    counted = block_peak(plan, ESTIMATORS[gradient].make(), sized(inputs, 2, 3))
    for _ in range(2):
        assert predicted_peak(gradient, plan, inputs, 2, 3) == counted


def test_memory_of_checkpointed_grows_with_the_root_of_the_steps(tmp_path: Path) -> None:
    inputs, plan = inputs_of(tmp_path, 6)
    peaks = {
        gradient: [predicted_peak(gradient, plan, inputs, 6, steps) for steps in (1, 100)]
        for gradient in EXACT
    }
    assert peaks["exact"][1] > 30 * peaks["exact"][0]
    assert peaks["checkpointed"][1] < 4 * peaks["checkpointed"][0]


def test_memory_of_implicit_does_not_grow_with_the_steps(tmp_path: Path) -> None:
    inputs, plan = inputs_of(tmp_path, 3, algorithm="imaml")
    estimator = ESTIMATORS["implicit"].make()
    few, many = (block_peak(plan, estimator, sized(inputs, 3, steps)) for steps in (5, 40))
    assert many == few


@pytest.mark.slow
def test_the_most_inner_steps_are_those_of_the_method(tmp_path: Path) -> None:
    drawn = {"algorithm__inner_steps": 2, "algorithm__inner_steps_max": 7}
    assert most_inner_steps(inputs_of(tmp_path, 1, algorithm__inner_steps=4)[0]) == 4
    assert most_inner_steps(inputs_of(tmp_path, 1, **drawn)[0]) == 7
    embeds = {"task": "glyphs", "algorithm": "protonet"}
    assert most_inner_steps(inputs_of(tmp_path, 1, **embeds)[0]) == 0
