"""Training images are changed by the task's own generator, and by nothing else."""

from __future__ import annotations

import hashlib
import pickle
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dmeta.options import NamedOptions
from dmeta.tasks.augmentation import AUGMENTATIONS
from dmeta.tasks.augmentation.augment import Augmentation, augmentation_of, check_augment
from dmeta.tasks.glyphs import make_glyphs
from dmeta.tasks.in_memory import from_arrays
from dmeta.tasks.sinusoid import Sinusoid
from dmeta.tasks.source import DrawnBatch, DrawnTask, EpisodeSize
from dmeta.torchvision_compat import import_transforms

SIZE = EpisodeSize(3, 2, 2)


def coloured() -> Any:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (60, 20, 24, 3), dtype=np.uint8)
    return from_arrays(images, np.repeat(np.arange(15), 4))


SOURCES = {"grey": make_glyphs(num_classes=15, drawings=6), "colour": coloured()}


def named(source: Any, *choices: str, **options: Any) -> Augmentation:
    found = augmentation_of([NamedOptions(name, options) for name in choices], None, source)
    assert found is not None
    return found


def drawn(source: Any) -> DrawnTask:
    task: DrawnTask = source.draw("train", SIZE, np.random.default_rng(3))
    return task


def rng(seed: int = 5) -> np.random.Generator:
    return np.random.default_rng(seed)


def global_states() -> tuple[Any, ...]:
    return random.getstate(), repr(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_named_augmentation_is_a_function_of_the_task(name: str, kind: str) -> None:
    source, before = SOURCES[kind], global_states()
    task, augmentation = drawn(source), named(source, name)
    got, again = augmentation.task(task, rng()), augmentation.task(task, rng())
    other = augmentation.task(task, rng(6))
    for part in ("support_x", "query_x"):
        x, changed = getattr(task, part), getattr(got, part)
        assert (changed.shape, changed.dtype) == (x.shape, np.uint8)
        assert np.array_equal(changed, getattr(again, part))
    assert not np.array_equal(got.query_x, task.query_x)
    assert not np.array_equal(got.query_x, other.query_x)
    assert np.array_equal(task.query_x, drawn(source).query_x), "the input stays as it is"
    assert np.array_equal(got.query_y, task.query_y)
    assert global_states() == before


def test_each_image_of_a_task_is_changed_in_its_own_way() -> None:
    x = np.broadcast_to(SOURCES["colour"].images[:1], (20, 20, 24, 3)).copy()
    batch = named(SOURCES["colour"], "crop").batch(DrawnBatch(x, np.zeros(20, np.int64)), rng())
    assert len({image.tobytes() for image in batch.x}) > 10


def test_the_changes_are_torchvisions_in_order() -> None:
    source, v2 = SOURCES["colour"], import_transforms()
    x, y = source.images[:3], np.zeros(3, np.int64)
    choices = [NamedOptions("flip", {"p": 1.0}), NamedOptions("crop", {"padding": 3})]
    augmentation = augmentation_of(choices, None, source)
    assert augmentation is not None
    got = augmentation.batch(DrawnBatch(x, y), rng()).x
    padded = np.pad(x[:, :, ::-1], ((0, 0), (3, 3), (3, 3), (0, 0)))
    for image, whole in zip(got, padded, strict=True):
        cuts = [whole[i : i + 20, j : j + 24] for i in range(7) for j in range(7)]
        assert any(np.array_equal(image, cut) for cut in cuts)
    mirrored = Augmentation(v2.RandomHorizontalFlip(1.0)).batch(DrawnBatch(x, y), rng()).x
    assert np.array_equal(mirrored, x[:, :, ::-1])


def noisy(images: Tensor) -> Tensor:
    """Draws from every global generator."""
    shift = random.randrange(4) + int(np.random.randint(4)) + int(torch.randint(4, ()))  # noqa: NPY002
    return images.roll(shift + 1, -1)


def test_any_callable_gets_all_images_of_a_task_and_is_as_reproducible() -> None:
    seen: list[torch.Size] = []

    def noted(images: Tensor) -> Tensor:
        seen.append(images.shape)
        return noisy(images)

    before, task = global_states(), drawn(SOURCES["colour"])
    found = {Augmentation(noted).task(task, rng(s)).query_x.tobytes() for s in (1, 2, 3, 4)}
    assert seen == [torch.Size([12, 3, 20, 24])] * 4
    assert len(found) > 1
    once, again = (Augmentation(noted).task(task, rng()).query_x for _ in range(2))
    assert np.array_equal(once, again)
    assert global_states() == before


@pytest.mark.parametrize(
    ("transform", "got"),
    [
        (lambda x: x.float() / 255, r"torch.float32 \[12, 3, 20, 24\]"),
        (lambda x: x[..., :10], r"torch.uint8 \[12, 3, 20, 10\]"),
        (lambda x: x.numpy(), "ndarray"),
        (import_transforms().CenterCrop(8), r"uint8 \[3, 20, 24\], got torch.uint8 \[3, 8, 8\]"),
    ],
)
def test_what_returns_other_images_is_refused(transform: Any, got: str) -> None:
    with pytest.raises(ValueError, match=rf"must return images as it gets them.*{got}"):
        Augmentation(transform).task(drawn(SOURCES["colour"]), rng())


def test_the_generators_are_restored_after_an_error() -> None:
    before = global_states()
    with pytest.raises(ValueError, match="must return images"):
        Augmentation(lambda x: noisy(x)[:1]).task(drawn(SOURCES["colour"]), rng())
    assert global_states() == before


def test_another_process_has_the_same(tmp_path: Path) -> None:
    """Also where torchvision does not import as it is: its transforms are not loaded before it."""
    source = SOURCES["colour"]
    augmentation, task = named(source, "crop", "flip"), drawn(source)
    path = tmp_path / "both.pkl"
    path.write_bytes(pickle.dumps((augmentation, task)))
    code = (
        "import hashlib, pickle, sys, numpy as np\n"
        "own, task = pickle.load(open(sys.argv[1], 'rb'))\n"
        "x = own.task(task, np.random.default_rng(5)).query_x\n"
        "print(hashlib.sha256(x.tobytes()).hexdigest())\n"
    )
    printed = subprocess.check_output([sys.executable, "-c", code, path], text=True)
    expected = augmentation.task(task, rng()).query_x
    assert printed.strip() == hashlib.sha256(expected.tobytes()).hexdigest()


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (NamedOptions("flap", {}), r"task.augment\[0\]: .*did you mean 'flip'"),
        (NamedOptions("crop", {"pad": 3}), r"unknown key 'task.augment\[0\].pad'.*padding"),
        (NamedOptions("crop", {"padding": -1}), r"task.augment\[0\].padding must be >= 0"),
    ],
)
def test_wrong_names_and_options_are_refused_without_data(
    choice: NamedOptions, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_augment([choice])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("flip", {"p": 2.0}, r"task.augment\[0\] \(flip\): .*; change it"),
        ("color", {"hue": 0.9}, r"task.augment\[0\] \(color\): .*; change it"),
        ("resized_crop", {"scale": (0.5, 0.2)}, "two shares of the area"),
        ("resized_crop", {"scale": (0.5, 2.0)}, "two shares of the area"),
    ],
)
def test_numbers_out_of_range_are_refused(name: str, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named(SOURCES["colour"], name, **options)


def test_sources_of_no_images_are_refused() -> None:
    with pytest.raises(ValueError, match=r"task.augment must be \[\] .*got \['flip'\]"):
        named(Sinusoid(), "flip")
    with pytest.raises(ValueError, match=r"got augment=\.\.\.; remove it"):
        augmentation_of([], noisy, Sinusoid())
    assert augmentation_of([], None, Sinusoid()) is None


@pytest.mark.parametrize(
    ("name", "options"),
    [("rand_augment", {"magnitude": 99}), ("crop", {"padding": 40, "padding_mode": "reflect"})],
)
def test_options_that_only_an_image_shows_to_be_wrong_are_refused(name: str, options: Any) -> None:
    source = SOURCES["colour"]
    with pytest.raises(ValueError, match=r"task.augment must be transforms .*; change their opt"):
        named(source, name, **options).task(drawn(source), rng())
