"""`gradient.memory_budget` chooses between the two exact gradients, once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

import dmeta
from dmeta.bilevel.estimators import Checkpointed, exact
from dmeta.training.autotune.memory_budget import memory_line, within_budget
from dmeta.training.setup import Run, prepare
from tests.conftest import TINY, tiny_config

# A block of 2 tasks with so many steps takes twice as much exact as it takes checkpointed.
LONG = {"algorithm__inner_steps": 20, "meta_batch_size": 2}


def chosen(budget: Any, **changes: Any) -> Run:
    return within_budget(
        prepare(tiny_config("run", gradient__memory_budget=budget, **(LONG | changes)))
    )


@pytest.fixture(scope="module")
def peaks() -> dict[str, int]:
    """Bytes of a block of each exact gradient."""
    both = {}
    for gradient in ("exact", "checkpointed"):
        config = tiny_config("run", gradient__memory_budget="1GB", **LONG)
        config = dataclasses.replace(
            config, gradient=dataclasses.replace(config.gradient, name=gradient)
        )
        memory = within_budget(prepare(config)).memory
        assert memory is not None
        both[gradient] = memory.measured
    return both


@pytest.mark.slow
def test_the_choice_flips_at_the_peak_of_exact(peaks: dict[str, int]) -> None:
    assert peaks["checkpointed"] < peaks["exact"] // 2
    fits = chosen(peaks["exact"])
    assert (fits.config.gradient.name, fits.work.estimator) == ("exact", exact)
    tight = chosen(peaks["exact"] - 1)
    assert (tight.config.gradient.name, tight.work.estimator) == ("checkpointed", Checkpointed())
    least = chosen(peaks["checkpointed"])
    assert least.config.gradient.name == "checkpointed"
    with pytest.raises(ValueError, match="; lower compute") as refused:
        chosen(peaks["checkpointed"] - 1)
    for words in ("exact: predicted ", "checkpointed: predicted ", "lower algorithm.inner_steps"):
        assert words in str(refused.value)


@pytest.mark.slow
def test_what_was_predicted_is_told_beside_what_was_measured(peaks: dict[str, int]) -> None:
    line = memory_line(chosen(peaks["exact"] - 1))
    assert line is not None
    for words in ("gradient=checkpointed: predicted ", "measured ", "budget ", "exact: predicted"):
        assert words in line
    assert memory_line(chosen(None)) is None


def test_without_a_budget_nothing_is_measured() -> None:
    run = prepare(tiny_config("run"))
    assert within_budget(run) is run


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"task": "glyphs", "algorithm": "protonet"}, {}])
def test_methods_without_inner_steps_have_a_budget_too(changes: dict[str, Any]) -> None:
    steps = {} if changes else {"algorithm__inner_steps": 0}
    config = tiny_config("run", gradient__memory_budget="1GB", **changes, **steps)
    assert within_budget(prepare(config)).config.gradient.name == "exact"


@pytest.mark.slow
def test_the_choice_decides_the_result_and_the_budget_does_not(peaks: dict[str, int]) -> None:
    without = tiny_config("run", **LONG).fingerprint()
    assert chosen(peaks["exact"]).config.fingerprint() == without
    tight = {
        chosen(peaks[g] - d).config.fingerprint() for g, d in (("exact", 1), ("checkpointed", 0))
    }
    assert len(tight) == 1
    assert without not in tight


@pytest.mark.slow
def test_a_resumed_run_keeps_its_choice(tmp_path: Path, peaks: dict[str, int]) -> None:
    asked = TINY | {key.replace("__", "."): value for key, value in LONG.items()}
    asked |= {"run_dir": str(tmp_path / "run"), "steps": 2, "eval.every": 0}
    tight = {"gradient.memory_budget": peaks["exact"] - 1}
    first = dmeta.train(asked | tight)
    assert first.summary["gradient"] == "checkpointed"
    assert first.summary["peak_memory"]["measured"] == peaks["checkpointed"]
    again = {"run_dir": str(tmp_path / "run"), "resume": True, "steps": 3}
    for changes in (asked | tight, {"gradient.memory_budget": "1GB"}):
        longer = dmeta.train(changes | again)
        assert longer.summary["gradient"] == "checkpointed"
        again["steps"] += 1
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["settings"]["gradient"] == {"name": "checkpointed", "memory_budget": "1GB"}
    with pytest.raises(ValueError, match=r"different: gradient.name"):
        dmeta.train({"gradient": "exact", **again, "gradient.memory_budget": "1GB"})
