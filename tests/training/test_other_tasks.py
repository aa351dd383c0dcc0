"""Tasks of other sources than a run's own."""

from __future__ import annotations

import dataclasses

import pytest

from dmeta.cli.settings.hydra_app import compose
from dmeta.options import NamedOptions
from dmeta.tasks import TASKS
from dmeta.training.config import RunConfig, run_config
from dmeta.training.other_tasks import with_tasks
from dmeta.training.task_options import SIZE_KEYS


@pytest.fixture(scope="module")
def config() -> RunConfig:
    return run_config(compose("train", ["task=sinusoid"]))


@pytest.mark.parametrize("name", [name for name in TASKS.builtin if name != "sinusoid"])
def test_another_source_has_the_options_that_choosing_it_gives(
    name: str, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DMETA_DATA", raising=False)
    chosen = compose("train", [f"task={name}"])["task"]
    expected = {key: value for key, value in chosen.items() if key not in SIZE_KEYS}
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
