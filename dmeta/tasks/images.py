"""Few-shot classification tasks from labelled images held in memory.

Every image set ends up as one `ImageClasses`; how its files are found and decoded is the business
of the set's own module, and unknown here.

Letters: N images, C stored classes, V classes of a split (a stored class, turned), W ways,
K shots, Q queries per class, B images of a mini-batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from dmeta.bilevel.types import Kind
from dmeta.tasks.archives import ByteArray
from dmeta.tasks.classes import (
    IntArray,
    batch_from,
    check_episode,
    class_counts,
    draw_episode,
    draw_rows,
    drawn_from,
    rows_of,
    shared_tensor,
)
from dmeta.tasks.inputs import InputForm, image_input
from dmeta.tasks.samplers import OF_CLASSES
from dmeta.tasks.sizes import check_split
from dmeta.tasks.source import SPLITS, DrawnBatch, DrawnTask, EpisodeSize, Sampler, Split


@final
@dataclass(frozen=True, eq=False, repr=False)
class ImageClasses:
    """Images sorted by class, and which classes each split has.

    A class of a split is a pair (stored class, quarter turns): turned classes cost no memory, the
    images are turned when drawn. In the splits of `turned_per_task` each class of a task is turned
    by further quarter turns, 0 to 3 at random.

    Attributes:
        images: [N, H, W] (grey) or [N, H, W, 3] (colour) uint8; class c is rows
            starts[c]:starts[c + 1].
        class_names: the C names, sorted.
        starts: [C + 1] int64 offsets into images.
        splits: split -> [V, 2] int64, rows (stored class, quarter turns counterclockwise).
        turned_per_task: splits in which the classes of a task are turned at random.
        sha256: of the file that they were read from; None: of none, or of several.
    """

    images: ByteArray
    class_names: tuple[str, ...]
    starts: IntArray
    splits: Mapping[Split, IntArray]
    turned_per_task: frozenset[Split] = frozenset()
    sha256: str | None = None

    input_form: ClassVar[InputForm] = "images"
    samplers: ClassVar[tuple[Sampler, ...]] = OF_CLASSES

    def __post_init__(self) -> None:
        assert self.images.dtype == np.uint8
        assert self.images.ndim in (3, 4)
        assert list(self.class_names) == sorted(set(self.class_names))
        assert self.starts.shape == (len(self.class_names) + 1,)
        assert self.starts[0] == 0
        assert self.starts[-1] == len(self.images)
        assert np.all(np.diff(self.starts) > 0)
        assert set(self.splits) == set(SPLITS)
        height, width = self.images.shape[1:3]
        for classes in self.splits.values():
            assert classes.ndim == 2
            assert classes.shape[1] == 2
            assert height == width or not np.any(classes[:, 1] % 2)
        assert height == width or not self.turned_per_task

    def __repr__(self) -> str:
        return f"ImageClasses({len(self.images):,} images {self.input_shape}, {class_counts(self)})"

    @property
    def kind(self) -> Kind:
        """Classification."""
        return "classification"

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width)."""
        height, width, *channels = self.images.shape[1:]
        return (channels[0] if channels else 1, height, width)

    def num_outputs(self, ways: int) -> int:
        """One logit per class."""
        return ways

    def split_class_names(self, split: Split) -> tuple[str, ...]:
        """Names of the V classes of a split, as ``Greek/character01/rot090``."""
        return tuple(f"{self.class_names[c]}/rot{90 * t:03d}" for c, t in self.splits[split])

    def class_examples(self, split: Split, place: int) -> ByteArray:
        """All images of the class at `place` in 0..V-1, turned: [n, H, W] or [n, H, W, 3]."""
        stored, turn = self.splits[split][place]
        rows = np.arange(self.starts[stored], self.starts[stored + 1])
        picks = _picks(rows, np.full(len(rows), turn))
        taken: ByteArray = self.take(shared_tensor(self.images), torch.from_numpy(picks)).numpy()
        return taken

    def check(self, split: Split, size: EpisodeSize) -> None:
        """Raises ValueError if the split has too few classes, or one of them too few images."""
        check_split(split)
        check_episode(split, size, self.splits[split][:, 0], self.starts, self.class_names)

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        """W classes without replacement; of each, K + Q images without replacement.

        Labels 0..W-1 follow the order in which the classes were drawn. Query rows are sorted by
        label.
        """
        return drawn_from(self, self.pick(split, size, rng))

    @property
    def examples(self) -> ByteArray:
        """The stored images."""
        return self.images

    def pick(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        """`draw`, but of each image only its row and its quarter turns: x are [S, 2], [Q, 2]."""
        self.check(split, size)
        classes = self.splits[split]
        drawn = draw_episode(split, size, classes[:, 0], self.starts, self.class_names, rng)
        turns = classes[drawn.chosen, 1]
        if split in self.turned_per_task:
            turns = (turns + rng.integers(4, size=len(turns))) % 4
        return DrawnTask(
            _picks(drawn.support, turns[drawn.support_y]),
            drawn.support_y,
            _picks(drawn.query, turns[drawn.query_y]),
            drawn.query_y,
        )

    def num_classes(self, split: Split) -> int:
        """V; 4 V in the splits of `turned_per_task`: a class turned is another class."""
        return len(self.splits[split]) * self._num_turns(split)

    def draw_batch(self, split: Split, num_examples: int, rng: np.random.Generator) -> DrawnBatch:
        """B images without replacement, of any class; those of `turned_per_task` turned."""
        return batch_from(self, self.pick_batch(split, num_examples, rng))

    def pick_batch(self, split: Split, num_examples: int, rng: np.random.Generator) -> DrawnBatch:
        """`draw_batch`, but of each image only its row and its quarter turns: x is [B, 2]."""
        check_split(split)
        classes = self.splits[split]
        places, rows = draw_rows(split, num_examples, classes[:, 0], self.starts, rng)
        most = self._num_turns(split)
        further = rng.integers(most, size=num_examples)
        turns = (classes[places, 1] + further) % 4
        return DrawnBatch(_picks(rows, turns), places * most + further)

    def _num_turns(self, split: Split) -> int:
        return 4 if split in self.turned_per_task else 1

    def take(self, examples: Tensor, picks: Tensor) -> Tensor:
        """Copies of the images at picks [..., 2], each turned by its own number of quarter turns.

        No step looks at the values of the picks, so on a GPU nothing waits for them.
        """
        rows, turns = picks.unbind(-1)
        images = rows_of(examples, rows)
        if not self._turns:
            return images
        height, width = self.images.shape[1:3]
        pixels = np.arange(height * width).reshape(height, width)
        turned = np.stack([np.rot90(pixels, turn).ravel() for turn in range(4)])
        source = torch.from_numpy(turned).to(picks.device)[turns]  # [..., pixel]: where it is from
        dim = turns.dim()
        flat = images.flatten(dim, dim + 1)
        if self.images.ndim == 4:
            source = source.unsqueeze(-1).expand_as(flat)
        return flat.gather(dim, source).view_as(images)

    @property
    def _turns(self) -> bool:
        """Whether an image of some task may be turned."""
        turned = any(np.any(classes[:, 1]) for classes in self.splits.values())
        return turned or bool(self.turned_per_task)

    def preprocess(self, x: Tensor) -> Tensor:
        """uint8 [..., H, W] or [..., H, W, 3] -> float32 [..., C, H, W] in [0, 1]."""
        return image_input(x, has_channels=self.images.ndim == 4)


def _picks(rows: IntArray, turns: IntArray) -> IntArray:
    return np.stack([rows, turns], axis=-1)
