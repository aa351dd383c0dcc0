from __future__ import annotations

import hashlib
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dmeta.tasks import omniglot
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.omniglot import _load, load_omniglot
from dmeta.tasks.omniglot_splits import split_of_each
from dmeta.tasks.rotations import Rotations, with_rotations
from dmeta.tasks.source import SPLITS, EpisodeSize, Split
from dmeta.tasks.status import MissingDataError
from tests.tasks.conftest import TINY_PARTS, real_data, zip_tree


def load(root: Path, *, rotations: Rotations = "classes", **options: Any) -> ImageClasses:
    options = {"rotations": dict.fromkeys(SPLITS, rotations), "cache": False, **options}
    return _load(root, options.pop("rule", "vinyals"), expected=TINY_PARTS, **options)


def zip_parts(tree: Path, folder: Path, *, reverse: bool = False) -> None:
    for part in TINY_PARTS:
        staged = folder / "staged"
        shutil.copytree(tree / "omniglot" / part, staged / part)
        zip_tree(staged, folder / f"{part}.zip", reverse=reverse)
        shutil.rmtree(staged)


def same(a: ImageClasses, b: ImageClasses) -> bool:
    return (
        a.class_names == b.class_names
        and np.array_equal(a.starts, b.starts)
        and np.array_equal(a.images, b.images)
        and all(np.array_equal(a.splits[s], b.splits[s]) for s in SPLITS)
    )


@pytest.mark.slow
@pytest.mark.parametrize("place", ["omniglot", "", "omniglot-py"])
@pytest.mark.parametrize("reverse", [False, True])
def test_zip_and_tree_give_the_same_wherever_they_lie_and_however_listed(
    omniglot_tree: Path, tmp_path: Path, place: str, reverse: bool
) -> None:
    folder = tmp_path / "zips" / place
    folder.mkdir(parents=True)
    zip_parts(omniglot_tree, folder, reverse=reverse)
    assert same(load(tmp_path / "zips"), load(omniglot_tree))


@pytest.mark.slow
def test_images_keep_class_and_drawing_order_and_are_white_on_black(omniglot_tree: Path) -> None:
    source = load(omniglot_tree)
    assert source.class_names == tuple(sorted(source.class_names))
    c = source.class_names.index("Greek/character02")
    (file,) = omniglot_tree.glob("omniglot/*/Greek/character02/*_07.png")
    with Image.open(file) as image:
        shrunk = image.convert("L").resize((28, 28), Image.Resampling.LANCZOS)
        expected = 255 - np.asarray(shrunk)
    assert np.array_equal(source.images[source.starts[c] + 6], expected)
    assert source.images[0].mean() < 127


@pytest.mark.slow
def test_the_vinyals_split_cuts_gurmukhi_and_turns_every_class_four_times(
    omniglot_tree: Path,
) -> None:
    names = {split: load(omniglot_tree).split_class_names(split) for split in SPLITS}
    assert {n.split("/")[0] for n in names["val"]} == {"Hebrew"}
    assert {n.rsplit("/", 1)[0] for n in names["test"]} == {
        "Gurmukhi/character42",
        "Tibetan/character01",
    }
    assert "Gurmukhi/character41/rot090" in names["train"]
    assert sum(map(len, names.values())) == 4 * sum(TINY_PARTS.values())


def test_without_rotations_each_character_is_one_class(omniglot_tree: Path) -> None:
    source = load(omniglot_tree, rotations="none")
    assert sum(len(rows) for rows in source.splits.values()) == sum(TINY_PARTS.values())
    assert not any(rows[:, 1].any() for rows in source.splits.values())


def characters(rotations: Rotations, num: int = 423) -> ImageClasses:
    """Two noise images of each of as many made-up characters as the test split of finn has."""
    names = tuple(f"A/character{c:04d}" for c in range(num))
    images = np.random.default_rng(7).integers(256, size=(2 * num, 4, 4), dtype=np.uint8)
    classes: dict[Split, Sequence[int]] = {"train": [], "val": [], "test": range(num)}
    splits = with_rotations(classes, dict.fromkeys(SPLITS, rotations))
    return ImageClasses(images, names, np.arange(0, 2 * num + 1, 2), *splits)


def picks_of(source: ImageClasses, size: EpisodeSize, num_tasks: int) -> np.ndarray[Any, Any]:
    """[T, W, 2]: character and quarter turns of each class of many test tasks."""
    rng = np.random.default_rng(0)
    tasks = [source.pick("test", size, rng) for _ in range(num_tasks)]
    return np.stack([t.query_x for t in tasks]) // [2, 1]


@pytest.mark.parametrize(("rotations", "share"), [("classes", 0.29), ("per_task", 0.0)])
def test_share_of_20_way_tasks_with_one_character_twice(rotations: Rotations, share: float) -> None:
    picks = picks_of(characters(rotations), EpisodeSize(20, 1, 1), 2000)
    twice = [len(set(task[:, 0])) < 20 for task in picks]
    # 20 of 1692 classes: 190 pairs, each of one character with chance 3/1691.
    assert np.mean(twice) == pytest.approx(share, abs=0.03)


def test_per_task_turns_all_images_of_a_class_alike_and_each_class_by_itself() -> None:
    source = characters("per_task")
    size = EpisodeSize(5, 1, 1)
    picks = picks_of(source, size, 400)
    turns = picks[..., 1]
    assert np.bincount(turns.ravel(), minlength=4) / turns.size == pytest.approx(0.25, abs=0.04)
    assert (turns != turns[:, :1]).any(axis=1).mean() > 0.9
    of_character = {int(c): set(turns[picks[..., 0] == c]) for c in np.unique(picks[..., 0])}
    assert max(map(len, of_character.values())) > 1
    task = source.pick("test", size, np.random.default_rng(1))
    drawn = source.draw("test", size, np.random.default_rng(1))
    support = dict(zip(task.support_y.tolist(), task.support_x[:, 1].tolist(), strict=True))
    assert support == dict(zip(task.query_y.tolist(), task.query_x[:, 1].tolist(), strict=True))
    for x, (row, turn) in zip(drawn.support_x, task.support_x, strict=True):
        assert np.array_equal(x, np.rot90(source.images[row], turn))


def test_evaluation_may_have_other_rotations_than_training(
    omniglot_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(omniglot, "OMNIGLOT_PARTS", TINY_PARTS)
    source = load_omniglot(
        root=str(omniglot_tree), rotations="classes", eval_rotations="none", cache=False
    )
    turns = {split: set(source.splits[split][:, 1].tolist()) for split in SPLITS}
    assert turns == {"train": {0, 1, 2, 3}, "val": {0}, "test": {0}}
    source = load_omniglot(
        root=str(omniglot_tree), rotations="per_task", eval_rotations="none", cache=False
    )
    assert source.turned_per_task == {"train"}
    assert not any(rows[:, 1].any() for rows in source.splits.values())


@pytest.mark.parametrize(("before", "now"), [(True, "classes"), (False, "none")])
def test_the_settings_of_older_runs_mean_what_they_did(
    omniglot_tree: Path, monkeypatch: pytest.MonkeyPatch, before: bool, now: Rotations
) -> None:
    monkeypatch.setattr(omniglot, "OMNIGLOT_PARTS", TINY_PARTS)
    root = str(omniglot_tree)
    assert same(
        load_omniglot(root=root, rotations=before, cache=False),
        load_omniglot(root=root, rotations=now, cache=False),
    )


def test_the_lake_split_tests_on_evaluation_and_validates_on_the_last_background_alphabets(
    omniglot_tree: Path,
) -> None:
    source = load(omniglot_tree, rule="lake", rotations="none")
    alphabets = {s: {n.split("/")[0] for n in source.split_class_names(s)} for s in SPLITS}
    assert alphabets["test"] == {"Angelic", "Tibetan", "Gurmukhi"}
    assert alphabets["val"] == {"Greek", "Hebrew", "Korean", "Latin", "Tagalog"}
    assert alphabets["train"] == {"Braille", "Futurama"}


def test_the_finn_split_mixes_alphabets_and_follows_from_the_names_alone() -> None:
    names = [f"Alphabet{a:02d}/character{c:02d}" for a in range(50) for c in range(33)][:1623]
    splits = split_of_each("finn", names, ())
    assert [splits.count(s) for s in SPLITS] == [1100, 100, 423]
    assert all("train" in splits[i : i + 33] for i in range(0, 1600, 33))
    assert split_of_each("finn", names[::-1], ()) == splits[::-1]


@pytest.mark.slow
def test_the_finn_split_of_the_real_characters_does_not_change() -> None:
    root = real_data("omniglot/images_background.zip")
    source = load_omniglot(root=str(root), split="finn", rotations="none")
    assert [len(source.splits[s]) for s in SPLITS] == [1100, 100, 423]
    digest = hashlib.sha256("\n".join(source.split_class_names("test")).encode()).hexdigest()
    assert digest[:16] == "5e6bcb9c069471c9"


def test_an_unknown_split_rule_is_refused(omniglot_tree: Path) -> None:
    with pytest.raises(ValueError, match=r"'finn', 'vinyals' or 'lake', got 'ravi'; change task"):
        load(omniglot_tree, rule="ravi")


def test_nothing_there_says_what_where_and_how(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError) as caught:
        load_omniglot(root=str(tmp_path))
    message = str(caught.value)
    assert "images_background" in message
    assert str(tmp_path / "omniglot" / "images_background.zip") in message
    assert "task.download=true" in message
    assert str(pickle.loads(pickle.dumps(caught.value))) == message


def test_the_default_root_comes_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DMETA_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(MissingDataError, match="elsewhere"):
        load_omniglot()
    monkeypatch.delenv("DMETA_DATA")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingDataError, match="looked in data/omniglot"):
        load_omniglot()


def test_a_missing_drawing_is_counted_and_named(omniglot_tree: Path, tmp_path: Path) -> None:
    root = tmp_path / "copy"
    shutil.copytree(omniglot_tree, root)
    next(root.glob("omniglot/*/Greek/character02/*_07.png")).unlink()
    with pytest.raises(MissingDataError, match="19 of 20 drawings of Greek/character02"):
        load(root)
    shutil.rmtree(next(root.glob("omniglot/*/Greek")))
    with pytest.raises(MissingDataError, match="6 of 8 characters in images_background"):
        load(root)


@pytest.mark.parametrize("keep_share", [0.0, 0.3, 0.6])
def test_a_truncated_drawing_is_named(
    omniglot_tree: Path, tmp_path: Path, keep_share: float
) -> None:
    root = tmp_path / "copy"
    shutil.copytree(omniglot_tree, root)
    broken = next(root.glob("omniglot/*/Greek/character02/*_07.png"))
    data = broken.read_bytes()
    broken.write_bytes(data[: int(keep_share * len(data))])
    with pytest.raises(ValueError, match=rf"must be readable, got 'Greek/character02/{broken.name}'"):  # noqa: E501  # fmt: skip
        load(root)


def test_half_a_zip_is_refused_by_name(omniglot_tree: Path, tmp_path: Path) -> None:
    zip_parts(omniglot_tree, tmp_path)
    path = tmp_path / "images_evaluation.zip"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"readable zip file, got .*images_evaluation\.zip"):
        load(tmp_path)


def test_download_is_asked_of_torchvision_only_if_something_is_missing(
    omniglot_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    class Datasets:
        @staticmethod
        def Omniglot(root: str, background: bool, download: bool) -> None:  # noqa: N802
            calls.append((root, background, download))
            part = "images_background" if background else "images_evaluation"
            shutil.copytree(omniglot_tree / "omniglot" / part, Path(root) / "omniglot-py" / part)

    monkeypatch.setattr("dmeta.torchvision_compat.import_datasets", lambda: Datasets)
    monkeypatch.setattr(omniglot, "OMNIGLOT_PARTS", TINY_PARTS)
    root = str(tmp_path / "downloaded")
    for _ in range(2):
        source = load_omniglot(root=root, download=True, cache=False)
        assert calls == [(root, True, True), (root, False, True)]
    assert same(source, load(omniglot_tree))


@pytest.mark.slow
@pytest.mark.data
def test_the_real_split_is_the_published_one() -> None:
    root = real_data("omniglot/vinyals_splits/train.txt")
    source = load_omniglot(root=str(root), cache=False)
    assert source.images.shape == (32460, 28, 28)
    for split in SPLITS:
        listed = (root / "omniglot" / "vinyals_splits" / f"{split}.txt").read_text().split()
        assert sorted(source.split_class_names(split)) == sorted(listed)
        source.check(split, EpisodeSize(20, 5, 15))
