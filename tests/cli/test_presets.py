"""YAML files of a user's own: found, kept, and composed with where they are not."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

import fsspec
import pytest

from dmeta.cli.settings.hydra_app import compose
from dmeta.cli.settings.presets import composed_with, named, named_files, own_presets
from dmeta.cli.settings.sweeps import Composer, space_of_preset
from dmeta.training.config import run_config
from tests.conftest import tiny_config


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of configs with an algorithm and a search space of its own."""
    for name, text in {
        "algorithm/slow.yaml": "defaults: [maml]\ninner_lr: 0.0001\n",
        "search/space/mine.yaml": "outer.lr: [0.1, 0.2]\n",
    }.items():
        path = tmp_path / "own" / name
        path.parent.mkdir(parents=True)
        path.write_text(text)
    return tmp_path / "own"


@pytest.mark.parametrize("flag", ["--config-dir {}", "--config-dir={}", "-cd {}"])
def test_the_files_of_a_folder_compose_where_it_is_not(folder: Path, flag: str) -> None:
    overrides = ["algorithm=slow", "search/space=mine"]
    presets = own_presets([*flag.format(folder).split(), *overrides])
    shutil.rmtree(folder)
    settings = compose("tune", overrides, presets=presets)
    assert settings["algorithm"]["inner_lr"] == 0.0001
    assert space_of_preset(settings["search"]["space"]).dimensions["outer.lr"].ends == (0.1, 0.2)
    trial = Composer(("algorithm=slow",), tuple(presets.items()))({})
    assert trial.as_mapping()["algorithm"]["inner_lr"] == 0.0001


def test_the_query_of_an_address_is_not_its_name() -> None:
    file = "experiment=s3://bucket/best.yaml?endpoint_override=h:1"
    assert named_files([file]) == {"experiment": file.partition("=")[2]}
    assert named(file) == "experiment=file_best"
    assert named_files(["experiment=omniglot_5w1s_maml", "loss=my.yaml"]) == {}


def test_an_experiment_may_be_at_an_address() -> None:
    address = f"memory://{uuid.uuid4().hex}/best.yaml"
    with pytest.raises(ValueError, match=f"experiment must be an address that .* got {address}"):
        own_presets([f"experiment={address}"])
    fsspec.filesystem("memory").pipe_file(
        address, b"# @package _global_\ndefaults: [{override /algorithm: anil}]\nsteps: 77\n"
    )
    overrides = [f"experiment={address}"]
    settings = compose("train", overrides, presets=own_presets(overrides))
    assert (settings["steps"], settings["algorithm"]["name"]) == (77, "anil")


def test_an_experiment_in_a_file_is_a_preset_too(folder: Path) -> None:
    file = folder.parent / "mine.yaml"
    file.write_text("# @package _global_\nsteps: 17\n")
    overrides = [f"experiment={file}"]
    presets = own_presets(["--config-dir", str(folder), *overrides, "algorithm=slow"])
    assert set(presets) == {
        "algorithm/slow.yaml",
        "search/space/mine.yaml",
        "experiment/file_mine.yaml",
    }
    file.write_text("# @package _global_\nsteps: 18\n")
    assert compose("train", overrides, presets=presets)["steps"] == 17
    assert compose("train", overrides)["steps"] == 18
    file.unlink()
    with pytest.raises(ValueError, match="experiment must be a preset's name or a YAML file"):
        compose("train", overrides)


def test_an_experiment_needs_no_header(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("steps: 17\nouter:\n  lr: 0.5\n")
    settings = compose("train", [f"experiment={file}"])
    assert (settings["steps"], settings["outer"]["lr"]) == (17, 0.5)


def test_a_search_space_may_be_a_file(tmp_path: Path) -> None:
    file = tmp_path / "e=1 (mine).yaml"
    file.write_text("outer.lr: [0.1, 0.2]\n")
    settings = compose("tune", [f"search/space={file}"])
    assert space_of_preset(settings["search"]["space"]).dimensions["outer.lr"].ends == (0.1, 0.2)
    with pytest.raises(ValueError, match="search/space must be a preset's name or a YAML"):
        compose("tune", [f"search/space={tmp_path}/no.yaml"])


def test_the_settings_of_a_run_are_an_experiment(tmp_path: Path) -> None:
    run = tiny_config("runs/${x}", algorithm="anil", task="glyphs", loss="l1", outer__lr=0.25)
    plain = run.as_mapping()
    plain["task"]["made_up"] = "${x}"
    (tmp_path / "config.json").write_text(json.dumps({"settings": plain}))
    given = [f"experiment={tmp_path}/config.json", "~task.made_up", "steps=77"]
    again = run_config(compose("train", given)).as_mapping()
    for key in ("algorithm", "gradient", "model", "task", "outer", "loss", "seed", "eval"):
        assert again[key] == run.as_mapping()[key], key
    assert (again["steps"], again["run_dir"]) == (77, None)
    (tmp_path / "config.json").write_text('{"settings": 5}')
    with pytest.raises(ValueError, match=r"config\.json, which holds no settings of a run; choose"):
        compose("train", given)


def test_settings_that_an_earlier_version_wrote_are_an_experiment(tmp_path: Path) -> None:
    plain = tiny_config("run", outer__lr=0.25).as_mapping()
    compute = plain.pop("compute")
    plain["runtime"] |= compute | {"block_size": 3}
    options = {"lr": 0.25, "momentum": 0.0, "beta1": 0.8, "beta2": 0.99, "eps": 1e-6}
    plain["outer"] = {"name": "adam", **options}
    (tmp_path / "config.json").write_text(json.dumps({"settings": plain}))
    again = run_config(compose("train", [f"experiment={tmp_path}/config.json"]))
    assert again.compute.block_size == 3
    assert again.outer.lr == 0.25
    assert (again.outer.options["betas"], again.outer.options["eps"]) == ([0.8, 0.99], 1e-6)


@pytest.mark.parametrize("name", ["../outside.yaml", "/tmp/outside.yaml", "algorithm/x.py"])
def test_a_kept_preset_stays_in_its_folder(name: str) -> None:
    with (
        pytest.raises(ValueError, match="a kept preset must be a YAML file in a folder"),
        composed_with([], {name: "a: 1\n"}),
    ):
        raise AssertionError("composed with it")
