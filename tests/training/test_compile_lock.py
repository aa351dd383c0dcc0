"""A program is compiled by one process of a node; the others wait for it, then go on together."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from dmeta.training.setup import prepare
from dmeta.training.work import compile_lock
from dmeta.training.work.compile_lock import compiled_in_turn, first_of_node
from tests.conftest import tiny_config

PROCESS = """
import sys, time
from pathlib import Path
from dmeta.training.work.compile_lock import first_of_node

folder, name = Path(sys.argv[1]), sys.argv[2]
(folder / f"{name}-up").touch()
while len(list(folder.glob("*-up"))) < 3:
    time.sleep(0.01)
with first_of_node("a program"):
    cached = (folder / "compiled").exists()
    if not cached:
        time.sleep(0.5)
        (folder / "compiled").touch()
    else:  # the others are within at the same time
        (folder / f"{name}-in").touch()
        until = time.monotonic() + 20
        while len(list(folder.glob("*-in"))) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        cached = len(list(folder.glob("*-in"))) == 2
print(cached)
"""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.mark.slow
def test_of_three_processes_one_compiles_and_the_others_follow_together(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(tmp_path), str(number)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for number in range(3)
    ]
    said = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert sorted(said) == ["False", "True", "True"]


def test_only_the_first_call_takes_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[str] = []
    monkeypatch.setattr(
        compile_lock, "first_of_node", lambda what: turns.append(what) or first_of_node(what)
    )
    program: Any = compiled_in_turn(lambda *given: given, "it")  # type: ignore[arg-type,return-value]
    assert [program(1, 2, 3, number) for number in range(3)] == [(1, 2, 3, n) for n in range(3)]
    assert turns == ["it"]


def test_without_a_place_for_the_lock_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    with first_of_node("it"):
        pass


def test_a_worker_takes_turns_for_its_compiled_program(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    monkeypatch.setattr(
        "dmeta.training.work.worker.compiled_in_turn",
        lambda program, what: taken.append(what) or program,
    )
    for plan, expected in (("vmap", 0), ("compiled", 2)):
        work = prepare(tiny_config("run", compute__plan=plan)).work
        work.build("cpu")
        work.build("cpu")
        assert len(taken) == expected
    assert len(set(taken)) == 1
    assert " at 0x" not in taken[0]  # the same in every process
