"""Folders of any name: one rule for all verbs, and every command that is shown can be pasted."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path

import pytest

import dmeta
from dmeta.cli import main
from dmeta.cli.settings.hydra_app import compose
from dmeta.cli.settings.quoted_arguments import text_of
from dmeta.cli.tune import _overrides_of
from dmeta.quoting import override_word, overrides_of
from dmeta.training.config import RunConfig, run_config
from tests.conftest import TINY

QUICK = ["runtime=local", "steps=2", "eval.num_tasks=4", "eval.every=0", "compute.plan=vmap"]
NAMES = ("a=b, 50% [x](y){z}", "it's é@\"#1;2&3|4")
"""That a user types as they are, but for what the shell wants."""

ODD = ("null", "'a'", "x${seed}", "\\", "2024", "true", " x ", "[1]", "~x", "a=b")
"""That mean something else without quotes."""


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dmeta"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setenv("COLUMNS", "200")


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The commands that `dmeta ARGUMENTS` shows."""
    capsys.readouterr()
    main.main(list(arguments))
    told = capsys.readouterr()
    return [line.strip() for line in re.findall("dmeta (?:[a-z]+ .*)", told.out + told.err)]


def pasted(command: str) -> list[str]:
    """The arguments of `dmeta` that a shell makes of a command."""
    words = shlex.split(command, comments=True)
    assert words[0] == "dmeta"
    return words[1:]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"runs/{name}"
    (following,) = shown(capsys, "train", *QUICK, f"run_dir={name}")
    assert (Path(name) / "results.json").is_file()
    main.main([*pasted(following)[:2], "num_tasks=4", "runtime=local"])
    assert (Path(name) / "evaluation.json").is_file()
    (Path(name) / "results.json").unlink()  # as if it had been killed
    log = (Path(name) / "log.jsonl").read_text().splitlines()
    (Path(name) / "log.jsonl").write_text(log[0] + "\n")
    for typed in (f"run_dir={name}", pasted(following)[1]):
        (going_on,) = shown(capsys, "status", typed)
    main.main(pasted(going_on))
    assert (Path(name) / "results.json").is_file()
    main.main(["replay", f"run_dir={name}", "step=1", f"out={name}/r"])
    assert (Path(name) / "r" / "block-0.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ODD)
def test_a_folder_whose_name_means_something_is_quoted(name: str) -> None:
    (word,) = pasted(f"dmeta {override_word('run_dir', name)}")
    assert run_config(compose("train", [word])).run_dir == name
    assert text_of(word.partition("=")[2], "run_dir") == name
    typed = run_config(compose("train", [f"run_dir={name}", "seed=3"])).run_dir
    assert typed == {"null": None, "'a'": "a", "x${seed}": "x3"}.get(name, name)


@pytest.mark.slow
def test_an_experiment_in_a_file_of_any_name(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("e=1.yaml", "a b,(c).yaml", "é'.yaml"):
        Path(name).write_text("# @package _global_\nsteps: 77\n")
        for word in (f"experiment={name}", *overrides_of({"experiment": name})):
            assert compose("train", [word])["steps"] == 77
            main.main(["train", word, "--cfg", "job"])
            assert "steps: 77" in capsys.readouterr().out


def of(settings: dict[str, object]) -> RunConfig:
    return run_config(compose("train", overrides_of(settings)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "text", ["null", "true", "1e3", "${oc.env:HOME}", "/home/josé/runs", "a, b"]
)
def test_a_text_from_python_stays_that_text(text: str) -> None:
    assert of({"run_dir": text}).run_dir == text
    assert of({"checkpoint": {"location": text}}).checkpoint.location == text
    for key in ("steps", "resume", "loss"):
        if key == "loss":
            assert of({key: text}).loss == text
        elif text not in ("1e3", "true"):  # which pydantic takes for what they say
            with pytest.raises(ValueError, match=f"{key} must be"):
                of({key: text})


@pytest.mark.slow
def test_values_from_python_reach_a_run(tmp_path: Path) -> None:
    run_dir = tmp_path / "josé ${x}, [1]"
    result = dmeta.train(TINY | {"run_dir": run_dir, "steps": 1})
    assert result.run_dir == run_dir
    settings = json.loads((run_dir / "config.json").read_text())["settings"]
    assert settings["run_dir"] == str(run_dir)
    assert dmeta.evaluate(run_dir, num_tasks=6) == result.test


def test_a_search_from_python_is_over_functions_alone() -> None:
    settings = {
        "outer.lr": "choice(0.1,0.2)",
        "run_dir": "choice(a,b)",
        "task.root": "a,b",
        "loss": "mse,l1",
        "algorithm.adapt": ["a,b", "range(3)"],
    }
    assert _overrides_of(settings) == [
        'run_dir="choice(a,b)"',
        'task.root="a,b"',
        'loss="mse,l1"',
        'algorithm.adapt=["a,b","range(3)"]',
        "outer.lr=choice(0.1,0.2)",
    ]
