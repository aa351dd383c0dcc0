"""Changes the images of a training task at random, by the task's own generator.

What it is done with is a transform of torchvision, which draws from torch's global generator, or
any callable. So torch's, numpy's and Python's global generators are seeded for the task, and
restored afterwards. Which source the images are of is unknown here.

Letters: n images, S support examples, Q query examples.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmeta.options import NamedOptions, checked_options
from dmeta.registry import UnknownNameError
from dmeta.tasks.augmentation import AUGMENTATIONS
from dmeta.tasks.inputs import input_form_of
from dmeta.tasks.source import DrawnBatch, DrawnTask, TaskSource
from dmeta.torchvision_compat import import_transforms

ImageTransform: TypeAlias = Callable[[Tensor], Tensor]
"""uint8 images -> changed ones of the same shape and type."""

KEY = "task.augment"


@dataclass(frozen=True, eq=False)
class Augmentation:
    """What training images are changed by.

    Attributes:
        transform: a transform of torchvision is called with each image [C, H, W], for it draws its
            random numbers once a call; anything else with all images of a task, [n, C, H, W].
    """

    transform: ImageTransform

    @property
    def one_by_one(self) -> bool:
        """Whether it is called with each image."""
        return type(self.transform).__module__.partition(".")[0] == "torchvision"

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process imports torchvision in our way before it makes a transform of it."""
        return _received, (_Torchvision() if self.one_by_one else None, self.transform)

    def task(self, task: DrawnTask, rng: np.random.Generator) -> DrawnTask:
        """A drawn task with other images; the generator is asked for one number."""
        both = np.concatenate([task.support_x, task.query_x])
        support_x, query_x = np.split(self._changed(both, rng), [len(task.support_x)])
        return DrawnTask(support_x, task.support_y, query_x, task.query_y)

    def batch(self, batch: DrawnBatch, rng: np.random.Generator) -> DrawnBatch:
        """Likewise a mini-batch."""
        return DrawnBatch(self._changed(batch.x, rng), batch.y)

    def _changed(self, x: npt.NDArray[Any], rng: np.random.Generator) -> npt.NDArray[Any]:
        """Stored images, uint8 [n, H, W] or [n, H, W, C]."""
        stored = torch.from_numpy(x)
        images = stored[:, None] if stored.dim() == 3 else stored.movedim(-1, 1).contiguous()
        with _generators(int(rng.integers(2**32))):
            changed = self._apply(images)
        found: npt.NDArray[Any] = changed.movedim(1, -1).reshape(stored.shape).numpy()
        return found

    def _apply(self, images: Tensor) -> Tensor:
        try:
            if not self.one_by_one:
                changed = self.transform(images)
                _check_like(changed, images)
                return changed
            parts = [self.transform(image) for image in images]
        except (RuntimeError, IndexError, TypeError) as error:
            raise ValueError(
                f"{KEY} must be transforms that take images of shape {list(images.shape[1:])}, "
                f"got: {error}; change their options"
            ) from error
        for part, image in zip(parts, images, strict=True):
            _check_like(part, image)
        return torch.stack(parts)


def _check_like(changed: Any, images: Tensor) -> None:
    if not isinstance(changed, Tensor):
        got = type(changed).__name__
    elif changed.dtype != torch.uint8 or changed.shape != images.shape:
        got = f"{changed.dtype} {list(changed.shape)}"
    else:
        return
    raise ValueError(
        f"an augmentation must return images as it gets them, uint8 {list(images.shape)}, got "
        f"{got}; correct it (no normalisation, no conversion to floats)"
    )


@contextlib.contextmanager
def _generators(seed: int) -> Iterator[None]:
    """Every global generator that a transform may draw from, seeded; restored afterwards."""
    own, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - others draw from it
    of_torch = torch.get_rng_state()
    try:
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        # Without torch.manual_seed, which would seed GPUs, too, and those are not restored.
        torch.default_generator.manual_seed(seed)
        yield
    finally:
        random.setstate(own)
        np.random.set_state(of_numpy)  # noqa: NPY002
        torch.set_rng_state(of_torch)


def check_augment(choices: Sequence[NamedOptions]) -> None:
    """Raises ValueError, with the key, if a named augmentation or an option of it is unknown."""
    for place, choice in enumerate(choices):
        _made_of(choice, f"{KEY}[{place}]")


def augmentation_of(
    choices: Sequence[NamedOptions], given: ImageTransform | None, source: TaskSource
) -> Augmentation | None:
    """What the training images of a source are changed by; None: nothing.

    Args:
        choices: names and options, in order.
        given: instead of these, a user's own.
        source: of the images.

    Raises:
        ValueError: the source is of no images, or an option is out of its range.
    """
    if given is None and not choices:
        return None
    if input_form_of(source) != "images":
        got = "augment=..." if given is not None else [each.name for each in choices]
        raise ValueError(
            f"{KEY} must be [] with a source that is not of images (whose input_form is not "
            f"'images'), got {got}; remove it"
        )
    if given is not None:
        return Augmentation(given)
    shape = source.input_shape
    made = [_made_of(each, f"{KEY}[{i}]")(input_shape=shape) for i, each in enumerate(choices)]
    return Augmentation(import_transforms().Compose(made))


def _made_of(choice: NamedOptions, key: str) -> Callable[..., Any]:
    """The factory of a named augmentation with its options, still to be given the shape."""
    try:
        entry = AUGMENTATIONS[choice.name]
    except UnknownNameError as error:
        raise ValueError(f"{key}: {error}") from None
    options = checked_options(entry.make, choice, key)

    def make(*, input_shape: tuple[int, ...]) -> Any:
        try:
            return entry.make(input_shape=input_shape, **options)
        except ValueError as error:  # of a number out of its range, mostly torchvision's own
            raise ValueError(f"{key} ({choice.name}): {error}; change it") from error

    return make


class _Torchvision:
    """Pickled before what is of torchvision: imports it where it would not import as it is."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _import_torchvision, ()


def _import_torchvision() -> None:
    """Imports `torchvision.transforms.v2`."""
    import_transforms()


def _received(_: None, transform: ImageTransform) -> Augmentation:
    return Augmentation(transform)
