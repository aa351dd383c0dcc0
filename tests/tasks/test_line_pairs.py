from __future__ import annotations

from pathlib import Path

import pytest

from dmeta.tasks.line_pairs import is_pair, read_pair
from tests.tasks.conftest import real_data, write_pair


def test_texts_and_labels_are_paired_by_line(tmp_path: Path) -> None:
    folder = write_pair(
        tmp_path / "train", "where is it\nhow  much?\u2028really\n", "place\r\ncost\n"
    )
    assert is_pair(folder)
    assert not is_pair(tmp_path)
    assert [(line, cells["text"], cells["label"].strip()) for line, cells in read_pair(folder)] == [
        (1, "where is it", "place"),
        (2, "how  much?\u2028really", "cost"),
    ]


def test_a_blank_line_takes_its_label_with_it(tmp_path: Path) -> None:
    folder = write_pair(tmp_path / "train", "one\n \ntwo\n\n", "a\nb\nc\nd\n")
    with pytest.warns(UserWarning, match=r"2 blank lines of seq\.in \('line 2', 'line 4'\)"):
        rows = read_pair(folder)
    assert [tuple(cells.values()) for _, cells in rows] == [("one", "a"), ("two", "c")]


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        ("one\ntwo\n", "a\nb\nc\n", r"a line for each text, got 2 and 3 lines in"),
        ("one\ntwo\n", "a\n\n", r"must be a label, got nothing in line 2"),
        ("", "", r"must have at least one text, got none"),
        (b"\xff\n", "a\n", r"must be readable, got 'seq\.in'"),
    ],
)
def test_other_files_are_refused(
    tmp_path: Path, texts: str | bytes, labels: str, message: str
) -> None:
    folder = write_pair(tmp_path / "train", texts, labels)
    with pytest.raises(ValueError, match=message):
        read_pair(folder)


@pytest.mark.data
def test_published_splits_of_intents_with_blank_lines() -> None:
    root = real_data("intents/BANKING77-OOS") / "intents" / "BANKING77-OOS"
    with pytest.warns(UserWarning, match=r"2 blank lines of seq\.in"):
        rows = read_pair(root / "train")
    assert len(rows) == 5903
    numbered = dict(enumerate((root / "train" / "label").read_text().split("\n"), 1))
    assert all(cells["label"] == numbered[line] for line, cells in rows)
