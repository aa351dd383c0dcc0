"""Two runs in two threads of a process would change each other's numbers: the second is refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import dmeta
from dmeta.cli.single_run import alone_in_process
from tests.conftest import TINY


@pytest.fixture
def other_thread() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as pool:
        yield pool


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("train", ({"run_dir": "unused"},)),
        ("evaluate", ("unused",)),
        ("embed", ("unused",)),
        ("replay", ("unused", 0)),
        ("tune", ()),
    ],
)
def test_a_second_run_in_another_thread_is_refused(
    other_thread: ThreadPoolExecutor, verb: str, arguments: tuple[Any, ...]
) -> None:
    with alone_in_process("dmeta.train"):
        second = other_thread.submit(getattr(dmeta, verb), *arguments)
        with pytest.raises(
            RuntimeError, match=rf"^dmeta.{verb} must be .* got dmeta.train running"
        ):
            second.result()


@pytest.mark.slow
def test_an_observer_may_evaluate_and_the_next_run_may_begin(
    tmp_path: Path, other_thread: ThreadPoolExecutor
) -> None:
    first = dmeta.train(TINY | {"steps": 1, "run_dir": str(tmp_path / "first")})
    seen = []

    class Evaluates:
        def on_step(self, step: int, report: Any) -> None:
            seen.append(dmeta.evaluate(first.run_dir, num_tasks=6))

        def on_row(self, row: Any) -> None:
            pass

        def on_phase(self, what: str) -> None:
            pass

    settings = TINY | {"steps": 1, "seed": 5, "run_dir": str(tmp_path / "second")}
    second = dmeta.train(settings, observers=[Evaluates()])
    assert seen == [first.test]
    settings["run_dir"] = str(tmp_path / "third")
    third = other_thread.submit(dmeta.train, settings).result()
    assert third.meta_params_sha256 == second.meta_params_sha256


def test_the_process_is_free_after_a_run_that_failed(other_thread: ThreadPoolExecutor) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="steps must be >= 1"):
            dmeta.train({"steps": 0})
    entered = threading.Event()

    def enter() -> None:
        with alone_in_process("dmeta.train"):
            entered.set()

    other_thread.submit(enter).result()
    assert entered.is_set()
