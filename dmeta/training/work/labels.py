"""A user's class labels, of any kind, as columns of a learner's logits.

Letters: S examples, W classes.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Hashable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Labels(NamedTuple):
    """The labels of a support set.

    Attributes:
        columns: [S] int64 in 0..W-1.
        classes: the W distinct labels, sorted if they can be; column w is the w-th of them.
    """

    columns: Tensor
    classes: tuple[Hashable, ...]


def read_labels(name: str, given: Any, num_examples: int, ways: int | None) -> Labels:
    """Labels of any hashable kind, one per example.

    Args:
        name: of the argument, for messages.
        given: a tensor, an array or a sequence of labels.
        num_examples: S.
        ways: most classes that the learner can tell apart; None: any number.

    Raises:
        ValueError: they are not S labels, one is missing or negative, or they are too many classes.
    """
    labels = [_label(name, each) for each in _listed(name, given)]
    if len(labels) != num_examples:
        raise ValueError(
            f"{name} must have {num_examples} rows, got {len(labels)}; give one label per example"
        )
    classes = _in_order(dict.fromkeys(labels))
    if ways is not None and len(classes) > ways:
        raise ValueError(
            f"{name} must have at most {ways} classes, got {len(classes)}: the network has one "
            "output for each class of its training tasks; give fewer classes, or train with "
            f"task.ways={len(classes)}, or with an algorithm for any number (protonet, proto_maml)"
        )
    place = {label: column for column, label in enumerate(classes)}
    return Labels(torch.tensor([place[label] for label in labels], dtype=torch.int64), classes)


def _listed(name: str, given: Any) -> list[Any]:
    shape = getattr(given, "shape", None)
    if shape is not None and len(shape) != 1:
        advice = {0: "give a list"}.get(len(shape), f"flatten it: {name}.reshape(-1)")
        if len(shape) == 2 and shape[1] > 1:
            advice = f"for one-hot rows take {name}.argmax(1)"
        raise ValueError(
            f"{name} must be one label per example, got an array of shape {list(shape)}; {advice}"
        )
    if isinstance(given, Tensor | np.ndarray):
        return list(given.tolist())
    if isinstance(given, str | bytes) or not isinstance(given, Iterable):
        raise ValueError(f"{name} must be one label per example, got {given!r}; give a list")
    return list(given)


def _label(name: str, each: Any) -> Hashable:
    """A label as plain Python; whole floats are integers."""
    if isinstance(each, np.generic | Tensor) and not getattr(each, "shape", ()):
        each = each.item()
    if not isinstance(each, Hashable):
        raise ValueError(
            f"{name} must be hashable labels (whole numbers, texts), got {type(each).__name__}; "
            "give one label per example"
        )
    if each is None or (isinstance(each, float) and math.isnan(each)):
        raise ValueError(
            f"{name} must have a label for every example, got {each}; remove examples without one"
        )
    if isinstance(each, float):
        if not each.is_integer():
            raise ValueError(f"{name} must be whole numbers or texts, got {each}; round them")
        each = int(each)
    if isinstance(each, numbers.Integral) and each < 0:
        raise ValueError(
            f"{name} must be >= 0 where labels are numbers (-1 and -100 often mean none), got "
            f"{each}; remove such examples, or give texts"
        )
    found: Hashable = each
    return found


def _in_order(labels: Iterable[Any]) -> tuple[Hashable, ...]:
    labels = list(labels)
    try:
        return tuple(sorted(labels))
    except TypeError:  # of several kinds: as they come
        return tuple(labels)
