"""Support sets and a query set from files, as evaluation tasks."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmeta.tasks.fixed_tasks import FixedTasks
from dmeta.tasks.ngrams import ngram_vectors
from dmeta.tasks.source import EpisodeSize
from dmeta.tasks.text import load_text
from tests.tasks.conftest import real_data, write_pair, write_texts

ROWS = [("red car", "b"), ("red bus", "b"), ("blue sea", "a"), ("blue sky", "a")]
ASKED = [("red van", "b"), ("blue bay", "a"), ("blue jay", "a"), ("red", "b"), ("blue", "a")]


def write_json(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text(json.dumps([{"sentence1": text, "label": label} for text, label in rows]))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two support sets, a query set, and a table to train on, with the same columns."""
    write_json(tmp_path / "train_0.json", ROWS)
    write_json(tmp_path / "train_1.json", [(f"{text} too", label) for text, label in ROWS[::-1]])
    write_json(tmp_path / "eval.json", ASKED)
    write_json(tmp_path / "all.json", [(f"{c} word {i}", c) for c in "xyz" for i in range(3)])
    return tmp_path


def load(folder: Path, **options: Any) -> FixedTasks:
    usual = {
        "file": str(folder / "all.json"),
        "text_column": "sentence1",
        "support": str(folder / "train_*.json"),
        "query": str(folder / "eval.json"),
    }
    source = load_text(**usual | options)
    assert isinstance(source, FixedTasks)
    return source


def vectors_of(source: FixedTasks, folder: Path, texts: list[str]) -> np.ndarray:
    table = load_text(file=str(folder / "all.json"), text_column="sentence1")
    known = [f"{c} word {i}" for c in table.split_class_names("train") for i in range(3)]
    training = np.arange(len(known) + len(texts)) < len(known)
    return ngram_vectors([*known, *texts], 2048, training)[len(known) :]


def test_task_i_is_support_set_i_with_all_queries(folder: Path) -> None:
    source = load(folder)
    assert source.num_tasks == 2
    assert source.class_names == ("a", "b")
    assert source.size == EpisodeSize(2, 2, 3, sampler="source")
    asked = vectors_of(source, folder, [text for text, _ in ASKED])
    sets = [[text for text, _ in ROWS], [f"{text} too" for text, _ in ROWS[::-1]]]
    for slot in range(5):
        task = source.draw("test", source.size, np.random.default_rng([7, 2, 0, slot]))
        assert np.array_equal(task.query_x, asked)
        assert task.query_y.tolist() == [1, 0, 0, 1, 0]
        expected = {
            (x.tobytes(), "ab".index(label))
            for x, (_, label) in zip(
                vectors_of(source, folder, sets[slot % 2]),
                [ROWS, ROWS[::-1]][slot % 2],
                strict=True,
            )
        }
        got = {(x.tobytes(), y) for x, y in zip(task.support_x, task.support_y, strict=True)}
        assert got == expected
        assert task.support_y.dtype == task.query_y.dtype == np.int64
        assert task.support_x.dtype == np.float32


def test_a_drawn_task_is_a_copy_and_a_source_is_plain_data(folder: Path) -> None:
    source = pickle.loads(pickle.dumps(load(folder)))
    rng = np.random.default_rng
    first = source.draw("test", source.size, rng([0, 1]))
    for array in first:
        array[...] = 0
    again = source.draw("test", source.size, rng([9, 1]))
    assert again.query_x.any()
    assert again.query_y.any()
    assert repr(source) == (
        "FixedTasks(2 tasks of 2 classes, each with 4 support examples; 5 query examples)"
    )


def test_support_rows_are_not_in_order_of_class(tmp_path: Path) -> None:
    file = write_texts(tmp_path / "s.csv", {"a": 20, "b": 20})
    (tmp_path / "q.csv").write_text("text,label\nc,a\n")
    query = str(tmp_path / "q.csv")
    source = load_text(file=str(file), support=str(file), query=query)
    assert isinstance(source, FixedTasks)
    labels = source.draw("test", source.size, np.random.default_rng(0)).support_y.tolist()
    assert labels != sorted(labels)
    assert sum(labels) == 20


def test_only_test_tasks_of_their_own_size(folder: Path) -> None:
    source = load(folder)
    source.check("test", source.size)
    with pytest.raises(ValueError, match=r"split 'train' must have tasks, .* dmeta evaluate run_d"):
        source.check("train", source.size)
    with pytest.raises(ValueError, match=r"the size of fixed tasks must be .*; remove task\.ways"):
        source.check("test", EpisodeSize(2, 2, 2))


def test_folders_of_lines_and_two_columns_of_text(tmp_path: Path) -> None:
    support = write_pair(tmp_path / "train_5", "one\n\ntwo\nthree\n", "a\nb\nb\na\n")
    query = write_pair(tmp_path / "test", "four\n", "b\n")
    file = write_texts(tmp_path / "t.csv", {"x": 2, "y": 2})
    with pytest.warns(UserWarning, match=r"left out of .*train_5: 1 blank lines of seq\.in"):
        source = load_text(file=str(file), support=str(support), query=str(query))
    assert isinstance(source, FixedTasks)
    assert source.support_y.tolist() == [[0, 1, 0]]
    assert source.query_y.tolist() == [1]
    rows = [{"sentence1": "a", "sentence2": c, "label": c} for c in "xy"]
    (tmp_path / "pairs.json").write_text(json.dumps(rows))
    one = str(tmp_path / "pairs.json")
    columns = ("sentence1", "sentence2")
    with pytest.warns(UserWarning, match="2 are also in a support set"):
        pairs = load_text(file=one, support=one, query=one, text_column=columns)
    assert isinstance(pairs, FixedTasks)
    assert not np.array_equal(pairs.examples[0], pairs.examples[1])


def test_an_empty_support_set_is_left_out_by_name(folder: Path) -> None:
    (folder / "train_2.json").write_text("[]")
    with pytest.warns(UserWarning, match=r"1 support sets without rows \('train_2\.json'\)"):
        assert load(folder).num_tasks == 2
    with pytest.raises(ValueError, match=r"train_2\.json must have at least one row, got none"):
        load(folder, support=str(folder / "train_2.json"))
    with (
        pytest.warns(UserWarning, match="without rows"),
        pytest.raises(ValueError, match=r"task\.support must name files with rows, got .* 1 witho"),
    ):
        load(folder, support=str(folder / "train_2*.json"))


def test_what_is_repeated_stays_and_is_counted(folder: Path) -> None:
    write_json(folder / "eval.json", [*ASKED, ROWS[0], ASKED[0]])
    message = r"of the 7 query texts in .*eval\.json 1 are also in a support set and 1 repeat"
    with pytest.warns(UserWarning, match=message):
        assert len(load(folder).query) == 7


def test_the_check_sum_is_of_all_files(folder: Path) -> None:
    before = load(folder).sha256
    assert load(folder).sha256 == before
    write_json(folder / "train_1.json", ROWS)
    assert load(folder).sha256 != before


WRONG = {
    "another size": (ROWS[:3], r"as many examples, got 4 in .*_0\.json and 3 in .*_9\.json; name"),
    "another class": ([*ROWS[:3], ("x", "c")], r"the same classes, got 'c' in one of .*_9\.json"),
    "a broken file": ([("x", "")], r"column label of .*_9\.json must not be empty"),
}


@pytest.mark.parametrize("case", WRONG)
def test_support_sets_that_do_not_fit_together_are_refused(folder: Path, case: str) -> None:
    rows, message = WRONG[case]
    write_json(folder / "train_9.json", rows)
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"query": None},
            r"task\.query must be given with task\.support, got nothing; set task\.q",
        ),
        ({"support": None}, r"task\.support must be given with task\.query, got nothing"),
        ({"support": "nowhere_*.json"}, r"task\.support must name files with rows, got 'nowhere_"),
        ({"support": "nowhere.json"}, r"task\.support must be a table of texts, got .*no file"),
        (
            {"query": "nowhere.json"},
            r"task\.query must be a table of texts, got .*which is no file",
        ),
        ({"file": ""}, r"task\.file must be a table of texts, got nothing"),
        ({"sha256": "0" * 64}, r"task\.file must be the file that the run was begun with"),
        ({"text_column": "text"}, r"must have the columns text, label, got label, sentence1"),
        ({"text_column": ()}, r"task\.text_column must name a column, got none"),
    ],
)
def test_wrong_options_are_refused(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(folder, **options)


def test_an_unknown_label_and_a_single_class_are_refused(folder: Path) -> None:
    write_json(folder / "eval.json", [*ASKED, ("green", "c")])
    with pytest.raises(ValueError, match=r"must be in the support sets, got 'c' in line 6 of .*ev"):
        load(folder)
    write_json(folder / "one.json", ROWS[:2])
    with pytest.raises(ValueError, match=r"at least two classes, got 1 in .*one\.json"):
        load(folder, support=str(folder / "one.json"))


@pytest.mark.data
def test_the_published_splits(tmp_path: Path) -> None:
    intents = real_data("intents/HWU64") / "intents" / "HWU64"
    file = str(write_texts(tmp_path / "t.csv", {"x": 2, "y": 2}))
    source = load_text(file=file, support=str(intents / "train_5"), query=str(intents / "test"))
    assert isinstance(source, FixedTasks)
    assert source.size == EpisodeSize(64, 5, 19, sampler="source")
    assert source.support.shape == (1, 320)
    assert source.query.shape == (1076,)


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_classes", "columns"),
    [
        ("political_message", 9, "sentence1"),
        ("scitail", 2, ("sentence1", "sentence2")),
        ("disaster", 2, "sentence1"),
    ],
)
def test_leopard(tmp_path: Path, name: str, num_classes: int, columns: Any) -> None:
    import warnings
    import zipfile

    root = real_data("leopard/leopard.zip")
    with zipfile.ZipFile(root / "leopard" / "leopard.zip") as archive:
        archive.extractall(tmp_path)
    [folder] = [path for path in tmp_path.rglob(name) if path.is_dir()]
    rows = [{"sentence1": f"a {c} {i}", "sentence2": "b", "label": c} for c in "xy" for i in (0, 1)]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    for shots in (4, 8, 16):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            source = load_text(
                file=str(tmp_path / "t.json"),
                text_column=columns,
                num_features=64,
                support=str(folder / f"{name}_train_*_{shots}.json"),
                query=str(folder / f"{name}_eval.json"),
            )
        assert isinstance(source, FixedTasks)
        is_short = (name, shots) == ("disaster", 16)
        assert source.num_tasks == 10 - is_short
        assert any("'disaster_train_0_16.json'" in str(w.message) for w in told) == is_short
        assert source.support.shape[1] == num_classes * shots
        assert source.size.shots == shots
