"""Files of feature vectors: read as they were written, refused if not what they must be."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmeta.tasks.features import FeatureClasses, load_features, write_features
from dmeta.tasks.source import SPLITS, EpisodeSize
from dmeta.tasks.status import MissingDataError
from tests.tasks.conftest import tiny_features, write_tiny_features


def load(path: Path, **options: Any) -> FeatureClasses:
    return load_features(file=str(path), **options)


def test_vectors_stand_under_their_classes_and_splits(tmp_path: Path) -> None:
    given = tiny_features()
    source = load(write_tiny_features(tmp_path / "x.npz"))
    assert source.input_shape == (6,)
    assert source.class_names == tuple(f"class{number:02d}" for number in range(75))
    for split in SPLITS:
        for place, name in enumerate(source.split_class_names(split)):
            label = given["class_names"].tolist().index(name)
            assert given["class_splits"][label] == split
            want = given["features"][given["labels"] == label]
            assert np.array_equal(source.class_examples(split, place), want)


def test_what_is_written_is_read_and_the_order_of_classes_does_not_show(tmp_path: Path) -> None:
    given = tiny_features()
    order = np.random.default_rng(1).permutation(75)
    other = given | {
        "labels": np.argsort(order)[given["labels"]],
        "class_names": given["class_names"][order],
        "class_splits": given["class_splits"][order],
        "features": given["features"].astype(np.float64),
    }
    one, two = (tmp_path / name for name in ("one.npz", "two.npz"))
    write_features(one, given)
    write_features(two, other)
    size = EpisodeSize(5, 2, 3)
    for split in SPLITS:
        a, b = (load(p).draw(split, size, np.random.default_rng(0)) for p in (one, two))
        assert all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))
        assert a.support_x.dtype == np.float32
    assert sorted(p.name for p in tmp_path.iterdir()) == ["one.npz", "two.npz"]


def test_vectors_may_be_brought_to_length_one(tmp_path: Path) -> None:
    given = tiny_features()
    given["features"][0] = 0
    np.savez(tmp_path / "x.npz", **given)
    lengths = np.linalg.norm(load(tmp_path / "x.npz", normalize="l2").features, axis=1)
    assert np.count_nonzero(lengths == 0) == 1, "nothing is nothing's direction"
    assert np.allclose(lengths[lengths > 0], 1)
    with pytest.raises(ValueError, match=r"none or l2, got 'l1'; change task\.normalize"):
        load(tmp_path / "x.npz", normalize="l1")


def test_a_file_is_found_by_path_or_by_name_under_the_data_root(tmp_path: Path) -> None:
    write_tiny_features(tmp_path / "features" / "x.npz")
    assert load_features(file="x.npz", root=str(tmp_path)).input_shape == (6,)
    with pytest.raises(MissingDataError, match=r"no file y\.npz .*features/y\.npz.*dmeta embed"):
        load_features(file="y.npz", root=str(tmp_path))
    with pytest.raises(ValueError, match=r"task\.file must name a file .* got nothing; make one"):
        load_features(root=str(tmp_path))


def test_too_small_classes_and_splits_are_named(tmp_path: Path) -> None:
    source = load(write_tiny_features(tmp_path / "x.npz"))
    with pytest.raises(ValueError, match=r"<= 8 \(class 'class\d\d'\), got 9; lower task\.queries"):
        source.check("val", EpisodeSize(5, 4, 5))
    with pytest.raises(ValueError, match=r"ways must be <= 25 \(classes of split 'test'\), got 26"):
        source.check("test", EpisodeSize(26, 1, 1))


WRONG = [
    ({"features": np.zeros((600, 2, 3), np.float32)}, r"floats .* float32 \[600, 2, 3\]"),
    ({"features": np.zeros((600, 6), np.int64)}, r"floats \[N, D\], got int64"),
    ({"features": np.full((600, 6), np.nan, np.float32)}, "finite, got NaN or infinity in row 0"),
    ({"labels": np.zeros(599, np.int64)}, r"\[600\], one for each row .* got int64 \[599\]"),
    ({"labels": np.zeros(600)}, r"got float64 \[600\]"),
    ({"labels": np.full(600, 75)}, r"labels must be in 0\.\.74, got 75\.\.75"),
    ({"labels": np.zeros(600, np.int64)}, "every class must have a row of features, got none of"),
    ({"class_names": np.array(["a"] * 75)}, "no two alike"),
    ({"class_splits": np.array(["train"] * 74)}, r"of the 75 classes, got \['train'\] \[74"),
    ({"class_splits": np.array(["dev"] * 75)}, r"must say train, val or test .* got \['dev'\]"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), WRONG)
def test_wrong_arrays_are_named_when_read_and_when_written(
    change: dict[str, Any], message: str, tmp_path: Path
) -> None:
    np.savez(tmp_path / "x.npz", **(tiny_features() | change))
    with pytest.raises(ValueError, match=message + r".* in .*x\.npz; make the file again"):
        load(tmp_path / "x.npz")
    with pytest.raises(ValueError, match=message):
        write_features(tmp_path / "new.npz", tiny_features() | change)
    assert not (tmp_path / "new.npz").exists()


class Payload:
    """Runs code where it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("kind", ["pickle", "object array", "truncated", "one array", "lacking"])
def test_what_is_no_file_of_plain_arrays_is_refused_and_never_run(
    kind: str, tmp_path: Path
) -> None:
    path = write_tiny_features(tmp_path / "x.npz")
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Payload()))
    if kind == "object array":
        np.savez(path, **(tiny_features() | {"labels": np.array([Payload()], dtype=object)}))
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    if kind == "one array":
        with path.open("wb") as file:
            np.save(file, np.zeros(3))
    if kind == "lacking":
        np.savez(path, features=tiny_features()["features"])
    with pytest.raises(ValueError, match=r"must be an \.npz of plain arrays .*; make one with"):
        load(path)
