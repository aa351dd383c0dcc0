"""Images of every kind become what a viewer shows."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dmeta.tasks.archives import decode_images
from dmeta.tasks.pixels import to_grey, to_rgb
from tests.tasks.conftest import real_data

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4  # 0, 4, ..., 252


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> Image.Image:
    """The image as it is read from a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return Image.open(io.BytesIO(file.getvalue()))


def grey(image: Image.Image) -> np.ndarray:
    return np.asarray(to_grey(image))


def rgb(image: Image.Image) -> np.ndarray:
    return np.asarray(to_rgb(image))


def test_16_bits_are_scaled_not_clipped() -> None:
    deep = saved(Image.fromarray(RAMP.astype(np.uint16) * 257))
    assert deep.mode == "I;16"
    assert np.array_equal(grey(deep), RAMP)
    assert np.array_equal(rgb(deep), np.stack([RAMP] * 3, -1))
    ends = np.array([[0, 128, 129, 65535]], np.uint16)  # 128 is just below half of a step of 257
    assert grey(saved(Image.fromarray(ends))).tolist() == [[0, 0, 1, 255]]


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B", "I;16L"])
def test_every_mode_of_16_bits_is_the_same(mode: str) -> None:
    deep = RAMP.astype(np.uint16) * 257
    data = deep.astype({"I": "<i4", "I;16B": ">u2"}.get(mode, "<u2")).tobytes()
    raw = {"I": "I;32"}.get(mode, mode)
    assert np.array_equal(grey(Image.frombytes(mode, (8, 8), data, "raw", raw)), RAMP)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(np.array([[0, 70_000]], np.int32)),
        Image.fromarray(np.array([[-1, 5]], np.int32)),
        Image.fromarray(np.array([[0.0, 0.5]], np.float32)),
    ],
)
def test_pixels_without_a_known_white_are_refused(image: Image.Image) -> None:
    for convert in (to_grey, to_rgb):
        with pytest.raises(ValueError, match=r"pixels .*; save it with 8 or 16 bits"):
            convert(image)


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_of_one_byte_or_one_bit_stays_as_it_is(mode: str) -> None:
    shades = np.where(RAMP > 127, 255, 0).astype(np.uint8) if mode == "1" else RAMP
    image = Image.fromarray(shades)
    image = image if mode == "L" else image.convert(mode)
    assert np.array_equal(grey(saved(image)), shades)
    assert np.array_equal(rgb(saved(image)), np.stack([shades] * 3, -1))


def test_a_palette_gives_its_colours() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([1, 0])
    assert rgb(saved(image)).tolist() == [[[0, 0, 255], [255, 0, 0]]]
    assert rgb(saved(image, transparency=1)).tolist() == [[[255, 255, 255], [255, 0, 0]]]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_what_is_transparent_is_on_white(mode: str) -> None:
    """Black ink on nothing: without its transparency it is all black."""
    ink = Image.new(mode, (3, 1), 0)
    black = 0 if mode == "LA" else (0, 0, 0)
    alphas = (255, 0, 102)
    ink.putdata([(black, a) if mode == "LA" else (*black, a) for a in alphas])
    assert grey(saved(ink)).tolist() == [[0, 255, 153]]
    assert rgb(saved(ink))[0, :, 2].tolist() == [0, 255, 153]


@pytest.mark.parametrize("shade", [10, 0])
def test_a_colour_that_stands_for_transparent_is_white(shade: int) -> None:
    plain = Image.fromarray(np.array([[shade, 200]], np.uint8))
    assert grey(saved(plain, transparency=shade)).tolist() == [[255, 200]]
    deep = Image.fromarray(np.array([[shade, 200 * 257]], np.uint16))
    deep.info["transparency"] = shade
    assert grey(deep).tolist() == [[255, 200]]


def test_cmyk_is_read_as_colour() -> None:
    red = Image.new("RGB", (16, 16), (255, 0, 0)).convert("CMYK")
    found = rgb(saved(red, "JPEG", quality=95))
    assert np.abs(found.astype(int) - [255, 0, 0]).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_as_its_exif_data_says(orientation: int) -> None:
    """The 8 orientations of the standard: what is stored, and how it is shown."""
    shown = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud,
        5: np.transpose, 6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a.T, 2), 8: np.rot90,
    }  # fmt: skip
    stored = RAMP[:5]
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = saved(Image.fromarray(stored), exif=exif)
    assert np.array_equal(grey(image), shown[orientation](stored))


def test_a_real_photograph_is_turned_upright(tmp_path: Path) -> None:
    """Of EXIF orientation 6: shown, it is the stored one turned clockwise."""
    folder = real_data("sign-digits/7") / "sign-digits" / "7"
    with Image.open(folder / "IMG_5935.JPG") as image:
        stored = np.asarray(image.resize((64, 64)))
    out = np.zeros((1, 64, 64, 3), np.uint8)
    decode_images(folder, ["IMG_5935.JPG"], lambda i: np.asarray(to_rgb(i).resize((64, 64))), out)
    difference = [np.abs(np.rot90(stored, k).astype(int) - out[0]).mean() for k in range(4)]
    assert int(np.argmin(difference)) == 3
    assert difference[3] < 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, kind: str, share: float) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (84, 84, 3), dtype=np.uint8)
    path = tmp_path / f"cut.{kind.lower()}"
    Image.fromarray(pixels).save(path, kind)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    out = np.zeros((1, 84, 84, 3), np.uint8)
    with pytest.raises(ValueError, match=rf"must be readable, got '{path.name}'"):
        decode_images(tmp_path, [path.name], lambda image: np.asarray(to_rgb(image)), out)
