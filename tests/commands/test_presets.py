"""YAML files of a user's own: found, kept, and composed with where they are not."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import fsspec
import pytest

from dmeta.commands.hydra_app import compose
from dmeta.commands.presets import composed_with, experiment_file, named, own_presets
from dmeta.commands.sweeps import Composer, space_of_preset


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
    assert experiment_file([file]) == file.partition("=")[2]
    assert named(file) == "experiment=file_best"
    assert experiment_file(["experiment=omniglot_5w1s_maml"]) is None


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


@pytest.mark.parametrize("name", ["../outside.yaml", "/tmp/outside.yaml", "algorithm/x.py"])
def test_a_kept_preset_stays_in_its_folder(name: str) -> None:
    with (
        pytest.raises(ValueError, match="a kept preset must be a YAML file in a folder"),
        composed_with([], {name: "a: 1\n"}),
    ):
        raise AssertionError("composed with it")
