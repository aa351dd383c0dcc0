"""The best settings of a search, as a file."""

from __future__ import annotations

import numpy as np
import yaml
from omegaconf import OmegaConf

from dmeta.search.finalize import preset_of
from dmeta.search.options import SearchOptions
from dmeta.search.trials import TrialRow
from tests.conftest import tiny_config

BEST = TrialRow(
    *(1, "a", "finished", {}, 1.0, 0.1, np.zeros(2), 1, 1, 1, 1.0, 0),
    run_dir=None,
    error=None,
)


def test_a_text_is_no_interpolation() -> None:
    root = r"/data/${steps}/\${x}"
    config = tiny_config("run", task="features", task__file=root)
    assert config.task.source.options["file"] == root
    content = OmegaConf.create(yaml.safe_load(preset_of(config, BEST, 1, SearchOptions(), {})))
    read = OmegaConf.to_container(content, resolve=True)
    assert isinstance(read, dict)
    assert read["task"] == config.as_mapping()["task"]
