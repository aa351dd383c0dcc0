from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dmeta
from dmeta.tasks.features import FeatureClasses
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.in_memory import from_arrays, load_arrays
from dmeta.tasks.source import SPLITS, EpisodeSize
from tests.tasks.conftest import real_data

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(256, size=(40, 8, 8, 3), dtype=np.uint8)
LABELS = np.repeat(np.arange(10), 4)


def names(source: Any) -> list[tuple[str, ...]]:
    return [source.split_class_names(split) for split in SPLITS]


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW", "NHW1", "N1HW"])
def test_images_of_any_layout(layout: str) -> None:
    x = {
        "NHWC": IMAGES,
        "NCHW": IMAGES.transpose(0, 3, 1, 2),
        "NHW": IMAGES[..., 0],
        "NHW1": IMAGES[..., :1],
        "N1HW": IMAGES[..., 0][:, None],
    }[layout]
    source = from_arrays(x, LABELS, split_ratio=(1, 0, 0))
    assert isinstance(source, ImageClasses)
    expected = IMAGES if layout in ("NHWC", "NCHW") else IMAGES[..., 0]
    assert np.array_equal(source.images, expected)
    assert source.class_names == tuple("0123456789")
    turned = from_arrays(x, LABELS, split_ratio=(1, 0, 0), rotations="classes")
    assert len(turned.split_class_names("train")) == 40


def test_floats_tensors_and_lists_are_inputs_as_they_are() -> None:
    x = torch.arange(80.0).reshape(40, 2)
    labels = [f"class {label}" for label in LABELS[::-1]]
    source = from_arrays(x, labels)
    assert isinstance(source, FeatureClasses)
    assert [len(own) for own in names(source)] == [6, 2, 2]
    for split in SPLITS:
        for place, name in enumerate(source.split_class_names(split)):
            rows = [row for row, label in enumerate(labels) if label == name]
            assert np.array_equal(source.class_examples(split, place), x.numpy()[rows])
    assert from_arrays(x.tolist(), labels).input_shape == (2,)
    waves = from_arrays(RNG.normal(size=(40, 3, 50)), LABELS)
    assert waves.input_shape == (3, 50)
    assert waves.draw("train", EpisodeSize(5, 1, 1), RNG).support_x.shape == (5, 3, 50)
    assert "40 examples (3, 50)" in repr(waves)


def test_splits_may_be_given() -> None:
    splits = ["train"] * 20 + ["Validation"] * 8 + ["test"] * 12
    assert names(from_arrays(IMAGES[..., 0], LABELS, splits))[1] == ("5/rot000", "6/rot000")
    with pytest.raises(ValueError, match=r"got 'dev' in splits"):
        from_arrays(IMAGES, LABELS, ["dev"] * 40)
    with pytest.raises(ValueError, match=r"splits must be texts \[40\].*got \[3\]"):
        from_arrays(IMAGES, LABELS, ["train"] * 3)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (IMAGES.astype(np.int32), LABELS, r"must be uint8 images .* got int32 \[40, 8, 8, 3\]"),
        (np.ones(40), LABELS, r"must be uint8 images .* got float64 \[40\]"),
        (np.full((40, 2), np.nan), LABELS, r"must be finite"),
        (IMAGES, LABELS[:3], r"labels must be .*\[40\].* got int64 \[3\]"),
        (IMAGES, LABELS + 0.5, r"labels must be whole numbers or texts"),
        (IMAGES[..., [0, 1]], LABELS, r"images of 1 or 3 channels .* got \[40, 8, 8, 2\]"),
        (IMAGES[:, 0], LABELS, None),  # [40, 8, 3]: grey, of 8 x 3
        (IMAGES[:, 0, 0], LABELS, r"images of 1 or 3 channels .* got \[40, 3\]"),
    ],
)
def test_other_arrays_are_refused(x: Any, y: Any, message: str | None) -> None:
    if message is None:
        assert from_arrays(x, y).input_shape == (1, 8, 3)
        with pytest.raises(ValueError, match=r"square to be turned, got 8 x 3"):
            from_arrays(x, y, rotations="per_task")
        return
    with pytest.raises(ValueError, match=message):
        from_arrays(x, y)


def test_only_images_are_turned() -> None:
    with pytest.raises(ValueError, match=r"task\.rotations must be none for arrays that are not"):
        from_arrays(np.ones((40, 8, 8)), LABELS, rotations="classes")


def test_arrays_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.npz"
    np.savez(file, images=IMAGES, label=LABELS.astype(np.int16), class_names=np.array(list("jihgfedcba")))  # noqa: E501  # fmt: skip
    source = load_arrays(file=str(file), split_ratio=(1, 0, 0))
    assert isinstance(source, ImageClasses)
    assert source.class_names == tuple("abcdefghij")
    assert np.array_equal(source.images[:4], IMAGES[36:])
    assert source.sha256
    assert len(source.sha256) == 64
    np.savez(file, first=np.ones((4, 2)), second=list("aabb"), splits=["train", "train", "test", "test"])  # noqa: E501  # fmt: skip
    own = load_arrays(file=str(file), x="first", y="second")
    assert names(own) == [("a",), (), ("b",)]
    with pytest.raises(ValueError, match=r"must be the file that the run was begun with"):
        load_arrays(file=str(file), x="first", y="second", sha256=source.sha256)
    with pytest.raises(ValueError, match=r"task\.x must be the name .* it has first, second, spl"):
        load_arrays(file=str(file))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY"])
def test_a_file_of_something_else_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "a.npz"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"task\.file must be an npz file of plain arrays"):
        load_arrays(file=str(file))
    np.save(file.with_suffix(".npy"), np.ones(3))
    with pytest.raises(ValueError, match=r"task\.file must be an npz file of plain arrays"):
        load_arrays(file=str(file.with_suffix(".npy")))
    np.savez(file, x=np.array([{}], dtype=object), y=np.zeros(1))
    with pytest.raises(ValueError, match=r"task\.file must be an npz file of plain arrays"):
        load_arrays(file=str(file))
    np.savez(file, x=np.ones((2, 2)), y=[0, 2], class_names=["a", "b"])
    with pytest.raises(ValueError, match=r"labels of .* must be 0\.\.1, the places of its class"):
        load_arrays(file=str(file))
    for wrong, message in (("", "got nothing"), ("nowhere.npz", "which is no file")):
        with pytest.raises(ValueError, match=message):
            load_arrays(file=wrong)


def test_a_run_on_arrays(tmp_path: Path) -> None:
    settings = {
        "algorithm": "protonet", "runtime": "local", "steps": 2, "eval.every": 0, "task.ways": 2,
        "eval.num_tasks": 4, "task.shots": 1, "task.queries": 1, "meta_batch_size": 2,
        "run_dir": str(tmp_path / "r"),
    }  # fmt: skip
    x = np.repeat(IMAGES, 4, axis=1).repeat(4, axis=2)
    source = dmeta.from_arrays(x, LABELS)
    assert dmeta.train(settings, source=source).test.num_tasks == 4
    assert dmeta.evaluate(tmp_path / "r", num_tasks=3, source=source).num_tasks == 3


@pytest.mark.slow
def test_ten_digits_of_mnist() -> None:
    root = real_data("mnist/mnist_t10k_500.npz")
    source = load_arrays(file=str(root / "mnist" / "mnist_t10k_500.npz"), split_ratio=(0, 0, 1))
    assert source.class_names == tuple("0123456789")
    assert source.input_shape == (1, 28, 28)


def test_data_is_a_source_of_these_arrays(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(60, 4)).astype(np.float32), np.repeat(np.arange(10), 6)
    settings = {
        "algorithm": "protonet", "task.ways": 2, "task.shots": 1, "task.queries": 2, "steps": 1,
        "eval.every": 0, "eval.num_tasks": 4, "runtime": "local",
    }  # fmt: skip
    by_data = dmeta.train(settings | {"run_dir": str(tmp_path / "a")}, data=(x, y))
    by_source = dmeta.train(settings | {"run_dir": str(tmp_path / "b")}, source=from_arrays(x, y))
    assert by_data.meta_params_sha256 == by_source.meta_params_sha256
    evaluation = dmeta.evaluate(by_data.run_dir, data=(x, y), num_tasks=4)
    assert evaluation.value == by_data.test.value


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"data": (IMAGES, LABELS), "source": from_arrays(IMAGES, LABELS)}, "data must be None with source"),  # noqa: E501
        ({"data": (IMAGES,)}, r"data must be \(x, y\) or \(x, y, splits\), got tuple of 1"),
        ({"data": IMAGES}, r"data must be .* got ndarray; give examples and labels"),
    ],
)  # fmt: skip
def test_data_that_is_none_is_refused(own: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dmeta.train({"runtime": "local"}, **own)
