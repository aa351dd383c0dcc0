"""What the inputs and targets of a learner must be, and how a user's examples are converted.

Letters: N examples; C, H, W channels, height and width of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dmeta.bilevel.types import Examples
from dmeta.tasks.inputs import (
    InputForm,
    image_input,
    input_form_of,
    resized_images,
    unit_vectors,
)
from dmeta.tasks.source import TaskSource

Array: TypeAlias = Tensor | npt.ArrayLike
Preprocess: TypeAlias = Callable[[Tensor], Tensor]

_ROUNDING = 1e-3  # floats of images may leave 0..1 by so much


@dataclass(frozen=True)
class InputFormat:
    """What the examples of a run's tasks are; plain data but for `preprocess`.

    Attributes:
        shape: of one example as the network sees it.
        form: how the task source stores its examples, if it says so.
        dtype: of network inputs: floats, or whole numbers (such as token ids).
        target_shape: of one target of a regression; None: unknown, or a classification.
        preprocess: of the user's own task source; None: inputs are given as the network sees them.
    """

    shape: tuple[int, ...]
    form: InputForm | None = None
    dtype: Literal["float32", "int64"] = "float32"
    target_shape: tuple[int, ...] | None = None
    preprocess: Preprocess | None = field(default=None, repr=False)

    def read(self, name: str, given: Array, *, resize: bool = False) -> Tensor:
        """[N, *shape] network inputs on the device they are given on.

        Args:
            name: of the argument, for messages.
            given: tensor, array or nested lists.
            resize: bring images of other sizes to this one.

        Raises:
            ValueError: they are not N examples of this format; the message says what to change.
        """
        x = _as_tensor(name, given)
        if self.preprocess is not None:
            x = self._preprocessed(name, x)
        elif self.form == "images":
            x = self._images(name, x, resize=resize)
        elif resize:
            raise ValueError(
                f"resize=True must be for a learner of images, got one whose {name} has shape "
                f"{_shown(self.shape)}; remove resize"
            )
        if tuple(x.shape[1:]) != self.shape or len(x.shape) == 0:
            raise ValueError(self._wrong_shape(name, x))
        if self.dtype == "int64":
            return self._whole(name, x)
        x = self._floats(name, x)
        return unit_vectors(x) if self.form == "unit_vectors" else x

    def _images(self, name: str, x: Tensor, *, resize: bool) -> Tensor:
        """Bytes are converted as the source's own; of either, the size is changed if asked for."""
        channels, height, width = self.shape
        if x.dtype == torch.uint8 and x.dim() == 4 and x.shape[-1] == channels:
            if tuple(x.shape[1:]) != self.shape:  # channels last, as the sources store them
                x = x.movedim(-1, 1)
        elif x.dtype == torch.uint8 and x.dim() == 3 and channels == 1:
            x = x.unsqueeze(1)
        if x.dim() != 4 or x.shape[1] != channels:
            raise ValueError(self._wrong_shape(name, x))
        if tuple(x.shape[2:]) != (height, width):
            if not resize:
                raise ValueError(self._wrong_shape(name, x))
            if x.dtype != torch.uint8:
                _check_images(name, x)
            x = resized_images(x, height, width)
        if x.dtype == torch.uint8:
            return image_input(x.movedim(1, -1), has_channels=True)
        _check_images(name, x)
        return x

    def _preprocessed(self, name: str, x: Tensor) -> Tensor:
        assert self.preprocess is not None
        try:
            return self.preprocess(x)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise ValueError(
                f"{name} must be what the source's preprocess takes, got {_kind(x)} of shape "
                f"{list(x.shape)}: {error}; give examples as the source stores them"
            ) from error

    def _floats(self, name: str, x: Tensor) -> Tensor:
        is_image = len(self.shape) == 3 and self.form is None
        if is_image and not (x.is_floating_point() or x.dtype == torch.bool):
            raise ValueError(
                f"{name} must be floats, as the task source's preprocess makes them, got "
                f"{_kind(x)}; convert them, or load the learner with dmeta.load(run_dir, "
                "source=...), which applies the preprocess of your source"
            )
        wide = x.to(torch.float32)
        _check_finite(name, wide)
        return wide

    def _whole(self, name: str, x: Tensor) -> Tensor:
        if x.is_floating_point() or x.dtype == torch.bool:
            raise ValueError(
                f"{name} must be whole numbers, as in training, got {_kind(x)}; convert them"
            )
        return x.to(torch.int64)

    def _wrong_shape(self, name: str, x: Tensor) -> str:
        return (
            f"{name} must have shape [N, {', '.join(map(str, self.shape))}], got {list(x.shape)}; "
            f"{self._advice(name, tuple(x.shape))}"
        )

    def _advice(self, name: str, got: tuple[int, ...]) -> str:
        """How examples of another shape are brought to this one."""
        if got == self.shape:
            return f"give several examples, or one as {name}[None]"
        if got[1:] != self.shape and (1, *got[1:]) == self.shape:
            return f"add the channel: {name}[:, None]"
        if len(self.shape) == 3 and len(got) == 4:
            channels, *size = self.shape
            if got[3] == channels and got[1] != channels:
                resized = "" if list(got[1:3]) == size else ", then resize=True"
                return (
                    f"put the channels first: {name}.permute(0, 3, 1, 2) of a tensor, "
                    f"numpy.moveaxis({name}, -1, 1) of an array{resized}"
                )
            if got[1] == channels:
                if self.form == "images":
                    return f"pass resize=True, or resize the images to {size[0]}x{size[1]}"
                return f"resize the images to {size[0]}x{size[1]}"
            if got[2:] == tuple(size) or 1 in (got[1], got[3]) or 3 in (got[1], got[3]):
                wanted = {1: "grey", 3: "colour (RGB)"}.get(channels, f"{channels}-channel")
                return f"convert the images to {wanted} ones"
        if len(got) == len(self.shape) + 1:
            return "give examples of the shape that the learner was trained on"
        return f"give N examples of {len(self.shape)} dimensions each"


def input_format(source: TaskSource, support: Examples) -> InputFormat:
    """The format of a source's examples.

    Args:
        source: whose tasks a learner is trained on.
        support: examples of one of its tasks, preprocessed.
    """
    form = input_form_of(source)
    if form is not None:
        return InputFormat(source.input_shape, form)
    target = tuple(support.y.shape[1:]) if source.kind == "regression" else None
    dtype: Literal["float32", "int64"] = "float32" if support.x.is_floating_point() else "int64"
    return InputFormat(source.input_shape, None, dtype, target)


def read_values(
    name: str, given: Array, num_examples: int, shape: tuple[int, ...] | None
) -> Tensor:
    """[N, *shape] float32 targets of a regression.

    Args:
        name: of the argument, for messages.
        given: tensor, array or nested lists.
        num_examples: N.
        shape: of one target; None: unknown.

    Raises:
        ValueError: they are not that.
    """
    y = _as_tensor(name, given).to(torch.float32)
    if len(y.shape) == 0 or len(y) != num_examples:
        got = len(y) if len(y.shape) else "a single number"
        raise ValueError(f"{name} must have {num_examples} rows, got {got}; give one per example")
    if shape is not None and tuple(y.shape[1:]) != shape:
        advice = "give targets of the shape that the learner was trained on"
        if y.numel() == num_examples * int(np.prod(shape)):
            advice = f"reshape it: {name}.reshape(-1, {', '.join(map(str, shape))})"
        raise ValueError(
            f"{name} must have shape [{', '.join(map(str, (num_examples, *shape)))}], got "
            f"{list(y.shape)}; {advice}"
        )
    _check_finite(name, y)
    return y


def _as_tensor(name: str, given: Array) -> Tensor:
    if isinstance(given, Tensor):
        if given.is_complex():
            raise ValueError(f"{name} must be real numbers, got {_kind(given)}; take a part")
        return given.detach()
    try:
        array = np.asarray(given)
    except ValueError as error:  # nested lists of unequal lengths
        raise ValueError(
            f"{name} must be one array, got examples of unequal shapes ({error}); give examples of "
            "one shape"
        ) from error
    if array.dtype.kind not in "fiub":
        raise ValueError(
            f"{name} must be an array of numbers, got {array.dtype}; give floats or uint8"
        )
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype(np.int64)
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:  # torch has nothing longer
        array = array.astype(np.float64)
    return torch.from_numpy(array.copy())


def _check_images(name: str, x: Tensor) -> None:
    """Raises ValueError if they are no floats in 0..1."""
    if x.dtype != torch.bool and not x.is_floating_point():
        raise ValueError(
            f"{name} must be images as uint8 in 0..255 or as floats in 0..1, got {_kind(x)}; "
            f"convert it to uint8"
        )
    wide = x.to(torch.float32)
    _check_finite(name, wide)
    if wide.numel() and (wide.min() < -_ROUNDING or wide.max() > 1 + _ROUNDING):
        raise ValueError(
            f"{name} must be images as floats in 0..1 (or as uint8 in 0..255), got values in "
            f"{wide.min():.4g}..{wide.max():.4g}; "
            + (
                "divide them by 255"
                if wide.min() >= 0 and wide.max() > 2
                else "undo their normalisation: the learner was trained on values in 0..1"
            )
        )


def _check_finite(name: str, x: Tensor) -> None:
    wrong = ~x.isfinite().flatten(1).all(1) if x.dim() > 1 else ~x.isfinite()
    if wrong.any():
        rows = wrong.nonzero().flatten().tolist()
        raise ValueError(
            f"{name} must be finite float32 numbers, got NaN or infinity in {len(rows)} of "
            f"{len(x)} rows (the first is row {rows[0]}); remove or repair them"
        )


def _shown(shape: tuple[int, ...]) -> str:
    return f"[N, {', '.join(map(str, shape))}]"


def _kind(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")
