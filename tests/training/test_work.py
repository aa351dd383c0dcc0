"""What a worker computes depends on the block alone, whatever the method."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.algorithm import kinds
from dmeta.commands.hydra_app import compose
from dmeta.runtime.blocks import blocks_of
from dmeta.training.config import run_config
from dmeta.training.setup import prepare

NEEDED = {"cavia": ["model.context=3"]}
SMALL = {
    "regression": ["task=sinusoid", "model.hidden=8"],
    "classification": ["task=glyphs", "model=conv4_strided", "model.filters=4", "task.ways=3"],
}


@pytest.mark.parametrize(
    ("algorithm", "kind"), [(a, k) for a in ALGORITHMS for k in kinds(ALGORITHMS[a].make)]
)
def test_a_block_has_the_same_bits_on_any_worker_in_any_order(algorithm: str, kind: Any) -> None:
    overrides = [f"algorithm={algorithm}", *SMALL[kind], *NEEDED.get(algorithm, [])]
    run = prepare(run_config(compose("train", [*overrides, "runtime.block_size=2"])))
    vector = run.outer.build().vector()
    blocks = blocks_of("train", 3, 5, 2)
    evaluated = blocks_of("test", 0, 5, 2, with_predictions=True)
    one, other = run.work.build("cpu"), run.work.build("cpu")
    first = [one.gradient(vector, block) for block in blocks]
    scores = [one.evaluate(vector, block) for block in evaluated]
    for i in (2, 0, 1, 2):
        again, result = other.evaluate(vector, evaluated[i]), other.gradient(vector, blocks[i])
        assert np.array_equal(result.gradient, first[i].gradient)
        assert result.report.sums == first[i].report.sums
        assert again.per_task.keys() == scores[i].per_task.keys()
        for name, value in again.per_task.items():
            assert np.array_equal(value, scores[i].per_task[name])
    assert not np.array_equal(first[0].gradient, first[1].gradient)
