"""A run is evaluated on other tasks than its own, or told why it cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import dmeta
from dmeta.cli import main
from dmeta.tasks.glyphs import make_glyphs
from dmeta.training.results import Result
from tests.conftest import TINY

SIZES = {"task.num_classes": 100, "task.drawings": 8, "task.queries": 2, "task.ways": 3}
GLYPHS = TINY | SIZES | {"task": "glyphs", "steps": 1, "eval.every": 0, "model.filters": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def train(folder: Path, name: str, **changes: Any) -> Result:
    return dmeta.train(GLYPHS | {"run_dir": str(folder / name)} | changes)


@pytest.fixture(scope="module")
def maml(folder: Path) -> Path:
    return Path(train(folder, "maml").run_dir)


@pytest.fixture(scope="module")
def protonet(folder: Path) -> Path:
    changes = {"algorithm": "protonet", "task.train_ways": 2}
    return Path(train(folder, "protonet", **changes).run_dir)


@pytest.mark.slow
def test_other_sizes_are_those_of_a_run_that_was_trained_with_them(
    folder: Path, maml: Path
) -> None:
    sizes = {"task.shots": 4, "task.train_shots": 1, "task.queries": 3, "task.train_queries": 2}
    other = train(folder, "other", **sizes)
    evaluation = dmeta.evaluate(maml, num_tasks=6, task={"shots": 4, "queries": 3})
    assert evaluation == other.test
    assert evaluation != dmeta.evaluate(maml, num_tasks=6)


@pytest.mark.slow
def test_a_method_that_embeds_is_evaluated_with_any_number_of_ways(protonet: Path) -> None:
    """The test classes alone must suffice: there are 20, and fewer in the validation split."""
    evaluation = dmeta.evaluate(protonet, num_tasks=6, task={"ways": 20})
    assert 0 < evaluation.value < dmeta.evaluate(protonet, num_tasks=6, task={"ways": 2}).value
    with pytest.raises(ValueError, match=r"ways must be <= 20 .*split 'test'.* lower task.ways"):
        dmeta.evaluate(protonet, task={"ways": 21})
    with pytest.raises(ValueError, match=r"ways must be <= 16 .*split 'val'"):
        dmeta.evaluate(protonet, split="val", task={"ways": 20})


@pytest.mark.slow
def test_options_of_the_source_may_differ(maml: Path) -> None:
    others = make_glyphs(num_classes=100, drawings=8, seed=7)
    evaluation = dmeta.evaluate(maml, num_tasks=6, task={"seed": 7})
    assert evaluation == dmeta.evaluate(maml, num_tasks=6, source=others)
    assert evaluation != dmeta.evaluate(maml, num_tasks=6)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({"ways": 4}, r"task.ways must be 3, as in training, .* \(protonet, .*, and \d+ more\)$"),
        ({"name": "sinusoid"}, "tasks of kind classification, .* got sinusoid with regression"),
        ({"name": "glyfs"}, r"task must be one of .*did you mean 'glyphs'"),
        (
            {"shotts": 2},
            r"unknown key 'task.shotts' \(did you mean 'shots'\?\); task has na",
        ),
        (
            {"wayz": 2},
            r"task has name, ways, shots, queries, sampler, .*, num_classes, drawings, seed",
        ),
        ({"train_shots": 2}, r"task.train_shots must not be set in an evaluation.*set task.shots"),
        ({"train_examples": 2}, r"for it is of training, got 2; remove it"),
        ({"shots": "many"}, r"task.shots must be a whole number"),
        ({"shots": 9}, r"lower task.shots"),
    ],
)
def test_tasks_that_the_network_cannot_learn_are_refused(
    maml: Path, task: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        dmeta.evaluate(maml, num_tasks=6, task=task)


def test_examples_of_another_shape_are_refused(maml: Path) -> None:
    class Wide:
        kind = "classification"
        input_shape = (1, 28, 30)

    source: Any = Wide()
    with pytest.raises(ValueError, match=r"shape \(1, 28, 28\), .* got Wide with \(1, 28, 30\)"):
        dmeta.evaluate(maml, num_tasks=6, source=source)


def test_the_file_says_what_was_evaluated_on(
    protonet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["evaluate", f"run_dir={protonet}", "runtime=local", "num_tasks=4"]
    main.main([*line, "task=glyphs", "task.ways=7", "task.shots=2", "task.num_classes=50"])
    written = json.loads((protonet / "evaluation.json").read_text())
    assert written["tasks"] == {
        "name": "glyphs", "ways": 7, "shots": 2, "queries": 2, "sampler": "fixed",
        "min_ways": None, "max_support": 500, "within": "all",
        "num_classes": 50, "drawings": 8, "seed": 0,
    }  # fmt: skip
    assert "tasks     glyphs: 7 ways, 2 shots, 2 queries per class" in capsys.readouterr().out
    main.main([*line, "task.sampler=meta_dataset", "task.ways=6", "task.min_ways=3"])
    assert (
        "glyphs: at most 6 ways, 1 shot, 2 queries per class (sampler meta"
        in capsys.readouterr().out
    )
    main.main(line)
    assert json.loads((protonet / "evaluation.json").read_text())["tasks"]["ways"] == 3
