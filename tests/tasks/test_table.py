from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dmeta
from dmeta.tasks.features import FeatureClasses
from dmeta.tasks.grouped_rows import GroupedRows
from dmeta.tasks.source import SPLITS, EpisodeSize
from dmeta.tasks.table import load_table
from dmeta.tasks.table_columns import encoded_columns, numbers_of
from tests.tasks.conftest import real_data, write_groups

TRAINING = np.array([True, True, True, False])


def test_columns_become_numbers_by_training_rows_alone() -> None:
    columns = [
        ("size", ["1", "3", " NA ", "9"]),
        ("colour", ["red", "blue", "red", "green"]),
        ("constant", ["7", "7", "7", "8"]),
        ("absent", ["", "", "", "5"]),
    ]
    values, names = encoded_columns(columns, TRAINING, standardize=True)
    assert names == (
        "size", "size is missing", "colour=blue", "colour=red", "constant", "absent",
        "absent is missing",
    )  # fmt: skip
    expected = [
        [-1, 0, 0, 1, 0, 0, 1], [1, 0, 1, 0, 0, 0, 1], [0, 1, 0, 1, 0, 0, 1], [7, 0, 0, 0, 1, 5, 0],
    ]  # fmt: skip
    assert np.array_equal(values, np.array(expected, dtype=np.float32))
    plain = encoded_columns(columns, TRAINING, standardize=False).values
    assert plain[:, 0].tolist() == [1, 3, 2, 9]
    many = [("name", [str(n) + "x" for n in range(200)])]
    with pytest.raises(ValueError, match=r"column name must be numbers, or have at most 100 cat"):
        encoded_columns(many, np.ones(200, dtype=np.bool_), standardize=True)
    assert numbers_of(["1", "inf"]) is None


def test_a_task_is_a_group(tmp_path: Path) -> None:
    file = write_groups(tmp_path / "t.csv", num_groups=10, num_rows=8)
    source = load_table(file=str(file), target="Y", group="school", standardize=False)
    assert isinstance(source, GroupedRows)
    assert [len(source.splits[split]) for split in SPLITS] == [6, 2, 2]
    assert source.input_shape == (2,)
    groups = set()
    for seed in range(50):
        rng = np.random.default_rng(seed)
        task = source.draw("train", EpisodeSize(1, 5, 3), rng)
        x, y = (np.concatenate(parts) for parts in ((task[0], task[2]), (task[1], task[3])))
        assert len({row.tobytes() for row in x}) == 8, "no row twice"
        [group] = set((y - x[:, :1])[:, 0].round(3).tolist())  # y = a + 100 group
        groups.add(group)
        assert task.support_y.shape == (5, 1)
    names = [float(source.group_names[g]) for g in source.splits["train"]]
    assert groups == {100 * name for name in names}


def test_the_target_is_standardised_by_training_groups(tmp_path: Path) -> None:
    file = write_groups(tmp_path / "t.csv", num_groups=10, num_rows=8)
    source = load_table(file=str(file), target="y", group="school")
    assert isinstance(source, GroupedRows)
    rows = {
        split: np.concatenate([source.y[source.starts[g] : source.starts[g + 1]] for g in own])
        for split, own in source.splits.items()
    }
    assert rows["train"].mean() == pytest.approx(0, abs=1e-6)
    assert rows["train"].std() == pytest.approx(1, abs=1e-6)
    assert abs(rows["test"].mean()) > 0.01


def test_rows_without_a_target_or_a_group_are_not_used(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("g,x,y\na,1,1\na,2,\na,3,3\n,4,4\nb,5,NA\nb,6,6\nc,7,7\n")
    with pytest.warns(UserWarning, match=r"2 groups with fewer rows .*\('b', 'c'\)"):
        source = load_table(
            file=str(file), target="y", group="g", min_per_group=2, split_ratio=(1, 0, 0)
        )
    assert isinstance(source, GroupedRows)
    assert source.group_names == ("a",)
    assert len(source.y) == 2
    with pytest.raises(ValueError, match=r"must be <= 2 \(group 'a'\), got 3; .*task\.min_per_gro"):
        source.check("train", EpisodeSize(1, 2, 1))
    with pytest.raises(ValueError, match=r"split 'val' must have groups.*eval\.every=0"):
        source.check("val", EpisodeSize(1, 1, 1))
    with pytest.raises(ValueError, match=r"ways must be 1 for a regression, got 5"):
        source.check("train", EpisodeSize(5, 1, 1))


def test_without_a_group_rows_are_classified(tmp_path: Path) -> None:
    file = write_groups(tmp_path / "t.csv", num_groups=10, num_rows=8)
    source = load_table(file=str(file), target="school", ignore=("b",))
    assert isinstance(source, FeatureClasses)
    assert source.input_shape == (2,)  # a and y
    assert [len(source.split_class_names(split)) for split in SPLITS] == [6, 2, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"file": ""}, r"task\.file must be a table, got nothing"),
        ({"file": "no.csv"}, r"task\.file must be a.*, got .*no\.csv, which is no file"),
        ({"target": ""}, r"task\.target must be of the columns .*\(school, a, b, y\), got ''"),
        ({"group": "pupil"}, r"task\.group must be of the columns .* got 'pupil'"),
        ({"inputs": ("a", "c")}, r"task\.inputs must be of the columns .* got 'c'"),
        ({"inputs": ("a", "Y")}, r"task\.inputs must be at least one column and not the target"),
        ({"ignore": ("a", "b")}, r"task\.inputs must be at least one column"),
        ({"target": "name", "file": "names.csv"}, r"column name .* finite numbers, .* got 'n0'"),
        ({"split_ratio": (0, 0, 0)}, r"task\.split_ratio must be"),
        ({"sha256": "0"}, r"must be the file that the run was begun with"),
    ],
)
def test_wrong_options_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write_groups(tmp_path / "t.csv", num_groups=4, num_rows=3)
    Path("names.csv").write_text("school,a,name\n1,2,n0\n1,3,n1\n")
    with pytest.raises(ValueError, match=message):
        load_table(**{"file": "t.csv", "target": "y", "group": "school", **options})


def test_a_run_on_groups(tmp_path: Path) -> None:
    file = write_groups(tmp_path / "t.csv", num_groups=10, num_rows=12)
    settings = {
        "task": "table", "task.file": str(file), "task.group": "school", "task.target": "y",
        "algorithm": "r2d2", "runtime": "local", "steps": 3, "eval.every": 0, "eval.num_tasks": 4,
        "meta_batch_size": 2, "run_dir": str(tmp_path / "run"),
    }  # fmt: skip
    assert np.isfinite(dmeta.train(settings).test.value)
    file.write_text(file.read_text().replace("1,", "2,", 1))
    with pytest.raises(ValueError, match=r"must be the file that the run was begun with"):
        dmeta.evaluate(tmp_path / "run", num_tasks=2)


@pytest.mark.slow
def test_schools_and_exams() -> None:
    root = real_data("tables") / "tables"
    schools = load_table(file=str(root / "school.csv"), target="y", group="school")
    assert isinstance(schools, GroupedRows)
    assert schools.x.shape == (15_362, 28)
    assert [len(schools.splits[split]) for split in SPLITS] == [83, 28, 28]
    exams = load_table(file=str(root / "exam.csv"), target="normexam", group="school", ignore=("rownames", "student"))  # noqa: E501  # fmt: skip
    assert exams.input_shape == (15,)
