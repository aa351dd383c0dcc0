"""A run is evaluated on tasks that files give: each support set once, all queries."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dmeta
from dmeta.cli import main
from dmeta.tasks.fixed_tasks import FixedTasks
from dmeta.tasks.text import load_text
from tests.conftest import TINY
from tests.tasks.conftest import write_texts

CLASSES = ("cat", "dog", "owl")


def write_sets(folder: Path) -> dict[str, str]:
    """Five support sets, number n with n labels that are wrong, and an uneven query set."""
    for number in range(5):
        labels = [c for c in CLASSES for _ in range(2)]
        said = [CLASSES[(CLASSES.index(c) + (i < number)) % 3] for i, c in enumerate(labels)]
        rows = [
            f"{animal} n{i},{c}" for i, (animal, c) in enumerate(zip(said, labels, strict=True))
        ]
        (folder / f"train_{number}.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    asked = [f"a {c} {word}" for c in CLASSES for word in ("x", "y", "z")][:-2]
    rows = [f"{text},{text.split()[1]}" for text in asked]
    (folder / "eval.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return {"support": str(folder / "train_*.csv"), "query": str(folder / "eval.csv")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fixed")


@pytest.fixture(scope="module")
def sets(folder: Path) -> dict[str, str]:
    return write_sets(folder)


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A prototypical network whose embedding is the vector itself."""
    file = write_texts(folder / "table.csv", {f"class{n}": 6 for n in range(20)})
    settings = TINY | {"task": "text", "task.file": str(file), "task.num_features": 512}
    settings |= {"task.ways": 2, "task.queries": 2, "steps": 1, "eval.every": 0}
    settings |= {"algorithm": "protonet", "algorithm.learn_scale": True, "model.num_layers": 0}
    return Path(dmeta.train(settings | {"run_dir": str(folder / "run")}).run_dir)


def expected_accuracies(run: Path, sets: dict[str, str]) -> list[float]:
    """By numpy, of each support set in order."""
    source = load_text(file=str(run.parent / "table.csv"), num_features=512, **sets)
    assert isinstance(source, FixedTasks)
    found = []
    for rows, labels in zip(source.support, source.support_y, strict=True):
        x, query = source.examples[rows], source.examples[source.query]
        means = np.stack([x[labels == c].mean(axis=0) for c in range(3)])
        nearest = ((query[:, None] - means) ** 2).sum(axis=2).argmin(axis=1)
        found.append(float((nearest == source.query_y).mean()))
    return found


def test_every_support_set_is_a_task(run: Path, sets: dict[str, str]) -> None:
    evaluation = dmeta.evaluate(run, task=sets)
    expected = expected_accuracies(run, sets)
    assert len(set(expected)) > 1
    np.testing.assert_allclose(evaluation.scores, expected, rtol=1e-6)
    assert evaluation.num_tasks == 5
    again = dmeta.evaluate(run, task=sets, seed=77)
    assert again.scores.tolist() == evaluation.scores.tolist(), "no seed matters"


def test_the_command_says_what_was_evaluated(
    run: Path, sets: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"task.{key}={value}" for key, value in sets.items()]
    main.main(["evaluate", f"run_dir={run}", "runtime=local", *given])
    out = capsys.readouterr().out
    assert "5 test tasks" in out
    assert "text: at most 3 ways, 2 shots, 3 queries per class (sampler source)" in out
    written = json.loads((run / "evaluation.json").read_text())
    assert written["tasks"]["sampler"] == "source"
    assert written["tasks"]["query"] == sets["query"]
    assert written["test"]["num_tasks"] == 5


def test_one_support_set_has_no_interval(
    run: Path, sets: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    one = sets["support"].replace("*", "0")
    words = [f"task.support={one}", f"task.query={sets['query']}"]
    main.main(["evaluate", f"run_dir={run}", "runtime=local", *words])
    assert "(no interval)" in capsys.readouterr().out


def test_data_check_describes_them(
    run: Path, sets: dict[str, str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [f"task.{key}={value}" for key, value in sets.items()]
    main.main(["data", "check", "task=text", f"task.file={folder / 'table.csv'}", *given])
    assert "5 tasks of 3 classes, each with 6 support examples; 7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": {"ways": 3}}, r"task\.ways must be null with fixed tasks, .* got 3; remove it"),
        ({"num_tasks": 600}, r"num_tasks must be 5, the tasks that are given, or null, got 600"),
        ({"split": "val"}, r"split 'val' must have tasks, got fixed ones"),
    ],
)
def test_what_the_files_say_cannot_be_set(
    run: Path, sets: dict[str, str], options: dict[str, Any], message: str
) -> None:
    task = sets | options.get("task", {})
    with pytest.raises(ValueError, match=message):
        dmeta.evaluate(run, **(options | {"task": task}))


def test_a_run_cannot_be_trained_on_them(sets: dict[str, str], folder: Path) -> None:
    settings = {
        "task": "text",
        "task.file": str(folder / "table.csv"),
        "run_dir": str(folder / "r"),
    }
    settings |= {f"task.{key}": value for key, value in sets.items()} | TINY
    with pytest.raises(
        ValueError, match=r"split 'train' must have tasks, got fixed ones.*evaluate"
    ):
        dmeta.train(settings)


def test_an_output_for_each_class_must_suit_them(folder: Path, sets: dict[str, str]) -> None:
    settings = TINY | {"task": "text", "task.file": str(folder / "table.csv"), "steps": 1}
    settings |= {"task.ways": 2, "task.queries": 2, "eval.every": 0, "algorithm": "fomaml"}
    result = dmeta.train(settings | {"run_dir": str(folder / "two"), "task.num_features": 64})
    with pytest.raises(ValueError, match=r"must have 2 classes, the task\.ways of tr.* got 3"):
        dmeta.evaluate(result.run_dir, task=sets)


def test_a_wrong_file_ends_the_command_with_one_sentence(
    run: Path, sets: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["task.support=nowhere_*.json", f"task.query={sets['query']}"]
    with pytest.raises(SystemExit) as stop:
        main.main(["evaluate", f"run_dir={run}", "runtime=local", *words])
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert "task.support must name files with rows, got 'nowhere_*.json'" in error
    assert "Traceback" not in error
