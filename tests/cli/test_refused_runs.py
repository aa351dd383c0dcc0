"""Damaged runs, and what does not fit them, are refused before anything is started."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import dmeta
from tests.cli.refusal import (  # noqa: F401
    change,
    cut,
    nothing_starts,
    refusal,
    replace_by_folder,
)
from tests.conftest import TINY

pytestmark = pytest.mark.usefixtures("nothing_starts")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two steps, and beside it another of a wider network."""
    folder = tmp_path_factory.mktemp("runs")
    for name, hidden in (("run", 8), ("wider", 9)):
        changes = {"steps": 2, "eval.every": 0, "model.hidden": hidden, "checkpoint.every": 0}
        dmeta.train(TINY | changes | {"run_dir": str(folder / name)})
    return folder


def checkpoint(run: Path) -> Path:
    """The folder of the run's only checkpoint."""
    return next((run / "checkpoints").glob("step-*"))


def edit(run: Path, *path: str, to: Any) -> None:
    """Set a value of the run's settings."""
    content = json.loads((run / "config.json").read_text())
    group = content
    for key in path[:-1]:
        group = group[key]
    group[path[-1]] = to
    (run / "config.json").write_text(json.dumps(content))


def take_wider(run: Path) -> None:
    shutil.rmtree(checkpoint(run))
    wider = checkpoint(run.parent / "wider")
    shutil.copytree(wider, run / "checkpoints" / wider.name)


RUN = {
    "no settings": (lambda run: (run / "config.json").unlink(), r"run_dir must hold a run"),
    "a million layers": (
        lambda run: edit(run, "settings", "model", "num_layers", to=1_000_000),
        r"model.num_layers must be <= 1000, got 1000000",
    ),
    "more weights than memory": (
        lambda run: edit(run, "settings", "model", "hidden", to=10_000_000),
        r"model=mlp must fit into the memory, got model.hidden=10000000, .*weights are needed",
    ),
    "an endless input": (
        lambda run: edit(run, "shapes", "input_shape", to=[10**12]),
        r"shapes.input_shape must be of 1 to 268,435,456 numbers, got \[1000000000000\]",
    ),
    "empty settings": (lambda run: (run / "config.json").write_text(""), r"config.json"),
    "half the settings": (lambda run: cut(run / "config.json"), r"config.json must be a run's"),
    "settings in a list": (lambda run: (run / "config.json").write_text("[]"), r"config.json"),
    "binary settings": (lambda run: (run / "config.json").write_bytes(b"\xff\0"), r"config.json"),
    "a folder for the settings": (
        lambda run: replace_by_folder(run / "config.json"),
        r"config.json must be a run's settings",
    ),
    "no group of settings": (
        lambda run: (run / "config.json").write_text('{"fingerprint": "", "shapes": {}}'),
        r"config.json must be a run's settings, got KeyError\('settings'\)",
    ),
    "a number for the settings": (
        lambda run: edit(run, "settings", to=5),
        r"config.json must be .*the settings must be a group, got 5.*restore it",
    ),
    "an unknown setting": (
        lambda run: edit(run, "settings", "stepz", to=5),
        r"config.json must be .*unknown key 'stepz' .*restore it",
    ),
    "an impossible setting": (
        lambda run: edit(run, "settings", "outer", "lr", to=-1),
        r"config.json must be .*outer.lr must be > 0",
    ),
    "a setting of another type": (
        lambda run: edit(run, "settings", "meta_batch_size", to="five"),
        r"config.json must be .*meta_batch_size must be a whole number",
    ),
    "a missing setting": (
        lambda run: edit(run, "settings", "algorithm", to={}),
        r"config.json must be .*algorithm.name must be",
    ),
    "shapes that are none": (
        lambda run: edit(run, "shapes", "input_shape", to="wide"),
        r"config.json must be .*shapes.input_shape must be a list",
    ),
    "no checkpoints": (
        lambda run: shutil.rmtree(run / "checkpoints"),
        r"run_dir must hold a checkpoint, got none",
    ),
    "an empty folder of checkpoints": (
        lambda run: shutil.rmtree(checkpoint(run)),
        r"run_dir must hold a checkpoint, got none",
    ),
    "half a state": (
        lambda run: cut(checkpoint(run) / "state.safetensors"),
        r"state.safetensors must have .* bytes",
    ),
    "an empty state": (
        lambda run: (checkpoint(run) / "state.safetensors").write_bytes(b""),
        r"state.safetensors must have .* got 0",
    ),
    "no state": (
        lambda run: (checkpoint(run) / "state.safetensors").unlink(),
        r"must have state.safetensors and checkpoint.json",
    ),
    "half a manifest": (
        lambda run: cut(checkpoint(run) / "checkpoint.json"),
        r"checkpoint.json must be a checkpoint's manifest",
    ),
    "an altered manifest": (
        lambda run: change(checkpoint(run) / "checkpoint.json", '"step": 2', '"step": 3'),
        r"checkpoint.json must be a checkpoint's manifest",
    ),
    "no manifest": (
        lambda run: (checkpoint(run) / "checkpoint.json").write_text("[]"),
        r"checkpoint.json must be a checkpoint's manifest",
    ),
}
"""What makes a run unusable for every verb that reads one."""


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["evaluate", "embed"])
@pytest.mark.parametrize("case", RUN)
def test_a_damaged_run_is_refused(
    case: str, verb: str, trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, words = RUN[case]
    shutil.copytree(trained, "runs")
    damage(Path("runs/run"))
    assert re.search(words, refusal(f"{verb} run_dir=runs/run", capsys), re.DOTALL)


def whole(run: Path) -> None:
    """Nothing is wrong with it; the command line is."""


GO_ON = "train run_dir=runs/run resume=true "
OF_A_RUN = [
    (whole, "train run_dir=runs/run compute.plan=vmap", r"run_dir must be new.*add resume=true"),
    (whole, GO_ON + "algorithm.inner_lr=0.5", r"\(different: algorithm.inner_lr\)"),
    (whole, GO_ON + "algorithm=meta_sgd", r"\(different: algorithm: maml there, meta_sgd here\)"),
    (whole, GO_ON + "model.hidden=9", r"\(different: model.hidden\)"),
    (whole, GO_ON + "seed=1 outer.lr=1", r"\(different: outer.lr, seed\)"),
    (whole, GO_ON + "steps=1", r"steps must be >= 2, the steps that runs/run has done, got 1"),
    (whole, GO_ON + "steps=0", r"steps must be >= 1"),
    (whole, "train run_dir=runs/run/config.json resume=auto", r"run_dir must be a folder.*a file"),
    (whole, "evaluate run_dir=runs", r"run_dir must hold a run, got runs without config.json"),
    (whole, "evaluate run_dir=runs/run checkpoint=9", r"checkpoint must be last, best or one of 2"),
    (whole, "embed run_dir=runs/run checkpoint=9", r"checkpoint must be last, best or one of 2"),
    (whole, "embed run_dir=runs/run", r"must be a data set whose examples can be listed"),
    (whole, "embed run_dir=runs/run out=runs/run/config.json", r"out must be new"),
    (take_wider, "evaluate run_dir=runs/run", r"checkpoint must be of the model in config.json"),
    (take_wider, "embed run_dir=runs/run", r"without 1.weight, 1.bias, 3.weight"),
    (RUN["half the settings"][0], GO_ON, r"config.json must be a run's settings"),
    (RUN["an unknown setting"][0], GO_ON, r"config.json must be .*unknown key 'stepz'"),
    (RUN["a number for the settings"][0], GO_ON, r"config.json must be .*must be a group"),
    (RUN["an altered manifest"][0], GO_ON, r"checkpoint.json must be a checkpoint's manifest"),
    (RUN["half a state"][0], GO_ON, r"state.safetensors must have"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "line", "words"), OF_A_RUN, ids=lambda x: x if isinstance(x, str) else x.__name__
)
def test_what_does_not_fit_the_run_is_refused(
    damage: Callable[[Path], Any],
    line: str,
    words: str,
    trained: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(trained, "runs")
    damage(Path("runs/run"))
    assert re.search(words, refusal(line, capsys), re.DOTALL)
