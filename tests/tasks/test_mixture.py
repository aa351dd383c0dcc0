"""Tasks of several sources."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import dmeta
from dmeta.tasks.glyphs import make_glyphs
from dmeta.tasks.images import ImageClasses
from dmeta.tasks.mixture import Member, Mixture, make_mixture
from dmeta.tasks.source import EpisodeSize
from dmeta.tasks.status import MissingDataError
from dmeta.training.setup import prepare
from tests.conftest import tiny_config
from tests.tasks.conftest import write_tiny_features

SIZE = EpisodeSize(2, 1, 3)
NAMES = ["glyphs", {"name": "glyphs", "seed": 5, "num_classes": 30}]


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def colour_images(side: int = 41) -> ImageClasses:
    """Colour images of another size than those of glyphs, 20 classes."""
    images = rng(0).integers(256, size=(20 * 4, side, side, 3), dtype=np.uint8)
    splits = np.stack([np.arange(20), np.zeros(20, np.int64)], axis=1)
    names = tuple(f"c{number:02d}" for number in range(20))
    starts = np.arange(0, 81, 4)
    return ImageClasses(
        images, names, starts, {"train": splits[:10], "val": splits[10:15], "test": splits[15:]}
    )


def joined(*sources: Any, shape: tuple[int, ...]) -> Mixture:
    share = 1 / len(sources)
    members = tuple(Member(f"s{i}", source, share) for i, source in enumerate(sources))
    return Mixture(members, shape, "images")


def test_the_weights_say_how_often_a_task_is_of_each_source() -> None:
    mixture = make_mixture(sources=tuple(NAMES), weights=(3, 1))
    first, second = (set(m.source.split_class_names("train")) for m in mixture.members)  # type: ignore[attr-defined]
    assert first - second
    sizes = mixture.class_sizes("train")
    batches = [mixture.draw_batch("train", 4, rng(seed)).y for seed in range(400)]
    of_second = [bool((y >= sizes[0]).any()) for y in batches]
    assert all(((y >= sizes[0]) == (y >= sizes[0])[0]).all() for y in batches), "one source each"
    assert 0.25 - 0.07 < np.mean(of_second) < 0.25 + 0.07


def test_a_source_of_weight_0_is_never_drawn_and_keeps_its_labels() -> None:
    mixture = make_mixture(sources=tuple(NAMES), weights=(0, 2))
    num_first = make_glyphs().num_classes("train")
    for seed in range(30):
        assert mixture.draw_batch("train", 5, rng(seed)).y.min() >= num_first
    assert mixture.num_classes("train") == num_first + 19


def test_a_mini_batch_has_the_labels_of_its_examples_among_the_classes_of_all() -> None:
    mixture = make_mixture(sources=tuple(NAMES))
    names = mixture.split_class_names("train")
    assert len(set(names)) == len(names) == mixture.num_classes("train")
    assert names[0].startswith("glyphs/")
    assert names[-1].startswith("glyphs#2/")
    places = set()
    for seed in range(6):
        x, y = mixture.draw_batch("train", 8, rng(seed))
        for image, label in zip(x, y, strict=True):
            examples = mixture.class_examples("train", int(label))
            assert any(np.array_equal(image, each) for each in examples)
        places.add(bool(y[0] >= mixture.class_sizes("train")[0]))
    assert places == {True, False}
    with pytest.raises(IndexError):
        mixture.class_examples("train", len(names))


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_task_is_one_of_a_source_of_that_split(split: Any) -> None:
    mixture = make_mixture(sources=tuple(NAMES))
    everything = [
        {x.tobytes() for place in range(source.num_classes(split))
         for x in source.class_examples(split, place)}
        for source in (make_glyphs(), make_glyphs(num_classes=30, seed=5))
    ]  # fmt: skip
    for seed in range(10):
        task = mixture.draw(split, SIZE, rng(seed))
        drawn = {x[..., 0].tobytes() for x in np.concatenate([task.support_x, task.query_x])}
        assert any(drawn <= known for known in everything)


def test_images_are_resized_as_pillow_does_and_grey_ones_repeated() -> None:
    colour = colour_images()
    mixture = joined(make_glyphs(num_classes=15), colour, shape=(3, 28, 28))
    grey = mixture.class_examples("train", 0)
    assert grey.shape == (20, 28, 28, 3)
    assert np.array_equal(grey, np.repeat(make_glyphs().images[:20, ..., None], 3, axis=-1))
    resized = mixture.class_examples("train", mixture.class_sizes("train")[0])
    for image, original in zip(resized, colour.class_examples("train", 0), strict=True):
        expected = Image.fromarray(original).resize((28, 28), Image.Resampling.BILINEAR)
        assert np.abs(image.astype(int) - np.asarray(expected).astype(int)).max() <= 1
    x = mixture.preprocess(torch.from_numpy(resized))
    assert x.shape == (4, 3, 28, 28)
    assert torch.equal(x[0, 2, 5, 7] * 255, torch.tensor(float(resized[0, 5, 7, 2])))


def test_images_of_the_same_size_are_not_changed() -> None:
    mixture = joined(colour_images(), colour_images(), shape=(3, 41, 41))
    assert np.array_equal(
        mixture.class_examples("val", 7), colour_images().class_examples("val", 2)
    )


def test_vectors_are_stored_as_the_network_sees_them(tmp_path: Path) -> None:
    member = {"name": "features", "file": str(write_tiny_features(tmp_path / "tiny.npz"))}
    mixture = make_mixture(sources=(member, {**member, "normalize": "l2"}))
    task = mixture.draw("train", SIZE, rng(0))
    assert task.support_x.dtype == np.float32
    x = torch.from_numpy(task.support_x)
    assert torch.equal(mixture.preprocess(x), x)
    assert mixture.input_shape == (6,)
    assert mixture.input_form is None


def test_the_data_root_is_that_of_sources_without_their_own(tmp_path: Path) -> None:
    own = {"name": "omniglot", "root": str(tmp_path / "own")}
    with pytest.raises(MissingDataError, match=str(tmp_path / "all")):
        make_mixture(sources=("glyphs", "omniglot"), root=str(tmp_path / "all"))
    with pytest.raises(MissingDataError, match=str(tmp_path / "own")):
        make_mixture(sources=(own,), root=str(tmp_path / "all"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"task\.sources must name the task sources, got none; set task\.sources="),
        ({"sources": ["glyps"]}, "got 'glyps'.*did you mean 'glyphs'"),
        ({"sources": [{"seed": 1}]}, r"task\.sources\.name must be a registered name"),
        ({"sources": [{"name": "glyphs", "sed": 1}]}, r"'task\.sources\.glyphs\.sed'.*'seed'"),
        ({"sources": ["glyphs", "sinusoid"]}, "of one kind, got glyphs: classification, sinus"),
        ({"sources": NAMES, "weights": [1]}, r"task\.weights must be one number for each.*\[1,1\]"),
        ({"sources": NAMES, "weights": [0, 0]}, r"task\.weights must be .* not all 0"),
        ({"sources": NAMES, "weights": [-1, 2]}, r"task\.weights must be >= 0"),
        ({"sources": ["sinusoid"], "image_size": 9}, r"task\.image_size must be null"),
        ({"sources": ["sinusoid"], "channels": 3}, r"task\.channels must be null"),
        ({"sources": ["glyphs"], "ways": 2000}, r"ways must be <= .*\(of glyphs in task\.sources"),
        ({"sources": ["glyphs"], "train_examples": 9000}, r"task\.train_examples must be <= "),
    ],
)
def test_what_does_not_go_together_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    changes = {f"task__{key}": value for key, value in options.items()}
    if "train_examples" in options:
        changes["algorithm"] = "simpleshot"
    with pytest.raises(ValueError, match=message):
        prepare(tiny_config(tmp_path, task="mixture", **changes))


def test_images_that_differ_are_refused_with_what_would_join_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dmeta.registry import Entry
    from dmeta.tasks import TASKS

    monkeypatch.setitem(TASKS._loaded, "glyphs", Entry(make_glyphs, "", ""))
    monkeypatch.setitem(TASKS._loaded, "miniimagenet", Entry(colour_images, "", ""))
    both = ("glyphs", "miniimagenet")
    with pytest.raises(
        ValueError, match=r"got glyphs: \(1, 28, 28\), miniimagenet: \(3, 41, 41\); set "
        r"task\.image_size=28 task\.channels=3"
    ):  # fmt: skip
        make_mixture(sources=both)
    with pytest.raises(ValueError, match=r"images of at most task\.channels=1, got .*set it to 3"):
        make_mixture(sources=both, image_size=28, channels=1)
    assert make_mixture(sources=both, image_size=20, channels=3).input_shape == (3, 20, 20)


def test_sources_without_what_is_asked_for_are_refused() -> None:
    waves = make_mixture(sources=("sinusoid",))
    with pytest.raises(ValueError, match=r"must draw mini-batches .* got sinusoid, which does not"):
        waves.num_classes("train")
    with pytest.raises(ValueError, match=r"must list its examples .* got sinusoid, which does not"):
        waves.split_class_names("train")
    plain = colour_images()
    splits = {**plain.splits, "val": plain.splits["val"][:0]}
    lacking = ImageClasses(plain.images, plain.class_names, plain.starts, splits)
    mixture = joined(plain, lacking, shape=(3, 41, 41))
    with pytest.raises(ValueError, match="must have classes in split 'val', got none in s1"):
        mixture.num_classes("val")
    with pytest.raises(ValueError, match=r"split 'val' must have classes.*of s1 in task\.sources"):
        mixture.check("val", SIZE)


def test_a_run_notes_the_check_sums_of_its_sources(tmp_path: Path) -> None:
    files = [write_tiny_features(tmp_path / name / "tiny.npz") for name in "ab"]
    ways = ("none", "l2")
    sources = [
        [{"name": "features", "file": str(file), "normalize": way} for way in ways]
        for file in files
    ]
    common = {"task": "mixture", "model": "mlp", "task__queries": 2}
    one, two = (prepare(tiny_config(tmp_path, task__sources=s, **common)) for s in sources)
    noted = one.config.task.source.options["sources"]
    assert [len(each["sha256"]) for each in noted] == [64, 64]
    assert one.config.fingerprint() == two.config.fingerprint(), "wherever they lie"
    assert prepare(one.config).config.fingerprint() == one.config.fingerprint()
    changed = dict(np.load(files[0])) | {"features": np.ones((600, 6), np.float32)}
    np.savez(files[0], **changed)
    with pytest.raises(ValueError, match="SHA-256"):
        prepare(one.config)


def test_a_run_is_evaluated_on_one_of_its_sources(tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    settings = {
        "task": "mixture", "task.sources": NAMES, "task.ways": 3, "task.queries": 5,
        "algorithm": "protonet", "model": "conv4_strided", "model.filters": 4, "steps": 2,
        "meta_batch_size": 2, "eval.num_tasks": 4, "eval.every": 0, "runtime": "local",
        "run_dir": run,
    }  # fmt: skip
    dmeta.train(settings)
    mixed = dmeta.evaluate(run, num_tasks=20)
    alone = dmeta.evaluate(run, num_tasks=20, task={"weights": [0, 1]})
    named = dmeta.evaluate(run, num_tasks=20, task={"sources": NAMES[1:], "weights": [1]})
    assert alone.value == named.value, "the same tasks"
    assert mixed.value != alone.value
