"""Files of feature vectors: what they hold, how they are read, checked and written.

An ``.npz`` file of four plain arrays, as `dmeta embed` writes it and ``numpy.savez`` can:

    features     [N, D] floats
    labels       [N] whole numbers in 0..C-1
    class_names  [C] texts, no two alike
    class_splits [C] train, val or test

Letters: N examples, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from dmeta.tasks.arrays import READ_ERRORS, read_arrays, write_arrays
from dmeta.tasks.source import SPLITS

Arrays: TypeAlias = Mapping[str, npt.NDArray[Any]]

NAMES = ("features", "labels", "class_names", "class_splits")

HOW_TO_GET_FEATURES = (
    "make one with `dmeta embed run_dir=RUN out=FILE` (or numpy.savez: features [N, D], labels "
    "[N], class_names [C], class_splits [C]) and set task.file to its path, or to its name if it "
    "lies in features/ under the data root (DMETA_DATA or task.root)"
)


def write_features(path: Path, arrays: Arrays) -> None:
    """Write a file that `read_features` reads: whole, or not at all.

    Args:
        path: where.
        arrays: `NAMES` -> array, as in the module's docstring.

    Raises:
        ValueError: they are not what they must be.
    """
    _check(path, arrays)
    write_arrays(path, {name: arrays[name] for name in NAMES})


def read_features(path: Path, names: tuple[str, ...] = NAMES) -> Arrays:
    """The arrays of a file.

    Args:
        path: where it is.
        names: which arrays; they are checked if `features` is one of them.

    Raises:
        ValueError: they are not what they must be.
    """
    try:
        arrays = read_arrays(path, names)
    except READ_ERRORS as error:
        raise ValueError(
            f"a file of features must be an .npz of plain arrays ({', '.join(NAMES)}), got {path} "
            f"({error}); {HOW_TO_GET_FEATURES}"
        ) from error
    if "features" in names:
        _check(path, arrays)
    return arrays


def _check(path: Path, arrays: Arrays) -> None:
    """Raises ValueError, naming the array, if they do not make a set of features."""
    features, labels, names, splits = (arrays[name] for name in NAMES)

    def refuse(rule: str, got: object) -> None:
        raise ValueError(f"{rule}, got {got} in {path}; make the file again")

    if features.ndim != 2 or features.dtype.kind != "f" or 0 in features.shape:
        refuse("features must be floats [N, D]", f"{features.dtype} {list(features.shape)}")
    if not np.isfinite(features).all():
        row = int(np.flatnonzero(~np.isfinite(features).all(axis=1))[0])
        refuse("features must be finite", f"NaN or infinity in row {row}")
    _check_float32(features, refuse)
    if labels.shape != features.shape[:1] or labels.dtype.kind not in "iu":
        rule = f"labels must be whole numbers [{len(features)}], one for each row of features"
        refuse(rule, f"{labels.dtype} {list(labels.shape)}")
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(names.tolist())) != len(names):
        refuse("class_names must be texts [C], no two alike", f"{names.dtype} {list(names.shape)}")
    if splits.shape != names.shape or not set(splits.tolist()) <= set(SPLITS):
        rule = f"class_splits must say train, val or test for each of the {len(names)} classes"
        refuse(rule, f"{sorted(map(str, set(splits.ravel().tolist())))} {list(splits.shape)}")
    if labels.min() < 0 or labels.max() >= len(names):
        refuse(f"labels must be in 0..{len(names) - 1}", f"{labels.min()}..{labels.max()}")
    for c in np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0):
        refuse("every class must have a row of features", f"none of class {str(names[c])!r}")


def _check_float32(features: npt.NDArray[Any], refuse: Callable[[str, object], None]) -> None:
    """Refuses what float32, in which all is computed, has no room for."""
    if features.dtype.itemsize <= 4:
        return
    sizes = np.abs(features).max(axis=1)
    row, limits = int(np.argmax(sizes)), np.finfo(np.float32)
    if sizes[row] > limits.max:
        refuse(f"features must be within ±{limits.max:.2g}", f"{sizes[row]:.3g} in row {row}")
    if 0 < sizes[row] < limits.tiny:
        refuse(f"some features must be above {limits.tiny:.2g}", f"at most {sizes[row]:.3g}")
