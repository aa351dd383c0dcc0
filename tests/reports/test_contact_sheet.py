from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dmeta.reports.contact_sheet import contact_sheet, shows_images
from dmeta.tasks.glyphs import make_glyphs
from dmeta.tasks.image_folder import load_image_folder
from dmeta.tasks.sinusoid import Sinusoid
from dmeta.tasks.source import EpisodeSize
from tests.tasks.conftest import write_pictures


@pytest.mark.parametrize("channels", [1, 3])
def test_it_shows_what_was_drawn(tmp_path: Path, channels: int) -> None:
    root = write_pictures(tmp_path / "set", {f"{s}/{s}{n}": 9 for s in ("train", "test") for n in range(9)})  # noqa: E501  # fmt: skip
    source = load_image_folder(root=str(root), size=8, channels=channels, cache=False)  # type: ignore[arg-type]
    size = EpisodeSize(7, 1, 8)  # more than are shown
    path = contact_sheet(source, ["train", "test"], size, 0, tmp_path / "sheet.png")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.shape[1] == 1800
    is_grey = bool((pixels[..., 0] == pixels[..., 1]).mean() > 0.99)
    assert is_grey is (channels == 1)
    assert 0.2 < (pixels != 255).any(axis=-1).mean() < 0.9
    again = contact_sheet(source, ["train", "test"], size, 0, tmp_path / "again.png")
    other = contact_sheet(source, ["train", "test"], size, 1, tmp_path / "other.png")
    assert again.read_bytes() == path.read_bytes() != other.read_bytes()


def test_only_pictures_are_shown() -> None:
    assert shows_images(make_glyphs(num_classes=30))
    assert not shows_images(Sinusoid())
