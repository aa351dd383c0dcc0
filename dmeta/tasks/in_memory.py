"""Few-shot classification of arrays: given from Python, or in an npz file.

Letters: N examples, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeInt, PositiveInt

from dmeta.tasks.arrays import READ_ERRORS, read_arrays
from dmeta.tasks.class_splits import (
    Division,
    Ratio,
    SplitBy,
    SplitClasses,
    named_split,
    split_classes,
    warn_of_left_out,
)
from dmeta.tasks.data_root import own_file
from dmeta.tasks.features import FeatureClasses
from dmeta.tasks.file_digest import checked_digest
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.rotations import Rotations, with_rotations
from dmeta.tasks.source import SPLITS, Split, TaskSource

_X_NAMES = ("x", "images", "features", "data", "inputs")
_Y_NAMES = ("y", "labels", "label", "targets", "target")
_CLASS_NAMES, _SPLITS = "class_names", "splits"

Source = ImageClasses | FeatureClasses


Arrays: TypeAlias = tuple[Any, Any] | tuple[Any, Any, Any]
"""Examples, labels and, if they are given, splits, as `from_arrays` takes them."""


def source_of(source: TaskSource | None, data: Arrays | None) -> TaskSource | None:
    """The user's own source, or one of the user's arrays; None: neither.

    Raises:
        ValueError: both are given, or the arrays are not what they must be.
    """
    if data is None:
        return source
    if source is not None:
        raise ValueError("data must be None with source, which brings the tasks; pass one of them")
    if not isinstance(data, tuple | list) or len(data) not in (2, 3):
        raise ValueError(
            f"data must be (x, y) or (x, y, splits), got {type(data).__name__}"
            + (f" of {len(data)}" if isinstance(data, tuple | list) else "")
            + "; give examples and labels, or pass source=dmeta.from_arrays(...)"
        )
    return from_arrays(*data)


def from_arrays(
    x: Any,
    y: Any,
    splits: Any = None,
    *,
    split_by: SplitBy = "class",
    split_ratio: Ratio = (0.6, 0.2, 0.2),
    split_seed: int = 0,
    min_per_class: int = 1,
    rotations: Rotations = "none",
    sha256: str | None = None,
) -> Source:
    """A task source of examples in memory, for ``dmeta.train(..., source=...)``.

    Args:
        x: N examples, an array, a tensor or a list. uint8 are images: [N, H, W], [N, H, W, C] or
            [N, C, H, W] with 1 or 3 channels. Floats are inputs as they are, [N, ...].
        y: [N] labels: whole numbers or texts.
        splits: [N] texts ``train``, ``val`` or ``test``; None: divided as below.
        split_by: ``class``: a class is in one split alone, so that test tasks have new classes;
            ``example``: the examples of each class are divided.
        split_ratio: shares of train, val and test, where `splits` is None.
        split_seed: of that division.
        min_per_class: classes with fewer examples are left out.
        rotations: of images, see `dmeta.tasks.rotations.Rotations`.
        sha256: of the file that the arrays were read from; None: of none.

    Raises:
        ValueError: the arrays are not what they must be.
    """
    examples, labels = np.asarray(x), np.asarray(y)
    _check(examples, labels)
    given: list[Split | None] = [None] * len(labels)
    if splits is not None:
        given = [named_split(str(name), "splits") for name in _of_length(splits, len(labels))]
    names = [str(label) for label in labels.tolist()]
    division = Division(split_by, split_ratio, split_seed)
    found = split_classes(names, given, division, min_per_class)
    warn_of_left_out("the arrays", {"classes with few examples": found.left_out})
    if examples.dtype == np.uint8:
        return _images(examples, found, rotations, sha256)
    if rotations != "none":
        raise ValueError(
            f"task.rotations must be none for arrays that are not images (uint8), got {rotations}; "
            "remove it"
        )
    return FeatureClasses(
        examples.astype(np.float32)[found.rows],
        found.class_names,
        found.starts,
        {split: np.array(found.splits[split], dtype=np.int64) for split in SPLITS},
        sha256,
    )


def load_arrays(
    *,
    file: str = "",
    x: str | None = None,
    y: str | None = None,
    split_by: SplitBy = "class",
    split_ratio: Ratio = (0.6, 0.2, 0.2),
    split_seed: NonNegativeInt = 0,
    min_per_class: PositiveInt = 1,
    rotations: Rotations = "none",
    sha256: str | None = None,
) -> Source:
    """Tasks of the arrays in an npz file; see `from_arrays`.

    Args:
        file: the npz file, on this machine or a URL. An array ``class_names`` [C], if there is one,
            names the labels 0..C-1; an array ``splits`` [N] says which split an example is in.
        x: name of the array of examples; None: x, images, features, data or inputs.
        y: name of the array of labels; None: y, labels, label, targets or target.
        split_by: ``class``: a class is in one split alone, so that test tasks have new classes;
            ``example``: the examples of each class are divided.
        split_ratio: shares of train, val and test, where the file has no ``splits``.
        split_seed: of that division.
        min_per_class: classes with fewer examples are left out.
        rotations: of images: ``classes``: a class turned by 90, 180 or 270 degrees is another
            class; ``per_task``: each class of a task is turned at random; ``none``.
        sha256: check sum that the file must have; None: any. A run notes that of its file.

    Raises:
        ValueError: the file is damaged, or the arrays are not what they must be.
    """
    path = own_file(file, "task.file", "an npz file")
    digest = checked_digest([path], sha256)
    there = _names(path)
    wanted = [_one_of(there, x, _X_NAMES, "x", path), _one_of(there, y, _Y_NAMES, "y", path)]
    more = [name for name in (_CLASS_NAMES, _SPLITS) if name in there]
    try:
        found = read_arrays(path, [*wanted, *more])
    except READ_ERRORS as error:
        raise _damaged(path, error) from error
    labels = found[wanted[1]]
    if _CLASS_NAMES in found:
        labels = _named(labels, found[_CLASS_NAMES], path)
    return from_arrays(
        found[wanted[0]],
        labels,
        found.get(_SPLITS),
        split_by=split_by,
        split_ratio=split_ratio,
        split_seed=split_seed,
        min_per_class=min_per_class,
        rotations=rotations,
        sha256=digest,
    )


def _check(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> None:
    is_input = x.dtype == np.uint8 or np.issubdtype(x.dtype, np.floating)
    if not is_input or x.ndim < 2 or 0 in x.shape:
        raise ValueError(
            "examples must be uint8 images [N, H, W(, C)] or floats [N, ...], got "
            f"{x.dtype} {list(x.shape)}; convert them"
        )
    if not np.all(np.isfinite(x)):
        raise ValueError("examples must be finite, got NaN or infinity; remove or replace them")
    if y.shape != x.shape[:1] or not (np.issubdtype(y.dtype, np.integer) or y.dtype.kind in "US"):
        raise ValueError(
            f"labels must be whole numbers or texts [{len(x)}], one an example, got {y.dtype} "
            f"{list(y.shape)}; correct them"
        )


def _of_length(splits: Any, length: int) -> Sequence[Any]:
    found = np.asarray(splits)
    if found.shape != (length,):
        raise ValueError(
            f"splits must be texts [{length}], one an example, got {list(found.shape)}; correct "
            "them"
        )
    names: list[Any] = found.tolist()
    return names


def _images(
    x: npt.NDArray[Any], found: SplitClasses, rotations: Rotations, sha256: str | None
) -> ImageClasses:
    if x.ndim == 4 and x.shape[-1] not in (1, 3) and x.shape[1] in (1, 3):
        x = x.transpose(0, 2, 3, 1)
    if x.ndim == 4 and x.shape[-1] == 1:
        x = x[..., 0]
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[-1] != 3):
        raise ValueError(
            "uint8 examples must be images of 1 or 3 channels ([N, H, W] or [N, H, W, C]), got "
            f"{list(x.shape)}; make floats of anything else"
        )
    if rotations != "none" and x.shape[1] != x.shape[2]:
        raise ValueError(
            f"images must be square to be turned, got {x.shape[1]} x {x.shape[2]}; set "
            "task.rotations=none"
        )
    splits = with_rotations(found.splits, dict.fromkeys(SPLITS, rotations))
    return ImageClasses(x[found.rows], found.class_names, found.starts, *splits, sha256=sha256)


def _names(path: Path) -> list[str]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return list(found.files)
    except (*READ_ERRORS, AttributeError) as error:  # one array alone has no files
        raise _damaged(path, error) from error


def _one_of(
    there: Sequence[str], name: str | None, usual: Sequence[str], key: str, path: Path
) -> str:
    candidates = usual if name is None else (name,)
    found = [each for each in candidates if each in there]
    if not found:
        raise ValueError(
            f"task.{key} must be the name of an array of {path}, got "
            f"{' or '.join(candidates)}; it has {', '.join(there) or 'none'}"
        )
    return found[0]


def _named(y: npt.NDArray[Any], names: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    if y.dtype.kind not in "iu" or names.ndim != 1 or not np.all((y >= 0) & (y < len(names))):
        raise ValueError(
            f"labels of {path} must be 0..{len(names) - 1}, the places of its class_names, got "
            "others; correct them, or leave class_names out"
        )
    named: npt.NDArray[Any] = names.astype(str)[y]
    return named


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(
        f"task.file must be an npz file of plain arrays, got {path} ({error}); write it with "
        "numpy.savez"
    )
