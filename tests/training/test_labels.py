"""Class labels of any kind become columns 0..W-1, or are refused with the remedy."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from dmeta.training.work.labels import read_labels


@pytest.mark.parametrize(
    ("given", "columns", "classes"),
    [
        ([0, 2, 1, 0], [0, 2, 1, 0], (0, 1, 2)),
        (np.array([0, 1], np.int32), [0, 1], (0, 1)),
        (torch.tensor([1.0, 0.0]), [1, 0], (0, 1)),
        (np.array([1, 0], np.uint8), [1, 0], (0, 1)),
        ([3, 1, 3], [1, 0, 1], (1, 3)),
        (["dog", "cat", "dog"], [1, 0, 1], ("cat", "dog")),
        (np.array(["b", "a"]), [1, 0], ("a", "b")),
        ([("x", 1), ("a", 2)], [1, 0], (("a", 2), ("x", 1))),
        (["b", 1, "a", 1], [0, 1, 2, 1], ("b", 1, "a")),
        ([True, False], [1, 0], (False, True)),
        ([torch.tensor(4), torch.tensor(2)], [1, 0], (2, 4)),
        (iter(["b", "a"]), [1, 0], ("a", "b")),
    ],
)
def test_distinct_labels_are_the_columns_in_order(
    given: Any, columns: list[int], classes: tuple[Any, ...]
) -> None:
    read = read_labels("y", given, len(columns), None)
    assert read.columns.dtype == torch.int64
    assert read.columns.tolist() == columns
    assert read.classes == classes
    assert [type(label) for label in read.classes] == [type(label) for label in classes]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            [0, -1, 1],
            "y must be >= 0 where labels are numbers (-1 and -100 often mean none), got -1",
        ),
        (torch.tensor([0, -100, 1]), "got -100; remove such examples, or give texts"),
        ([0, 1], "y must have 3 rows, got 2; give one label per example"),
        (np.eye(3), "for one-hot rows take y.argmax(1)"),
        (np.zeros((3, 1)), "flatten it: y.reshape(-1)"),
        (np.array(1), "got an array of shape []; give a list"),
        ([0.5, 1, 2], "y must be whole numbers or texts, got 0.5"),
        ([0, 1, float("nan")], "must have a label for every example, got nan"),
        (["a", None, "b"], "must have a label for every example, got None"),
        ([[0], [1], [2]], "must be hashable labels (whole numbers, texts), got list"),
        ("abc", "must be one label per example, got 'abc'; give a list"),
        (3, "must be one label per example, got 3; give a list"),
        (["a", "b", "c"], "at most 2 classes, got 3: the network has one output for each class"),
        (["a", "b", "c"], "train with task.ways=3, or with an algorithm for any number"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_the_remedy(given: Any, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        read_labels("y", given, 3, 2)
