"""`dmeta status` of folders that anyone may have altered: an answer, or one plain message."""

from __future__ import annotations

import copy
import io
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import dmeta
from dmeta.cli import status
from dmeta.search import trials
from tests.conftest import TINY
from tests.runs.test_search_status import TRIALS

WRONG = (
    None, True, -1, 0, 1.5, 10**30, float("nan"), float("inf"), -1e308, "", "x",
    "\x1b[31m\u202e\x9b", [], [None], {}, {"a": {"b": []}},
)  # fmt: skip
DEEP = b"[" * 100_000
CELLS = ("", "x", "-1", "1e999", "nan", "\x1b]0;x\x07", '"', "²", "9" * 400, "1\0", "a,b", '"\n')
NOT_PLAIN = ("Error(", "Error:", "Traceback", "Exception", "object has no", "codec can't")


def changed_values(content: Any) -> Iterator[bytes]:
    """The JSON with one value after the other replaced, removed, or given twice."""

    def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        yield path
        items = value.items() if isinstance(value, dict) else ()
        for key, inner in items:
            yield from paths(inner, (*path, key))

    for path in paths(content):
        for wrong in WRONG:
            other = copy.deepcopy({"": content})
            group = other
            whole = ("", *path)
            for key in whole[:-1]:
                group = group[key]
            group[whole[-1]] = wrong
            yield json.dumps(other[""]).encode()
        if path:
            group = other = copy.deepcopy(content)
            for key in path[:-1]:
                group = group[key]
            del group[path[-1]]
            yield json.dumps(other).encode()
    yield json.dumps(content).encode()[:-1] + b', "settings": 5, "step": "x"}'
    yield json.dumps(content).encode()[:-1] + b', "deep": ' + DEEP + b"}"


def damaged(content: bytes, rng: random.Random) -> Iterator[bytes]:
    """Truncated, with bits that flipped, with other bytes in it, or something else."""
    for _ in range(12):
        yield content[: rng.randrange(len(content) + 1)]
        flipped = bytearray(content)
        for _ in range(rng.choice((1, 1, 5))):
            flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        yield bytes(flipped)
        at = rng.randrange(len(content) + 1)
        yield content[:at] + rng.randbytes(8) + content[at:]
    yield from (b"", b"\0" * 100, b"\xff\xfe", b"null", b"5", b"[]", b'"text"', DEEP, b"NaN", b"{}")


def mutations(path: Path, rng: random.Random) -> Iterator[bytes]:
    """Contents of a file that are not what dmeta wrote."""
    content = path.read_bytes()
    yield from damaged(content, rng)
    if path.suffix == ".json":
        yield from changed_values(json.loads(content))
    if path.suffix == ".jsonl":
        lines = content.splitlines()
        for at in {0, len(lines) - 1}:
            for other in changed_values(json.loads(lines[at])):
                yield b"\n".join([*lines[:at], other, *lines[at + 1 :]]) + b"\n"
        yield content + b"\n".join([b"null", b"[]", DEEP, b'{"event": ["train"]}', b""])
        yield content + content
    if path.suffix == ".csv":
        rows = [line.split(",") for line in content.decode().splitlines()]
        for number, row in enumerate(rows[:3]):
            for at in range(len(row)):
                yield from (joined(rows, number, [*row[:at], c, *row[at + 1 :]]) for c in CELLS)
                yield joined(rows, number, row[:at])
                yield joined(rows, number, [*row, *row[:at]])
        yield content + b'"' + b"x" * 200_000


def joined(rows: list[list[str]], number: int, row: list[str]) -> bytes:
    other = [*rows[:number], row, *rows[number + 1 :]]
    return "".join(",".join(each) + "\n" for each in other).encode()


def answer(folder: Path) -> str:
    """What is shown."""
    console = Console(file=io.StringIO(), width=200)
    try:
        found = status.status(folder)
        assert isinstance(status._as_json(found, console).plain, str)
        text = status._as_text(found, console).plain
    except ValueError as error:
        text = str(error)
        assert "must" in text and "got" in text, text  # noqa: PT018
        assert str(folder) in text
        assert not any(word in text for word in NOT_PLAIN), text
    return text


def check_all(folder: Path, names: tuple[str, ...]) -> int:
    """Number of mutations of the files in a folder that were shown or refused."""
    rng, count = random.Random(0), 0
    for name in names:
        path = folder / name
        content = path.read_bytes()
        for mutation in mutations(path, rng):
            path.write_bytes(mutation)
            text = answer(folder)
            count += 1
            if path.suffix != ".json" or "must" not in text:
                assert all(line.isprintable() for line in text.split("\n")), repr(text)
        path.unlink()
        answer(folder)
        path.mkdir()
        answer(folder)
        path.rmdir()
        path.write_bytes(content)
    return count


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("anything") / "run"
    dmeta.train(TINY | {"run_dir": str(run_dir), "eval.task": {"far": {"name": "sinusoid"}}})
    # Of settings and results only these are read; a few of the others do for the rest.
    results = ("training", "task", "test", "other_tasks")
    for name, keep in (("config.json", ("settings", "shapes")), ("results.json", results)):
        content = json.loads((run_dir / name).read_text())
        small = {key: content[key] for key in keep}
        few = ("steps", "checkpoint", "run_dir", "seed")
        if "settings" in small:
            small["settings"] = {key: small["settings"][key] for key in few}
        (run_dir / name).write_text(json.dumps(small))
    return run_dir


FILES = ("config.json", "results.json", "metrics.jsonl", "log.jsonl")


@pytest.mark.slow
def test_any_files_of_a_run_are_shown_or_refused(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    assert answer(folder).startswith(f"{folder}: finished")
    assert check_all(folder, FILES) > 1000


@pytest.mark.slow
def test_any_files_of_a_search_are_shown_or_refused(tmp_path: Path) -> None:
    record = {"format": 1, "search": {"num_trials": 8}, "mode": "max", "host": "here"}
    (tmp_path / "search.json").write_text(json.dumps(record))
    (tmp_path / "results.json").write_text("{}")
    trials.write_table(TRIALS, ["outer.lr"], tmp_path / "trials.csv")
    assert answer(tmp_path).startswith(f"{tmp_path}: finished")
    assert check_all(tmp_path, ("search.json", "results.json", "trials.csv")) > 500


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    path.write_text("".join(line + "\n" for line in change(path.read_text().splitlines())))


def test_lines_and_rows_that_are_none_are_counted(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    edit(folder / "metrics.jsonl", lambda lines: [*lines, "null", '{"event": "train"}'])
    edit(folder / "log.jsonl", lambda lines: [*lines, "torn {"])
    text = answer(folder)
    assert "left out   3 lines of metrics.jsonl or log.jsonl that dmeta did not write" in text
    assert "progress   step 6/6" in text
    trials.write_table(TRIALS, ["outer.lr"], tmp_path / "trials.csv")
    (tmp_path / "search.json").write_text('{"search": {"num_trials": 8}, "mode": "max"}')
    edit(tmp_path / "trials.csv", lambda lines: [*lines[:3], "3,short", *lines[3:]])
    text = answer(tmp_path)
    assert "6 of 8 trials" in text
    assert "left out: 1 row of trials.csv that dmeta did not write" in text


def test_escape_sequences_in_files_are_shown_as_letters(run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(run, tmp_path / "run")
    name = "\x1b]0;owned\x07\u202e\x9b31m\r"
    edit(
        folder / "log.jsonl",
        lambda lines: [json.dumps({**json.loads(lines[0]), "host": name}), *lines[1:]],
    )
    assert r" of \x1b]0;owned\x07\u202e\x9b31m\r since " in answer(folder)
