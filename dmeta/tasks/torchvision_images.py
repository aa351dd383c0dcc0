"""Small image data sets that torchvision reads and downloads, all of their images together.

What is there, in which form, and whether it is whole is torchvision's business. Its training and
test images are one data set here, whose classes are split.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeInt

from dmeta.addresses import is_address, local_path
from dmeta.tasks.class_splits import Ratio, SplitBy
from dmeta.tasks.data_root import default_root
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.in_memory import from_arrays
from dmeta.tasks.rotations import Rotations
from dmeta.tasks.status import MissingDataError
from dmeta.torchvision_compat import import_datasets

TorchvisionName: TypeAlias = Literal[
    "CIFAR10", "CIFAR100", "EMNIST", "FashionMNIST", "KMNIST", "MNIST", "SVHN", "USPS"
]


class _Form(NamedTuple):
    """How torchvision's class is called, and what it has.

    Attributes:
        parts: keywords of each of the parts that make up the data set.
        labels: attribute with the labels.
    """

    parts: tuple[Mapping[str, Any], ...] = ({"train": True}, {"train": False})
    labels: str = "targets"


_FORMS: Mapping[str, _Form] = {
    "EMNIST": _Form(({"split": "balanced", "train": True}, {"split": "balanced", "train": False})),
    "SVHN": _Form(({"split": "train"}, {"split": "test"}), labels="labels"),
}


def load_torchvision(
    *,
    dataset: TorchvisionName = "MNIST",
    root: str | None = None,
    download: bool = False,
    split_by: SplitBy = "class",
    split_ratio: Ratio = (0.6, 0.2, 0.2),
    split_seed: NonNegativeInt = 0,
    rotations: Rotations = "none",
) -> ImageClasses:
    """Tasks of a data set of torchvision.

    Args:
        dataset: as `torchvision.datasets` calls it; of EMNIST the 47 balanced classes.
        root: the data root, a folder, as torchvision takes it; None means DMETA_DATA, else ./data.
        download: fetch it with torchvision if it is not there.
        split_by: ``class``: a class is in one split alone, so that test tasks have new classes;
            ``example``: the images of each class are divided.
        split_ratio: shares of train, val and test; ``[0,0,1]`` tests on all classes.
        split_seed: of that division.
        rotations: ``classes``: a class turned by 90, 180 or 270 degrees is another class;
            ``per_task``: each class of a task is turned at random; ``none``.

    Raises:
        MissingDataError: the data set is not there.
        ValueError: the data root is an address.
    """
    where = default_root() if root is None else root
    if is_address(where):
        raise ValueError(
            f"the data root must be on this machine for task=torchvision, got {where}; set "
            "task.root to a folder"
        )
    folder = local_path(where)
    form = _FORMS.get(dataset, _Form())
    parts = [_part(dataset, folder, {**kwargs, "download": download}) for kwargs in form.parts]
    labels = np.concatenate([np.asarray(getattr(part, form.labels)) for part in parts])
    source = from_arrays(
        np.concatenate([_images(part.data) for part in parts]),
        _named(labels.astype(np.int64), getattr(parts[0], "classes", None)),
        split_by=split_by,
        split_ratio=split_ratio,
        split_seed=split_seed,
        rotations=rotations,
    )
    assert isinstance(source, ImageClasses)
    return source


def _part(dataset: str, folder: Path, kwargs: Mapping[str, Any]) -> Any:
    try:
        return getattr(import_datasets(), dataset)(str(folder), **kwargs)
    except (RuntimeError, FileNotFoundError) as error:
        raise MissingDataError(
            f"{dataset} of torchvision",
            str(error).split("\n")[0],
            [folder],
            "set task.download=true to download it, or place it there as torchvision does",
        ) from error


def _images(data: Any) -> npt.NDArray[np.uint8]:
    images = np.asarray(data)
    assert images.dtype == np.uint8
    return images


def _named(labels: npt.NDArray[np.int64], classes: list[str] | None) -> npt.NDArray[Any]:
    """Labels as names, where torchvision has one for each."""
    if classes is None or labels.max() >= len(classes):
        return labels
    named: npt.NDArray[Any] = np.array(classes)[labels]
    return named
