"""Few-shot classification of your own time series, from ``.ts`` files (the UCR and UEA archives).

Letters: L positions, C channels.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import NonNegativeInt, PositiveInt

from dmeta.tasks.class_splits import Division, Ratio, SplitBy, split_classes, warn_of_left_out
from dmeta.tasks.data_root import own_file
from dmeta.tasks.features import FeatureClasses
from dmeta.tasks.file_digest import checked_digest
from dmeta.tasks.source import SPLITS, Split
from dmeta.tasks.ts_files import LabelledSeries, read_series


def load_series(
    *,
    file: str = "",
    test_file: str | None = None,
    length: PositiveInt | None = None,
    fit: Literal["pad", "stretch"] = "pad",
    normalize: bool = True,
    split_by: SplitBy = "class",
    split_ratio: Ratio = (0.6, 0.2, 0.2),
    split_seed: NonNegativeInt = 0,
    min_per_class: PositiveInt = 1,
    sha256: str | None = None,
) -> FeatureClasses:
    """Tasks of the series in a file, each [L, C].

    Args:
        file: a ``.ts`` file with class labels, on this machine or a URL.
        test_file: another one, whose series are those of the split test; those of `file` are then
            of train, and there is no val. Of the same classes: set ``split_by=example``.
        length: positions that series are brought to, L; None: those of the longest.
        fit: how a series of another length is brought to L: ``pad``: zeros are appended, or its end
            is cut off; ``stretch``: linear interpolation.
        normalize: each channel of a series has mean 0 and standard deviation 1.
        split_by: ``class``: a class is in one split alone, so that test tasks have new classes;
            ``example``: the series of each class are divided, and test tasks have the classes of
            training.
        split_ratio: shares of train, val and test, without `test_file`.
        split_seed: of that division.
        min_per_class: classes with fewer series are left out.
        sha256: check sum that the files must have; None: any. A run notes that of its files.

    Raises:
        ValueError: a file is no such file, or a class is in two splits.
    """
    division = Division(split_by, split_ratio, split_seed)
    division.check()
    path = own_file(file, "task.file", "a .ts file")
    paths = [path]
    if test_file is not None:
        paths.append(own_file(test_file, "task.test_file", "a .ts file"))
    digest = checked_digest(paths, sha256)
    parts = [read_series(each) for each in paths]
    series = [each for part in parts for each in part]
    splits: list[Split | None] = [None] * len(series)
    if test_file is not None:
        splits = [("train" if row < len(parts[0]) else "test") for row in range(len(series))]
    found = split_classes([each.label for each in series], splits, division, min_per_class)
    warn_of_left_out(path, {"classes with fewer series than task.min_per_class": found.left_out})
    longest = length or max(len(each.values) for each in series)
    channels = {each.values.shape[1] for each in series}
    if len(channels) > 1:
        raise ValueError(
            f"task.test_file must have as many channels as task.file, got {sorted(channels)}; "
            "correct one of them"
        )
    values = np.stack([_fitted(series[row], longest, fit, normalize) for row in found.rows])
    return FeatureClasses(
        values.astype(np.float32),
        found.class_names,
        found.starts,
        {split: np.array(found.splits[split], dtype=np.int64) for split in SPLITS},
        digest,
    )


def _fitted(
    series: LabelledSeries, length: int, fit: str, normalize: bool
) -> npt.NDArray[np.float64]:
    """[length, C]."""
    values = series.values
    if normalize:
        spread = values.std(axis=0)
        values = (values - values.mean(axis=0)) / np.where(spread > 0, spread, 1)
    if fit == "pad":
        short = max(0, length - len(values))
        return np.pad(values[:length], ((0, short), (0, 0)))
    at = np.linspace(0, len(values) - 1, length)
    own = np.arange(len(values))
    return np.stack([np.interp(at, own, channel) for channel in values.T], axis=1)
