"""Settings, above all those that come with a checkpoint, cannot name what is called."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dmeta.cli.settings.hydra_app import compose
from dmeta.training.config import run_config
from dmeta.training.setup import prepare

CALL = {"_target_": "os.system", "command": "false"}


def saved_settings() -> dict[str, Any]:
    """As they lie in a run's config.json."""
    return json.loads(json.dumps(run_config(compose("train", [])).as_mapping()))


@pytest.mark.parametrize("group", ["algorithm", "model", "task", "outer", "runtime"])
def test_a_target_in_settings_is_an_unknown_key(group: str) -> None:
    settings = saved_settings()
    settings[group] |= CALL
    with pytest.raises(ValueError, match=r"unknown key '.*(_target_|command)'"):
        prepare(run_config(settings))


@pytest.mark.slow
@pytest.mark.parametrize("group", ["algorithm", "model", "task"])
@pytest.mark.parametrize("name", ["os.system", "builtins.eval", "${oc.env:HOME}"])
def test_a_name_that_is_not_registered_is_refused(group: str, name: str) -> None:
    settings = saved_settings()
    settings[group] = settings[group] | {"name": name}
    with pytest.raises(ValueError, match="must be one of"):
        prepare(run_config(settings))
