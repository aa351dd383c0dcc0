"""Tasks of other sources than a run's own."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dmeta.cli.settings.hydra_app import compose
from dmeta.options import NamedOptions
from dmeta.quoting import as_override
from dmeta.tasks import TASKS
from dmeta.tasks.glyphs import make_glyphs
from dmeta.tasks.sinusoid import Sinusoid
from dmeta.training.config import RunConfig, run_config
from dmeta.training.other_tasks import with_other_tasks, with_tasks
from dmeta.training.setup import Run, prepare
from dmeta.training.task_options import RUN_KEYS, OtherTasks, other_tasks
from tests.conftest import TINY

GLYPHS = {"task": "glyphs", "model.filters": 4, "task.num_classes": 100, "task.drawings": 8}


def composed(**changes: Any) -> RunConfig:
    settings = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    return run_config(compose("train", [as_override(*each) for each in settings.items()]))


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return run_config(compose("train", ["task=sinusoid"]))


@pytest.fixture(scope="module")
def arrays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six classes of six grey images of 28 x 28."""
    path = tmp_path_factory.mktemp("data") / "six.npz"
    images = np.random.default_rng(0).integers(0, 256, (36, 28, 28), dtype=np.uint8)
    np.savez(path, images=images, labels=np.arange(36) % 6)
    return path


def glyphs_run(other: OtherTasks | None, **changes: Any) -> Run:
    """A classifier of glyphs, prepared and not begun."""
    return prepare(composed(**GLYPHS | {"eval__task": other, "task.queries": 2} | changes))


@pytest.mark.parametrize("name", [name for name in TASKS.builtin if name != "sinusoid"])
def test_another_source_has_the_options_that_choosing_it_gives(
    name: str, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DMETA_DATA", raising=False)
    chosen = compose("train", [f"task={name}"])["task"]
    expected = {key: value for key, value in chosen.items() if key not in RUN_KEYS}
    found = with_tasks(config, None, {"name": name}).task.source
    assert {"name": found.name, **found.options} == expected


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        ("omniglot", "miniimagenet", "/there"),
        ("omniglot", "image_folder", ""),
        ("image_folder", "omniglot", None),
        ("Own", "omniglot", None),
    ],
)
def test_a_data_root_is_that_of_the_run_and_a_folder_of_pictures_is_none(
    own: str, other: str, expected: str | None, config: RunConfig
) -> None:
    source = NamedOptions(own, {"root": "/there"})
    run = dataclasses.replace(config, task=dataclasses.replace(config.task, source=source))
    assert with_tasks(run, None, {"name": other}).task.source.options["root"] == expected


def test_another_file_need_not_have_the_check_sum_of_the_run_s(config: RunConfig) -> None:
    source = NamedOptions("arrays", {"file": "a.npz", "sha256": "abc", "split_seed": 3})
    run = dataclasses.replace(config, task=dataclasses.replace(config.task, source=source))
    same = with_tasks(run, None, {"split_seed": 4}).task.source.options
    assert same == {"file": "a.npz", "sha256": "abc", "split_seed": 4}
    other = with_tasks(run, None, {"file": "b.npz"}).task.source.options
    assert other == {"file": "b.npz", "split_seed": 3}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, {}),
        ([], {}),
        ("omniglot", {"omniglot": {"name": "omniglot"}}),
        (["a", "b"], {"a": {"name": "a"}, "b": {"name": "b"}}),
        (["a", {"name": "b", "x": 3}], {"a": {"name": "a"}, "b": {"name": "b", "x": 3}}),
        (
            {"a": {"shots": 3}, "b": {"name": "a"}},
            {"a": {"name": "a", "shots": 3}, "b": {"name": "a"}},
        ),
    ],
)
def test_a_name_is_that_of_the_source_unless_it_is_given(
    given: Any, expected: dict[str, Any]
) -> None:
    assert other_tasks(given) == expected
    assert other_tasks(composed(eval__task=given).eval.task) == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["a", "a"], r"once, got \['a', 'a'\]; name the tasks: eval.task=\{a:\{name:a\},b:"),
        (["a", {"name": "a"}], r"once, got \['a', 'a'\]; name the tasks"),
        ([{"ways": 3}], r"letters, digits, _ and -, got ''"),
        ({"a.b": {}}, r"letters, digits, _ and -, got 'a.b'"),
        ({"a": {"name": 3}}, r"eval.task.a.name must be a text"),
    ],
)
def test_names_are_checked(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        other_tasks(given)


def test_what_is_left_out_of_other_tasks_is_the_run_s(arrays: Path) -> None:
    other = {"name": "arrays", "file": str(arrays), "split_ratio": [0, 0, 1], "shots": 3}
    run = with_other_tasks(glyphs_run({"six": other}, task__ways=3))
    tasks = run.work.others["six"]
    assert (tasks.size.ways, tasks.size.shots, tasks.size.queries) == (3, 3, 2)
    assert run.other_tasks["six"].source.options["split_by"] == "class"
    assert len(run.other_tasks["six"].source.options["sha256"]) == 64
    assert run.config == glyphs_run({"six": other}, task__ways=3).config


def test_without_other_tasks_a_run_is_as_it_is() -> None:
    run = glyphs_run(None)
    assert with_other_tasks(run) is run


def test_sources_that_were_made_before_are_not_made_again(arrays: Path) -> None:
    made = make_glyphs(num_classes=100, drawings=8, seed=5)
    run = with_other_tasks(glyphs_run({"g": {"name": "glyphs", "seed": 5}}), {"g": made})
    assert run.work.others["g"].source is made


NOTE = "here task.* is eval.task.o.*"


@pytest.mark.parametrize(
    ("other", "words", "notes"),
    [
        ({"name": "glyfs"}, r"eval.task.o.name: .*did you mean 'glyphs'", []),
        ({"name": "glyphs", "seeed": 1}, r"unknown key 'eval.task.o.seeed'.*eval.task.o has", []),
        ({"name": "glyphs", "shots": 0}, r"eval.task.o.shots must be >= 1", []),
        ({"name": "glyphs", "ways": 4}, r"eval.task.o.ways must be 5, as in training", []),
        ({"name": "glyphs", "train_ways": 4}, r"eval.task.o.train_ways must not be set", []),
        ({"name": "glyphs", "shots": 9}, r"lower task.shots", [NOTE]),
        (
            {"name": "sinusoid"},
            r"eval.task.o must have tasks of kind classification, .*got sin",
            [],
        ),
        (
            {"name": "arrays", "split_ratio": [0.6, 0.2, 0.2]},
            r"ways must be <= 1 \(classes of split 'test'\), got 5",
            ["split_ratio=[0,0,1] makes test classes of all classes", NOTE],
        ),
        ({"name": "omniglot", "root": "/nowhere"}, r"Omniglot must be complete", [NOTE]),
    ],
)
def test_other_tasks_that_there_are_not_are_refused(
    other: dict[str, Any], words: str, notes: list[str], arrays: Path
) -> None:
    if other["name"] == "arrays":
        other = other | {"file": str(arrays)}
    run = glyphs_run({"o": other})
    with pytest.raises(ValueError, match=words) as refusal:
        with_other_tasks(run)
    assert getattr(refusal.value, "__notes__", []) == notes


@pytest.mark.parametrize(
    ("shape", "other", "remedy"),
    [
        ((36, 32, 32), {"name": "arrays"}, r"\{name:mixture,sources:\[\{name:arrays\}\],image_size:"
         r"28,channels:1\}"),
        ((36, 32, 32, 3), {"name": "arrays"}, r"with \(3, 32, 32\); choose another source$"),
    ],
)  # fmt: skip
def test_images_that_do_not_fit_are_refused_with_how_to_resize_them(
    shape: tuple[int, ...], other: dict[str, Any], remedy: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros(shape, np.uint8), y=np.arange(36) % 6)
    other = other | {"file": str(tmp_path / "x.npz"), "split_ratio": [0, 0, 1]}
    with pytest.raises(ValueError, match=r"eval.task.o must have .*\(1, 28, 28\).*" + remedy):
        with_other_tasks(glyphs_run({"o": other}))


def test_pictures_that_do_not_fit_are_refused_with_their_size(tmp_path: Path) -> None:
    for name in "abcdef":
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("L", (9, 9), 20 * i + ord(name) - 90).save(tmp_path / name / f"{i}.png")
    other = {"name": "image_folder", "root": str(tmp_path), "split_ratio": [0, 0, 1]}
    words = re.escape("with (3, 84, 84); set eval.task.o.size=28 and eval.task.o.channels=1")
    with pytest.raises(ValueError, match=words):
        with_other_tasks(glyphs_run({"o": other}))
    fitting = with_other_tasks(glyphs_run({"o": other | {"size": 28, "channels": 1}}))
    assert fitting.work.others["o"].source.input_shape == (1, 28, 28)


def test_targets_of_a_regression_must_be_as_wide_as_the_run_s() -> None:
    run = prepare(composed(eval__task={"o": {"name": "sinusoid"}}))
    assert with_other_tasks(run).work.others
    wide = type("Wide", (Sinusoid,), {"num_outputs": lambda self, ways: 2})()
    with pytest.raises(ValueError, match=r"targets of width 1, .* got sinusoid with 2"):
        with_other_tasks(run, {"o": wide})
