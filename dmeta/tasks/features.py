"""Few-shot classification tasks from feature vectors of a trained network.

Which network made them, and of what, is unknown here.

Letters: N examples, D features, C classes in all, V classes of a split, B vectors of a mini-batch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, TypeAlias, final, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmeta.addresses import is_address, local_path
from dmeta.bilevel.types import Kind
from dmeta.tasks.classes import (
    IntArray,
    batch_from,
    check_episode,
    class_counts,
    draw_episode,
    draw_rows,
    drawn_from,
    make_starts,
    rows_of,
)
from dmeta.tasks.data_root import DistantFile, fetch_file, list_distant, resolve_root
from dmeta.tasks.feature_files import HOW_TO_GET_FEATURES, Arrays, read_features
from dmeta.tasks.file_digest import checked_digest
from dmeta.tasks.inputs import InputForm
from dmeta.tasks.samplers import OF_CLASSES
from dmeta.tasks.sizes import check_split
from dmeta.tasks.source import SPLITS, DrawnBatch, DrawnTask, EpisodeSize, Sampler, Split
from dmeta.tasks.status import DataSetStatus, MissingDataError

FloatArray = npt.NDArray[np.float32]
Normalize: TypeAlias = Literal["none", "l2"]

FOLDER = "features"
"""Where under the data root files are looked for by name."""


@final
@dataclass(frozen=True, eq=False, repr=False)
class FeatureClasses:
    """Feature vectors sorted by class, and which classes each split has.

    Attributes:
        features: [N, D], or floats of another shape [N, ...], float32; class c is rows
            starts[c]:starts[c + 1].
        class_names: the C names, sorted.
        starts: [C + 1] int64 offsets into features.
        splits: split -> [V] int64 classes.
        sha256: of the file that they were read from; None: of none.
        input_form: ``unit_vectors`` where the vectors were divided by their lengths.
    """

    features: FloatArray
    class_names: tuple[str, ...]
    starts: IntArray
    splits: Mapping[Split, IntArray]
    sha256: str | None = None
    input_form: InputForm | None = None

    samplers: ClassVar[tuple[Sampler, ...]] = OF_CLASSES

    def __repr__(self) -> str:
        rows, *shape = self.features.shape
        what = f"vectors of {shape[0]:,}" if len(shape) == 1 else f"examples {tuple(shape)}"
        return f"FeatureClasses({rows:,} {what}, {class_counts(self)})"

    @property
    def kind(self) -> Kind:
        """Classification."""
        return "classification"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(D,), or the shape of an example."""
        return self.features.shape[1:]

    def num_outputs(self, ways: int) -> int:
        """One logit per class."""
        return ways

    def split_class_names(self, split: Split) -> tuple[str, ...]:
        """Names of the V classes of a split."""
        return tuple(self.class_names[c] for c in self.splits[split])

    def class_examples(self, split: Split, place: int) -> FloatArray:
        """All vectors of the class at `place` in 0..V-1: [n, D]."""
        c = self.splits[split][place]
        return self.features[self.starts[c] : self.starts[c + 1]].copy()

    def check(self, split: Split, size: EpisodeSize) -> None:
        """Raises ValueError if the split has too few classes, or one of them too few vectors."""
        check_split(split)
        check_episode(split, size, self.splits[split], self.starts, self.class_names)

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        """See `dmeta.tasks.classes.draw_episode`."""
        return drawn_from(self, self.pick(split, size, rng))

    @property
    def examples(self) -> FloatArray:
        """The stored vectors."""
        return self.features

    def pick(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        """`draw`, but of each vector only its row: x are [S, 1] and [Q, 1]."""
        self.check(split, size)
        drawn = draw_episode(split, size, self.splits[split], self.starts, self.class_names, rng)
        return DrawnTask(
            drawn.support[:, None], drawn.support_y, drawn.query[:, None], drawn.query_y
        )

    def num_classes(self, split: Split) -> int:
        """V."""
        return len(self.splits[split])

    def draw_batch(self, split: Split, num_examples: int, rng: np.random.Generator) -> DrawnBatch:
        """B vectors without replacement, of any class."""
        return batch_from(self, self.pick_batch(split, num_examples, rng))

    def pick_batch(self, split: Split, num_examples: int, rng: np.random.Generator) -> DrawnBatch:
        """`draw_batch`, but of each vector only its row: x is [B, 1]."""
        check_split(split)
        places, rows = draw_rows(split, num_examples, self.splits[split], self.starts, rng)
        return DrawnBatch(rows[:, None], places)

    def take(self, examples: Tensor, picks: Tensor) -> Tensor:
        """Copies of the vectors at picks [..., 1]."""
        return rows_of(examples, picks[..., 0])

    def preprocess(self, x: Tensor) -> Tensor:
        """As they are: [..., D] float32."""
        return x.to(torch.float32)


def load_features(
    *,
    file: str | None = None,
    root: str | None = None,
    normalize: Normalize = "none",
    sha256: str | None = None,
) -> FeatureClasses:
    """Tasks of the feature vectors in a file.

    Args:
        file: its path or address, or its name in ``features/`` under the data root.
        root: the data root, a folder or an address; None means DMETA_DATA, else ./data.
        normalize: ``none``, or ``l2``: every vector is brought to length 1.
        sha256: check sum that the file must have; None: any. A run notes that of its file, so that
            it can be resumed when the file has moved, and not with another one.

    Raises:
        MissingDataError: there is no such file.
        ValueError: the file is not what it must be.
    """
    if normalize not in get_args(Normalize):
        raise ValueError(
            f"normalize must be {' or '.join(get_args(Normalize))}, got {normalize!r}; "
            "change task.normalize"
        )
    if file is None:
        raise ValueError(
            f"task.file must name a file of features, got nothing; {HOW_TO_GET_FEATURES}"
        )
    path = _find(file, root)
    source = _sorted_by_class(read_features(path))
    if normalize == "l2":
        _bring_to_length_one(source.features)
        source = dataclasses.replace(source, input_form="unit_vectors")
    return dataclasses.replace(source, sha256=checked_digest([path], sha256))


def _bring_to_length_one(features: FloatArray) -> None:
    """In place; a vector of zeros stays one."""
    with np.errstate(over="ignore"):
        lengths = np.linalg.norm(features, axis=1, keepdims=True)
    # The squares of float32 beyond 1e19, or below 1e-19, are infinite, or 0 or inexact.
    coarse = ~((lengths[:, 0] > 1e-15) & np.isfinite(lengths[:, 0]))
    wide = features[coarse].astype(np.float64)
    np.divide(features, lengths, out=features, where=(lengths > 0) & ~coarse[:, None])
    exact = np.linalg.norm(wide, axis=1, keepdims=True)
    features[coarse] = np.divide(wide, exact, out=np.zeros_like(wide), where=exact > 0)


def _find(file: str, root: str | None) -> Path:
    if is_address(file):
        return fetch_file(file, "features")
    path = local_path(file)
    if path.is_file():
        return path
    under_root = resolve_root(root, "features", [[f"{FOLDER}/{file}"]]) / FOLDER / file
    if not under_root.is_file():
        raise MissingDataError(
            "features", f"no file {file}", [path, under_root], HOW_TO_GET_FEATURES
        )
    return under_root


def _sorted_by_class(arrays: Arrays) -> FeatureClasses:
    """Classes by name, so that their order in the file does not show; rows as they were."""
    order = np.argsort(arrays["class_names"])
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    labels = rank[arrays["labels"]]
    splits = arrays["class_splits"][order]
    return FeatureClasses(
        arrays["features"][np.argsort(labels, kind="stable")].astype(np.float32, copy=False),
        tuple(str(name) for name in arrays["class_names"][order]),
        make_starts(np.bincount(labels, minlength=len(order)).tolist()),
        {split: np.flatnonzero(splits == split) for split in SPLITS},
    )


def distant_files(root: str) -> list[tuple[str, DistantFile | None]]:
    """The files in ``features/`` below a URL."""
    found = list_distant(root, FOLDER, ".npz")
    return [(str(file), file) for file in found] or [(f"{FOLDER}/*.npz", None)]


def status(root: Path) -> DataSetStatus:
    """Which files lie in ``features/`` under `root`; their vectors are not read."""
    folder = root / FOLDER
    found, missing = [], []
    for path in sorted(folder.glob("*.npz")):
        try:
            arrays = read_features(path, ("labels", "class_splits"))
        except ValueError as error:
            missing.append(str(error))
            continue
        counts = ", ".join(f"{(arrays['class_splits'] == s).sum()} {s}" for s in SPLITS)
        found.append(f"{path.name}: {len(arrays['labels'])} vectors, classes: {counts}")
    if not found and not missing:
        missing = ["a file *.npz"]
    return DataSetStatus(
        name="features",
        needs_data=True,
        complete=not missing,
        where=(str(folder),),
        found="; ".join(found) or "nothing",
        missing=tuple(missing),
        how_to_get="" if not missing else HOW_TO_GET_FEATURES,
    )
