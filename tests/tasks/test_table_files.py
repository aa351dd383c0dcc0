from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from dmeta.tasks.table_files import read_table


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_as_spreadsheets_write_it(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "table.CSV"
    rows = [["Label", "number", " TEXT "], ["cat", "1", "a"], [], ['"dog', ' big"', "2", "é"]]
    rows[3] = [f'"dog{separator} big\nred"', "2", "é"]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(separator.join(r) for r in rows).encode())
    assert read_table(path, ("text", "label"), ("split",)) == [
        (2, {"text": "a", "label": "cat"}),
        (5, {"text": "é", "label": f"dog{separator} big\nred"}),
    ]


def test_json_lines_and_parquet(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"Text": "a", "label": 1}\n\n{"text": "b", "label": 2.5}')
    rows = [(1, {"text": "a", "label": "1"}), (3, {"text": "b", "label": "2.5"})]
    assert read_table(tmp_path / "a.jsonl", ("text", "label")) == rows
    parquet.write_table(pa.table({"text": ["a", "b"], "label": [1, 2]}), tmp_path / "a.parquet")
    rows = [(1, {"text": "a", "label": "1"}), (2, {"text": "b", "label": "2"})]
    assert read_table(tmp_path / "a.parquet", ("text", "label")) == rows
    parquet.write_table(pa.table({"text": ["a", None], "label": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"column text .* must not be empty, got nothing in line"):
        read_table(tmp_path / "a.parquet", ("text", "label"))


def test_a_json_list_of_objects(tmp_path: Path) -> None:
    rows = '[{"Text": "a\u0085b", "label": 1, "pieces": ["a"]}, {"text": "c\\nd", "label": "x"}]'
    (tmp_path / "a.json").write_text(rows)
    assert read_table(tmp_path / "a.json", ("text", "label")) == [
        (1, {"text": "a\u0085b", "label": "1"}),
        (2, {"text": "c\nd", "label": "x"}),
    ]


WRONG = {
    "a.csv": [
        ("text,class\nx,a\n", r"must have the columns text, label, got class, text"),
        ("text,text,label\nx,y,a\n", r"a name of its own, got 'text' twice"),
        ("", r"must have at least one row"),
        ("text,label\n", r"must have at least one row"),
        ("text,label\nx\n", r"must have 2 cells, got 1 in line 2"),
        ("text,label\nx, \n", r"column label .* must not be empty, got nothing in line 2"),
        ("text,label,split\nx,a,test\ny,b,\n", r"column split .* got nothing in line 3"),
        ('text,label\n"x,a\n' + "x" * 200_000, r"must be a csv file"),
        (b"text,label\n\xff\xfe,a\n", r"must be readable, got 'a\.csv'"),
    ],
    "a.jsonl": [
        ("[1]\n", r"must be a JSON object, got line 1"),
        ('{"text": "x", "label": "a"}\n{"text"', r"must be a JSON object, got line 2"),
        ("[" * 100_000, r"must be a JSON object, got line 1"),
        ('{"text": null, "label": "a"}', r"column text .* got nothing in line 1"),
        ('{"text": NaN, "label": "a"}', r"column text .* got nothing in line 1"),
    ],
    "a.json": [
        ("[]", r"a\.json must have at least one row, got none"),
        ("{}", r"must be a JSON list of objects"),
        ('{"text": "x", "label": "a"}\n{"text": "y", "label": "b"}', r"or name it \.jsonl if"),
        ('[{"text": "x", "label": "a"}, 3]', r"must be a JSON list of objects"),
        ('[{"text": "x", "label": "a"}, {"text": "y"}]', r"column label .* nothing in line 2"),
    ],
    "a.parquet": [("PAR1", r"must be a parquet file that can be read")],
    "a.xlsx": [("", r"that ends in \.csv, .*\.parquet, got .*a\.xlsx")],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [(name, content, message) for name, rows in WRONG.items() for content, message in rows],
)
def test_a_wrong_table_is_refused(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=message):
        read_table(path, ("text", "label"), ("split",))
