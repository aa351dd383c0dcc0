"""What the README and the guides list by hand is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dmeta.algorithms import ALGORITHMS
from dmeta.bilevel.transforms import TRANSFORMS
from dmeta.cli.settings.choices import REGISTRIES
from dmeta.metrics import METRICS
from dmeta.tasks.augmentation import AUGMENTATIONS

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("group", REGISTRIES)
def test_the_guide_to_settings_names_every_choice(group: str) -> None:
    text = (ROOT / "docs" / "guides" / "choosing_settings.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith(f"| `{group}=` |"))
    named = set(re.findall(r"`(\w+)`", row.split("|")[2]))
    assert set(REGISTRIES[group].builtin) - named == set()


def test_the_guide_to_chains_names_every_transform() -> None:
    text = (ROOT / "docs" / "guides" / "inner_chain.md").read_text()
    assert [name for name in TRANSFORMS.builtin if f"| `{name}` |" not in text] == []


def test_the_guide_to_metrics_names_every_metric() -> None:
    text = (ROOT / "docs" / "guides" / "metrics.md").read_text()
    assert [name for name in METRICS.builtin if f"| `{name}` |" not in text] == []


def test_the_guide_to_images_names_every_augmentation() -> None:
    text = (ROOT / "docs" / "guides" / "own_images.md").read_text()
    assert [name for name in AUGMENTATIONS.builtin if f"| `{name}` |" not in text] == []


def test_the_readme_names_every_method() -> None:
    text = (ROOT / "README.md").read_text()
    assert [name for name in ALGORITHMS.builtin if f"`{name}`" not in text] == []
