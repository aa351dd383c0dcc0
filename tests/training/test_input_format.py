"""A user's examples become network inputs as a source's own do, or are refused with the remedy."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dmeta.bilevel.types import Examples
from dmeta.tasks.features import FeatureClasses
from dmeta.tasks.glyphs import make_glyphs
from dmeta.tasks.inputs import unit_vectors
from dmeta.tasks.sinusoid import Sinusoid
from dmeta.tasks.source import EpisodeSize, TaskSource
from dmeta.training.work.input_format import InputFormat, input_format, read_values

GREY = InputFormat((1, 28, 28), "images")
COLOUR = InputFormat((3, 8, 8), "images")
OWN = InputFormat((3, 8, 8))
VECTORS = InputFormat((4,))


def rgb(n: int = 2, height: int = 8, width: int = 8) -> Any:
    return np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def floats(*shape: int) -> Any:
    return np.random.default_rng(0).random(shape, dtype=np.float32)


def format_of(source: TaskSource, size: EpisodeSize) -> InputFormat:
    drawn = source.draw("train", size, np.random.default_rng(0))
    y = torch.from_numpy(drawn.support_y)
    return input_format(source, Examples(source.preprocess(torch.from_numpy(drawn.support_x)), y))


def test_stored_images_become_what_the_source_makes_of_them() -> None:
    source = make_glyphs(num_classes=30, drawings=4)
    stored = source.class_examples("test", 0)
    expected = source.preprocess(torch.from_numpy(stored))
    form = format_of(source, EpisodeSize(5, 1, 1))
    assert form == GREY
    for given in (stored, stored[:, None], stored[..., None], expected, expected.numpy()):
        assert torch.equal(form.read("x", given), expected)


def test_colours_may_be_last_or_first_as_bytes() -> None:
    images = rgb()
    expected = torch.from_numpy(np.moveaxis(images, -1, 1).astype(np.float32) / 255)
    pictures = [Image.fromarray(image) for image in images]
    for given in (images, np.moveaxis(images, -1, 1), torch.from_numpy(images), pictures):
        assert torch.equal(COLOUR.read("x", given), expected)


def test_images_are_resized_if_asked_as_the_data_sets_are() -> None:
    images = rgb(height=20, width=13)
    resized = COLOUR.read("x", images, resize=True)
    shrunk = [
        np.asarray(Image.fromarray(i).resize((8, 8), Image.Resampling.LANCZOS)) for i in images
    ]
    expected = np.moveaxis(np.stack(shrunk), -1, 1).astype(np.float32) / 255
    np.testing.assert_array_equal(resized.numpy(), expected)
    as_floats = COLOUR.read("x", np.moveaxis(images, -1, 1) / 255.0, resize=True)
    np.testing.assert_allclose(as_floats.numpy(), expected, atol=2 / 255)
    assert COLOUR.read("x", rgb(n=0, height=5), resize=True).shape == (0, 3, 8, 8)


def test_unit_vectors_are_made_as_the_features_were() -> None:
    form = InputFormat((4,), "unit_vectors")
    x = form.read("x", [[3.0, 0.0, 4.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert x.tolist() == [[pytest.approx(0.6), 0.0, pytest.approx(0.8), 0.0], [0.0] * 4]
    torch.testing.assert_close(form.read("x", x), x)
    torch.testing.assert_close(unit_vectors(torch.ones(1, 2, 4)), torch.full((1, 2, 4), 0.5))


def nan(*shape: int) -> Any:
    x = floats(*shape)
    x[1].flat[0] = np.nan
    return x


@pytest.mark.parametrize(
    ("form", "given", "words"),
    [
        (COLOUR, floats(2, 8, 8, 3), "x.permute(0, 3, 1, 2)"),
        (COLOUR, floats(2, 9, 9, 3), "numpy.moveaxis(x, -1, 1) of an array, then resize=True"),
        (COLOUR, floats(2, 3, 9, 9), "pass resize=True, or resize the images to 8x8"),
        (COLOUR, rgb(height=9), "pass resize=True, or resize the images to 8x8"),
        (COLOUR, floats(3, 8, 8), "give several examples, or one as x[None]"),
        (COLOUR, floats(2, 1, 8, 8), "convert the images to colour (RGB) ones"),
        (GREY, floats(2, 3, 28, 28), "convert the images to grey ones"),
        (GREY, floats(2, 28, 28), "add the channel: x[:, None]"),
        (GREY, floats(2, 784), "give N examples of 3 dimensions each"),
        (COLOUR, floats(2, 3, 8, 8) * 255, "divide them by 255"),
        (COLOUR, floats(2, 3, 8, 8) - 0.5, "undo their normalisation"),
        (COLOUR, (floats(2, 3, 8, 8) * 255).astype(np.int64), "got int64; convert it to uint8"),
        (COLOUR, nan(2, 3, 8, 8), "in 1 of 2 rows (the first is row 1)"),
        (OWN, nan(2, 3, 8, 8), "must be finite float32 numbers"),
        (OWN, rgb(), "x must have shape [N, 3, 8, 8], got [2, 8, 8, 3]"),
        (OWN, np.moveaxis(rgb(), -1, 1), "dmeta.load(run_dir, source=...)"),
        (OWN, floats(2, 3, 9, 9), "; resize the images to 8x8"),
        (VECTORS, floats(2, 5), "give examples of the shape that the learner was trained on"),
        (VECTORS, [[1.0, 2.0, 3.0, 4.0], [1.0]], "must be one array, got examples of unequal"),
        (VECTORS, [["a", "b", "c", "d"]], "must be an array of numbers"),
        (VECTORS, torch.zeros(2, 4, dtype=torch.complex64), "must be real numbers, got complex64"),
        (VECTORS, np.full((1, 4), 1e300), "must be finite float32 numbers"),
        (InputFormat((4,), dtype="int64"), floats(2, 4), "must be whole numbers, as in training"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_remedy(
    form: InputFormat, given: Any, words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        form.read("x", given)


@pytest.mark.parametrize("form", [VECTORS, OWN])
def test_only_images_are_resized(form: InputFormat) -> None:
    with pytest.raises(ValueError, match="resize=True must be for a learner of images"):
        form.read("x", floats(2, *form.shape), resize=True)


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float64, np.longdouble, np.int32, np.uint16, bool]
)
def test_vectors_may_be_numbers_of_any_type(dtype: Any) -> None:
    x = VECTORS.read("x", np.ones((2, 4), dtype))
    assert x.dtype == torch.float32
    assert torch.equal(x, torch.ones(2, 4))


def test_token_ids_stay_whole_numbers() -> None:
    x = InputFormat((4,), dtype="int64").read("x", np.full((2, 4), 2**24 + 1, np.int32))
    assert x.dtype == torch.int64
    assert x.unique().tolist() == [2**24 + 1]


def test_what_was_given_is_not_changed_nor_shared() -> None:
    given = floats(2, 4)
    VECTORS.read("x", given).zero_()
    assert given.all()


def test_of_a_source_that_says_nothing_a_task_says_it() -> None:
    assert format_of(Sinusoid(), EpisodeSize(1, 3, 3)) == InputFormat((1,), target_shape=(1,))
    vectors = FeatureClasses(
        floats(6, 4),
        ("a", "b"),
        np.array([0, 3, 6]),
        {"train": np.arange(2)},  # type: ignore[arg-type]
    )
    assert format_of(vectors, EpisodeSize(2, 1, 1)) == InputFormat((4,))


def test_a_preprocess_gets_what_is_given_and_its_failure_is_explained() -> None:
    form = InputFormat((3,), preprocess=lambda x: x[:, :3] / 2)
    assert torch.equal(form.read("x", torch.ones(2, 5)), torch.full((2, 3), 0.5))
    with pytest.raises(ValueError, match="x must be what the source's preprocess takes, got float"):
        form.read("x", np.ones(2))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (floats(3), "y must have shape [3, 1], got [3]; reshape it: y.reshape(-1, 1)"),
        (floats(3, 2), "give targets of the shape that the learner was trained on"),
        (floats(2, 1), "y must have 3 rows, got 2"),
        (np.float32(1.0), "got a single number"),
        (nan(3, 1), "must be finite float32 numbers"),
    ],
)
def test_values_that_do_not_fit_are_refused(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        read_values("y", given, 3, (1,))


def test_values_of_an_unknown_shape_are_taken() -> None:
    assert read_values("y", [1, 2, 3], 3, None).tolist() == [1.0, 2.0, 3.0]
