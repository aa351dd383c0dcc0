"""Data sets of torchvision: MNIST's family as files in its own form, others by stand-ins."""

from __future__ import annotations

import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dmeta.tasks import torchvision_images
from dmeta.tasks.source import SPLITS
from dmeta.tasks.status import MissingDataError
from dmeta.tasks.torchvision_images import load_torchvision

RNG = np.random.default_rng(0)


def write_idx(path: Path, array: np.ndarray[Any, Any]) -> None:
    """The form of yann.lecun.com/exdb/mnist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_mnist(root: Path, name: str) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    parts = []
    for part, count in (("train", 30), ("t10k", 20)):
        images = RNG.integers(256, size=(count, 28, 28), dtype=np.uint8)
        labels = np.arange(count) % 10
        write_idx(root / name / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(root / name / "raw" / f"{part}-labels-idx1-ubyte", labels)
        parts.append((images, labels))
    images, labels = (np.concatenate(both) for both in zip(*parts, strict=True))
    return images, labels


@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST", "KMNIST"])
def test_files_of_mnists_form(tmp_path: Path, name: str) -> None:
    images, labels = write_mnist(tmp_path, name)
    source = load_torchvision(dataset=name, root=str(tmp_path), split_ratio=(0, 0, 1))  # type: ignore[arg-type]
    assert source.input_shape == (1, 28, 28)
    assert np.diff(source.starts).tolist() == [5] * 10
    drawn = {image.tobytes() for image in source.class_examples("test", 0)}
    [label] = {int(labels[row]) for row in range(50) if images[row].tobytes() in drawn}
    assert drawn == {image.tobytes() for image in images[labels == label]}
    split = load_torchvision(dataset=name, root=str(tmp_path))  # type: ignore[arg-type]
    assert [len(split.split_class_names(s)) for s in SPLITS] == [6, 2, 2]


def test_what_is_not_there_can_be_downloaded(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"MNIST of torchvision .*task\.download=true"):
        load_torchvision(root=str(tmp_path))
    with pytest.raises(ValueError, match=r"on this machine for task=torchvision, got s3://x/y"):
        load_torchvision(root="s3://x/y")
    assert list(tmp_path.iterdir()) == []  # nothing is written without download


STAND_INS = {
    "CIFAR10": ({"train"}, "targets", (4, 8, 8, 3), ["cat", "dog"]),
    "CIFAR100": ({"train"}, "targets", (4, 8, 8, 3), ["cat", "dog"]),
    "EMNIST": ({"split", "train"}, "targets", (4, 28, 28), ["0", "1"]),
    "SVHN": ({"split"}, "labels", (4, 3, 8, 8), None),
    "USPS": ({"train"}, "targets", (4, 16, 16), None),
}


@pytest.mark.parametrize("name", STAND_INS)
def test_forms_of_the_others(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    keywords, labels, shape, classes = STAND_INS[name]
    called: list[dict[str, Any]] = []

    def make(root: str, **kwargs: Any) -> Any:
        called.append(kwargs)
        data = RNG.integers(256, size=shape, dtype=np.uint8)
        found = SimpleNamespace(**{labels: [0, 1, 0, 1]})
        found.data = torch.from_numpy(data) if name == "EMNIST" else data
        if classes:
            found.classes = classes
        return found

    datasets = SimpleNamespace(**{name: make})
    monkeypatch.setattr(torchvision_images, "import_datasets", lambda: datasets)
    source = load_torchvision(dataset=name, root=str(tmp_path), split_ratio=(1, 0, 0))  # type: ignore[arg-type]
    assert source.class_names == tuple(classes or ["0", "1"])
    assert np.diff(source.starts).tolist() == [4, 4]
    assert source.input_shape[0] == (3 if 3 in shape else 1)
    assert [set(kwargs) - {"download"} for kwargs in called] == [keywords] * 2
    assert called[0] != called[1]
