"""Files of feature vectors: read as they were written, refused if not what they must be."""

from __future__ import annotations

import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmeta.tasks.feature_files import write_features
from dmeta.tasks.features import FeatureClasses, load_features
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
    ({"features": np.full((600, 6), 1e300)}, r"must be within ±3\.4e\+38, got 1e\+300 in row 0"),
    ({"features": np.full((600, 6), 1e-300)}, r"must be above 1\.2e-38, got at most 1e-300"),
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


@pytest.mark.parametrize(
    "kind", ["pickle", "object array", "truncated", "one array", "lacking", "text"]
)
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
    if kind == "text":
        with zipfile.ZipFile(path, "w") as archive:
            for name in ("features", "labels", "class_names", "class_splits"):
                archive.writestr(name, "no array")
    with pytest.raises(ValueError, match=r"must be an \.npz of plain arrays .*; make one with"):
        load(path)


@pytest.mark.parametrize("size", [1e25, 1e-25, 3e38])
def test_vectors_of_any_size_may_be_brought_to_length_one(tmp_path: Path, size: float) -> None:
    """Of 1e25 the squares are infinite in float32, and the vectors were all 0."""
    given = tiny_features()
    given["features"] = (given["features"] / given["features"].max() * size).astype(np.float32)
    np.savez(tmp_path / "x.npz", **given)
    lengths = np.linalg.norm(load(tmp_path / "x.npz", normalize="l2").features, axis=1)
    assert np.allclose(lengths, 1, atol=1e-6)


@pytest.mark.slow
def test_a_small_file_that_unpacks_to_gigabytes_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in tiny_features().items():
            with archive.open(f"{name}.npy", "w") as member:
                np.save(member, array)
        with archive.open("more.npy", "w", force_zip64=True) as member:
            for _ in range(400):
                member.write(bytes(1 << 20))
    assert path.stat().st_size < 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"0\.4 MB unpack to 4\d\d MB, .*numpy\.savez\)"):
            load(path)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_another_file_than_the_one_that_was_begun_with_is_refused(tmp_path: Path) -> None:
    first = load(write_tiny_features(tmp_path / "x.npz")).sha256
    (tmp_path / "x.npz").rename(tmp_path / "moved.npz")
    assert load(tmp_path / "moved.npz", sha256=first).sha256 == first
    np.savez(tmp_path / "other.npz", **tiny_features(seed=1))
    with pytest.raises(ValueError, match=rf"must be the file .*{first}\), got .*other\.npz with"):
        load(tmp_path / "other.npz", sha256=first)
