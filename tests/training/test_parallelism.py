"""Workers that the blocks of a step leave idle are told of when a run begins."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmeta import launch
from dmeta.cli import train as verb
from dmeta.runtime.messages import RuntimeInfo
from dmeta.training.devices.parallelism import idle_line
from dmeta.training.setup import Run
from tests.conftest import TINY, tiny_config


def line(num_workers: int, room: int, device: str = "cpu", **changes: Any) -> str | None:
    sizes = {"meta_batch_size": 25, "compute__block_size": 8} | changes
    return idle_line(tiny_config("run", **sizes), RuntimeInfo("ray", num_workers, device, {}, room))


def test_nothing_is_said_where_all_have_a_block() -> None:
    assert line(4, 4) is None
    assert line(2, 3) is None


def test_room_that_a_step_has_no_blocks_for_is_told_with_what_would_use_it() -> None:
    assert line(4, 8, "cuda") == (
        "a step has 4 blocks (meta_batch_size=25, compute.block_size=8), one for each worker: 4 "
        "workers are started where 8 fit; to use all, begin a run with compute.block_size=4 "
        "(another rounding) or meta_batch_size=64"
    )


def test_workers_that_were_asked_for_and_are_idle_are_told_of() -> None:
    said = line(6, 8, "cuda")
    assert said is not None
    assert "2 of 6 workers compute nothing in training, and keep their GPUs from others" in said
    assert said.endswith("or lower runtime.num_workers to 4")
    few = line(3, 3, meta_batch_size=2, compute__block_size=1)
    assert few is not None
    assert "compute.block_size=1 (another" not in few  # no smaller one
    assert "begin a run with meta_batch_size=3" in few


@pytest.mark.slow
def test_a_run_says_so_in_its_log_and_on_the_console(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @contextlib.contextmanager
    def roomy(run: Run, workplace: Any) -> Iterator[Any]:
        with launch.make_runtime(
            run.config.runtime, run.work, run.outer, "cpu", run.config.num_blocks
        ) as runtime:
            info = dataclasses.replace(runtime.info, room=9)
            monkeypatch.setattr(type(runtime), "info", property(lambda _: info))
            yield runtime

    monkeypatch.setattr(verb, "open_runtime", roomy)
    result = verb.train(TINY | {"run_dir": str(tmp_path / "run"), "steps": 1, "eval.every": 0})
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    warned = [line for line in map(json.loads, lines) if line["level"] == "WARNING"]
    [message] = [line["message"] for line in warned]
    assert message.startswith("a step has 3 blocks (meta_batch_size=5, compute.block_size=2)")
    assert message in caplog.messages
    assert result.summary["runtime"]["room"] == 9
