"""Which class an image is of, by its name or by a table."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmeta.tasks.image_labels import ImageLabel, by_csv, by_name, by_tables


def test_names_say_the_class_and_others_are_left_alone() -> None:
    files = ["set/images/cat/1.jpg", "images/dog/2.jpg", "images/dog/2.txt", "other/cat/3.jpg"]
    find = by_name(r"/images/(?P<class>[^/]+)/[^/]+\.jpg$")
    assert find(Path(), files) == ([("cat", files[0], None), ("dog", files[1], None)], [])
    find = by_name(r"/images/(?P<class>[^/]+)/[^/]+\.jpg$", {"cat": "Felis", "cow": "Bos"})
    assert find(Path(), files).images == [("Felis", files[0], None)]


def test_a_table_says_the_class_and_what_it_names_must_be_there(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "t.csv").write_text("file,a,b\n2,1,0\n1,0,1\n3,0,0\n4,1,0\n")
    find = by_csv(
        "t.csv",
        lambda row: f"{row['file']}.jpg",
        lambda row: next((label for label in "ab" if row[label] == "1"), None),
    )
    files = ["in/1.jpg", "in/2.jpg", "in/3.jpg", "labels/t.csv"]
    assert find(tmp_path, files) == (
        [("a", "in/2.jpg", None), ("b", "in/1.jpg", None)],
        ["4.jpg"],
    )
    assert find(tmp_path, files[:3]) == ([], ["t.csv"])
    for text in ("name,a,b\n1,0,1\n", "file,a\n1,0\n", 'file,a,b\n"' + "x" * 200_000):
        (tmp_path / "labels" / "t.csv").write_text(text)
        with pytest.raises(ValueError, match=r"as its publisher made it, got t\.csv in .*again"):
            find(tmp_path, files)


def test_files_are_found_by_the_end_of_their_names() -> None:
    files = ["a/x/1.jpg", "b/x/1.jpg", "b/x/2.jpg"]
    wanted = [("c", "b/x/1.jpg", (0, 0, 1, 1)), ("c", "x/2.jpg", None), ("c", "y/1.jpg", None)]
    found = by_tables([], lambda _: (ImageLabel(*each) for each in wanted))(Path(), files)
    assert found == ([("c", "b/x/1.jpg", (0, 0, 1, 1)), ("c", "b/x/2.jpg", None)], ["y/1.jpg"])
