"""Tasks that are one target out of several columns, which are blank where nothing was measured."""

from __future__ import annotations

import gzip
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dmeta
from dmeta.tasks.source import SPLITS, EpisodeSize, ListsExamples
from dmeta.tasks.sparse_targets import SparseTargets
from dmeta.tasks.table import load_table
from tests.tasks.conftest import real_data

SIZE = EpisodeSize(2, 3, 4)


def write_targets(path: Path, num_targets: int = 6, num_rows: int = 200) -> Path:
    """Rows n, s and targets t0, t1, ...: n > 0 is 1 in each of them, every third is blank."""
    rng = np.random.default_rng(0)
    lines = [",".join(["n", "s", *(f"T{g}" for g in range(num_targets))])]
    for row in range(num_rows):
        number = rng.normal()
        cells = [("" if (row + g) % 3 == 0 else str(int(number > 0))) for g in range(num_targets)]
        lines.append(",".join([f"{number:.6f}", "C(=O)" + "N" * (row % 7), *cells]))
    path.write_text("\n".join(lines) + "\n")
    return path


def loaded(path: Path, **options: Any) -> SparseTargets:
    given = {"target": ("T*",), "strings": ("s",), "num_features": 16, **options}
    source = load_table(file=str(path), **given)
    assert isinstance(source, SparseTargets)
    return source


@pytest.fixture
def source(tmp_path: Path) -> SparseTargets:
    return loaded(write_targets(tmp_path / "t.csv"), standardize=False)


def test_a_task_is_one_target_with_its_measured_rows_alone(source: SparseTargets) -> None:
    assert source.input_shape == (17,)
    assert [len(source.splits[split]) for split in SPLITS] == [4, 1, 1]
    seen = set()
    for seed in range(60):
        task = source.draw("train", SIZE, np.random.default_rng(seed))
        assert np.bincount(task.support_y).tolist() == [3, 3]
        assert np.bincount(task.query_y).tolist() == [4, 4]
        assert task.support_y.dtype == task.query_y.dtype == np.int64
        x, y = (np.concatenate([task[i], task[i + 2]]) for i in (0, 1))
        assert np.array_equal(y, x[:, 0] > 0), "a blank is never 0"
        rows = [int(np.flatnonzero((source.x == own).all(1))[0]) for own in x]
        assert len(set(rows)) == len(rows), "support and query share no row"
        measured = [g for g in source.splits["train"] if all((r + g) % 3 for r in rows)]
        assert len(measured) <= 2
        seen.update(measured)
        assert measured
    assert seen == set(source.splits["train"].tolist())
    assert len({tuple(source.draw("train", SIZE, np.random.default_rng(s)).support_y) for s in range(9)}) > 3  # noqa: E501  # fmt: skip


def test_query_sets_may_be_as_rare_as_the_rows_are(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    lines = [f"{n},{int(n >= 90)}" for n in range(100)]
    path.write_text("n,t\n" + "\n".join(lines) + "\n")
    own = {"target": ("t",), "strings": (), "split_ratio": (1, 0, 0), "balanced_queries": False}
    source = loaded(path, **own)
    size = EpisodeSize(2, 5, 20)
    found = [source.draw("train", size, np.random.default_rng(seed)) for seed in range(200)]
    assert all(len(task.query_y) == 40 for task in found)
    assert all(np.bincount(task.support_y).tolist() == [5, 5] for task in found)
    rate = np.mean([task.query_y.mean() for task in found])
    assert rate == pytest.approx(5 / 90, abs=0.01)
    assert all(len(np.unique(np.concatenate([t.support_x, t.query_x]))) == 50 for t in found)
    with pytest.raises(ValueError, match=r"shots \+ queries must be <= 10 .*'t' that are 1\), got"):
        source.check("train", EpisodeSize(2, 11, 1))
    with pytest.raises(ValueError, match=r"got 51; lower task\.train_queries"):
        source.check("train", EpisodeSize(2, 5, 46))


def test_rows_with_the_same_inputs_count_once_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("s,a,b\nX,0,1\nX,0,\nX,1,1\nY,0,0\nY,0,0\nZ,1,1\nW,,0\n")
    with pytest.warns(UserWarning, match="contradict") as caught:
        source = loaded(path, target=("a", "b"), split_ratio=(1, 0, 0))
    [message] = [str(each.message) for each in caught]
    assert "1 measurements of rows with the same inputs that contradict" in message
    assert "('a of line 2')" in message
    assert "4 measurements that repeat" in message
    assert len(source.x) == 4
    counts = [len(source.class_examples("train", place)) for place in range(4)]
    names = source.split_class_names("train")
    assert dict(zip(names, counts, strict=True)) == {"a=0": 1, "a=1": 1, "b=0": 2, "b=1": 2}


def test_targets_are_held_out_by_name_or_at_random(tmp_path: Path) -> None:
    path = write_targets(tmp_path / "t.csv")
    named = loaded(path, val_target=("t3",), test_target=("T4", "T5"))
    names = {split: [named.target_names[g] for g in named.splits[split]] for split in SPLITS}
    assert names == {"train": ["t0", "t1", "t2"], "val": ["t3"], "test": ["t4", "t5"]}
    drawn = [tuple(loaded(path, split_seed=seed).splits["test"]) for seed in range(8)]
    assert len(set(drawn)) > 2
    only = loaded(path, test_target=("T5",))
    with pytest.raises(ValueError, match=r"split 'val' must have targets.*eval\.every=0"):
        only.check("val", SIZE)


def test_numbers_are_standardised_by_rows_of_training_targets(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("n,a,b\n1,0,\n3,1,\n9,,0\n20,,1\n")
    source = loaded(path, target=("a", "b"), strings=(), test_target=("b",))
    assert source.x[:, 0].tolist() == [-1, 1, 7, 18]


def test_strings_differ_in_every_sign(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("s,a\nc1ccccc1,0\nC1CCCCC1,1\nC=C,0\nC#C,1\n")
    x = loaded(path, target=("a",), split_ratio=(1, 0, 0), num_features=512).x
    assert np.allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)
    assert (x @ x.T - np.eye(4)).max() < 0.9


def test_it_lists_what_it_has_and_crosses_processes(source: SparseTargets) -> None:
    assert isinstance(source, ListsExamples)
    names = [name for split in SPLITS for name in source.split_class_names(split)]
    assert len(set(names)) == len(names) == 12
    again = pickle.loads(pickle.dumps(source))
    tasks = [each.draw("test", SIZE, np.random.default_rng(1)) for each in (source, again)]
    assert all(np.array_equal(a, b) for a, b in zip(*tasks, strict=True))
    with pytest.raises(ValueError, match=r"ways must be 2 .*got 5; set task.ways to 2"):
        source.check("test", EpisodeSize(5, 1, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": ("T9",)}, r"task\.target must be of the columns of .*, got 'T9'; correct it"),
        ({"target": ("n", "T0")}, r"column n of .* must be 0, 1 or blank, .*got '0\.\d+'"),
        ({"test_target": ("T7",)}, r"task\.test_target must be of the columns"),
        ({"val_target": ("T1",), "test_target": ("T*",)}, r"held out for one split, got 't1'"),
        ({"group": "s"}, r"task\.group must be null where task\.target is a list"),
        ({"split_by": "example"}, r"task\.split_by must be class where task\.target is a list"),
        ({"inputs": ("t1",)}, r"task\.inputs must be at least one column and not the target"),
        ({"strings": ("smiles",)}, r"task\.strings must be of the columns of .* got 'smiles'"),
        ({"target": "T0", "test_target": ("T1",)}, r"task\.test_target must not be set where"),
        ({"target": "T0", "balanced_queries": False}, r"task\.balanced_queries must not be set"),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    path = write_targets(tmp_path / "t.csv")
    given = {
        "target": ("T*",),
        "strings": () if options.get("target", "")[:1] == ("s",) else ("s",),
    }
    with pytest.raises(ValueError, match=message):
        load_table(**{"file": str(path), **given, "num_features": 16, **options})


def test_a_column_of_splits_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("n,a,split\n1,0,train\n2,1,test\n")
    with pytest.raises(ValueError, match=r"must have no column 'split'.*task\.test_target"):
        load_table(file=str(path), target=("a",))


def test_a_run_with_its_own_metrics(tmp_path: Path) -> None:
    file = write_targets(tmp_path / "t.csv")
    settings = {
        "task": "table", "task.file": str(file), "task.target": ["T*"], "task.strings": ["s"],
        "task.num_features": 16, "task.ways": 2, "algorithm": "protonet", "runtime": "local",
        "steps": 30, "eval.every": 0, "eval.num_tasks": 8, "meta_batch_size": 2,
        "run_dir": str(tmp_path / "run"),
    }  # fmt: skip
    result = dmeta.train(settings)
    assert result.test.metric == "auroc"
    assert result.test.value > 0.9
    assert list(result.test.further) == ["auprc", "accuracy"]
    assert dmeta.evaluate(tmp_path / "run", num_tasks=4, metrics=["auprc"]).metric == "auprc"


@pytest.mark.slow
def test_tox21(tmp_path: Path) -> None:
    packed = real_data("tables") / "tables" / "tox21.csv.gz"
    path = tmp_path / "tox21.csv"
    path.write_bytes(gzip.decompress(packed.read_bytes()))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        source = loaded(
            path, target=("NR-*", "SR-*"), strings=("smiles",), ignore=("mol_id",),
            test_target=("SR-HSE", "SR-MMP", "SR-p53"), num_features=32,
        )  # fmt: skip
    assert len(source.x) == 7831
    assert [len(source.splits[split]) for split in SPLITS] == [9, 0, 3]
    assert re.search(r"64 measurements of rows .* contradict", str(caught[0].message))
    counts = [len(source.class_examples("test", place)) for place in range(6)]
    assert counts == [6095, 370, 4891, 913, 6352, 420]
