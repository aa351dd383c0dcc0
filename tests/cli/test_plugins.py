"""What another package registers by entry point, used as what is built in is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

import dmeta
from dmeta.cli import main
from dmeta.cli.settings.choices import choice_of, choices_of
from dmeta.cli.settings.hydra_app import compose
from dmeta.registry import Entry
from dmeta.tasks import TASKS
from tests.plugin_package import install, write_package

QUICK = [
    "runtime=local",
    "compute.plan=vmap",
    "steps=2",
    "eval.every=0",
    "eval.num_tasks=4",
    "joint_baseline=false",
]


@pytest.fixture(autouse=True)
def _installed(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path_factory.mktemp("site")
    write_package(site)
    install(site, monkeypatch)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    monkeypatch.setattr(sys, "argv", ["dmeta"])


def run(*arguments: str) -> int:
    """Exit code of `dmeta ARGUMENTS`, run in this process."""
    try:
        main.main(arguments)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def trained(run_dir: str) -> dict[str, object]:
    return dict(json.loads(Path(run_dir, "results.json").read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("choice", ["algorithm=damped-maml", "model=narrow", "task=slopes"])
def test_it_trains_with_nothing_else_said(choice: str) -> None:
    assert run("train", choice, *QUICK, "run_dir=run") == 0
    group, _, name = choice.partition("=")
    assert trained("run")["settings"][group]["name"] == name  # type: ignore[index]


def test_its_settings_are_those_of_its_signature_and_those_it_brings() -> None:
    settings = compose("train", ["task=slopes", "algorithm=damped-maml"])
    assert (settings["task"]["steepest"], settings["task"]["shots"]) == (2.0, 4)
    assert settings["task"]["ways"] == 1  # it is regression, says its class
    initial = {"init_from": None, "init_skip": [], "init_sha256": None}  # keys of every model
    # A class is no text: left out.
    assert settings["model"] == {"name": "narrow", "units": 6, **initial}
    algorithm = settings["algorithm"]
    assert (algorithm["damping"], algorithm["flavour"]) == (0.5, "plain")
    assert (algorithm["inner_lr"], algorithm["eval_inner_steps"]) == (0.02, 10)
    assert settings["gradient"]["name"] == "exact"


def test_a_keyword_of_it_does_not_take_the_place_of_one_that_a_run_reads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def make(name: str = "theirs", ways: int = 7, width: int = 3) -> None:
        pass

    monkeypatch.setitem(TASKS._loaded, "mine", Entry(make, "", ""))
    preset = {each.name: each.default for each in choice_of("task", "mine").options}
    assert (preset["task.name"], preset["task.ways"], preset["task.width"]) == ("mine", 5, 3)


def test_nothing_of_it_is_left_once_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "damped-maml" in choices_of("algorithm")
    compose("train", ["algorithm=damped-maml"])
    monkeypatch.undo()
    with pytest.raises(Exception, match="damped-maml"):
        compose("train", ["algorithm=damped-maml"])


@pytest.mark.slow
def test_its_options_decide_the_run_which_resumes_evaluates_and_loads() -> None:
    line = ["algorithm=damped-maml", "task=slopes", *QUICK]
    assert run("train", *line, "run_dir=a") == 0
    assert run("train", *line, "algorithm.damping=0.9", "run_dir=b") == 0
    assert trained("a")["meta_params_sha256"] != trained("b")["meta_params_sha256"]
    assert run("train", "run_dir=b", "resume=true", "steps=3") == 0
    assert trained("b")["training"]["steps"] == 3  # type: ignore[index]
    assert run("evaluate", "run_dir=b", "runtime=local", "num_tasks=4") == 0
    learner = dmeta.load("b")
    assert type(learner.algorithm).__name__ == "Damped"
    assert learner.algorithm.damping == 0.9  # type: ignore[attr-defined]


def test_its_metric_is_one_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    line = ["task=glyphs", "algorithm=protonet", "model=mlp", *QUICK, "run_dir=run"]
    assert run("train", *line, "eval.metrics=[error_rate,accuracy]") == 0
    test = trained("run")["test"]
    assert test["metric"] == "error_rate"  # type: ignore[index]
    wrong = test["transductive"]["mean"][-1]  # type: ignore[index]
    right = test["further"]["accuracy"]["transductive"]["mean"]  # type: ignore[index]
    assert wrong == pytest.approx(1 - right, abs=1e-6)
    assert run("train", *line[:-1], "run_dir=b", "eval.metrics=[also_wrong]") == 2
    assert "must have the name of its metric, got 'also_wrong'" in capsys.readouterr().err


@pytest.mark.slow
def test_an_experiment_file_may_choose_it() -> None:
    Path("mine.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /task: slopes\n  - override /algorithm: damped-maml\n"
        "algorithm:\n  damping: 0.8\n"
    )
    assert run("train", "experiment=mine.yaml", *QUICK, "run_dir=run") == 0
    settings = trained("run")["settings"]
    assert settings["algorithm"]["damping"] == 0.8  # type: ignore[index]
    assert settings["task"]["name"] == "slopes"  # type: ignore[index]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("algorithm=damped-mml", "got 'damped-mml' (did you mean 'damped-maml'?)"),
        ("model=narow", "got 'narow' (did you mean 'narrow'?)"),
        ("task=slope", "got 'slope' (did you mean 'slopes'?)"),
        (
            "algorithm=damped-maml algorithm.dampng=1",
            "unknown key 'algorithm.dampng' (did you mean 'algorithm.damping'?)",
        ),
        ("task=slopes task.steepst=3", "(did you mean 'task.steepest'?)"),
        ("model=narrow model.unit=3", "(did you mean 'model.units'?)"),
        ("algorithm=damped-maml algorithm.flavour=sweet", "must be plain or bitter, got 'sweet'"),
        ("task=slopes task.steepest=high", "task.steepest must be a number, got 'high'"),
    ],
)
def test_what_is_misspelt_is_matched_against_its_own_names(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", *line.split()) == 2
    assert words in capsys.readouterr().err


def test_help_shows_it_and_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("train", "algorithm=damped-maml", "--help") == 0
    out = capsys.readouterr().out
    assert ", damped-maml," in out
    assert "damping: 0.5" in out


def test_a_package_that_can_not_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    site = tmp_path / "broken"
    write_package(site)
    install(site, monkeypatch)
    for module in [name for name in sys.modules if name.startswith("stranger")]:
        monkeypatch.delitem(sys.modules, module)
    (site / "stranger" / "model.py").write_text("import a_package_that_is_not_there\n")
    assert run("train", "model=narrow") == 2
    told = capsys.readouterr().err
    assert "entry point 'stranger.model:NARROW' in group dmeta.models must be importable" in told
    assert "repair or uninstall" in told
