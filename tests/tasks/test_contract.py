"""What holds for every registered task source that needs no data of others."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
import typing
from dataclasses import FrozenInstanceError, fields

import numpy as np
import pytest
import torch

from dmeta.tasks import TASKS
from dmeta.tasks.source import (
    SPLITS,
    DrawnTask,
    EpisodeSize,
    ListsExamples,
    Split,
    TaskSource,
    draws_batches,
)
from tests.tasks.conftest import (
    write_groups,
    write_pictures,
    write_series,
    write_texts,
    write_tiny_features,
)

NEEDS_DATA = {
    "aircraft", "chestx", "cifar_fs", "crop_disease", "cub", "dtd", "eurosat", "fc100", "fungi",
    "isic", "miniimagenet", "omniglot", "quickdraw", "tiered_imagenet", "torchvision",
    "traffic_sign", "vgg_flower",
}  # fmt: skip
NO_DATA = sorted(set(TASKS) - NEEDS_DATA)


@pytest.fixture(scope="module", params=NO_DATA)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TaskSource:
    if request.param == "features":
        file = write_tiny_features(tmp_path_factory.mktemp("features") / "tiny.npz")
        return TASKS["features"].make(file=str(file))
    if request.param == "image_folder":
        counts = {f"{split}/{split}{n}": 8 for split in SPLITS for n in range(20)}
        root = write_pictures(tmp_path_factory.mktemp("pictures"), counts)
        return TASKS["image_folder"].make(root=str(root), size=8, cache=False)
    if request.param == "forecast":
        values = np.random.default_rng(0).normal(10, 1, (200, 60))
        rows = [f"s{n}," + ",".join(map(str, own)) for n, own in enumerate(values)]
        file = tmp_path_factory.mktemp("forecast") / "f.csv"
        file.write_text("\n".join([",".join(f"V{n}" for n in range(61)), *rows]) + "\n")
        return TASKS["forecast"].make(file=str(file), horizon=2, history=3)
    if request.param == "arrays":
        file = tmp_path_factory.mktemp("arrays") / "a.npz"
        x = np.random.default_rng(0).normal(size=(800, 6))
        np.savez(file, x=x, y=np.repeat(np.arange(100), 8))
        return TASKS["arrays"].make(file=str(file))
    if request.param == "series":
        counts = {f"class{number}": 8 for number in range(100)}
        file = write_series(tmp_path_factory.mktemp("series") / "x.ts", counts)
        return TASKS["series"].make(file=str(file))
    if request.param == "table":
        file = write_groups(tmp_path_factory.mktemp("table") / "t.csv", num_groups=20, num_rows=20)
        return TASKS["table"].make(file=str(file), target="y", group="school")
    if request.param == "text":
        counts = {f"class{number}": 8 for number in range(100)}
        file = write_texts(tmp_path_factory.mktemp("texts") / "texts.csv", counts)
        return TASKS["text"].make(file=str(file), num_features=64)
    if request.param == "mixture":  # of one: of several, a mini-batch does not see all classes
        return TASKS["mixture"].make(sources=("glyphs",))
    return TASKS[request.param].make()


def sizes(source: TaskSource) -> list[EpisodeSize]:
    if source.kind == "regression":
        return [EpisodeSize(1, 10, 7), EpisodeSize(1, 1, 1)]
    return [EpisodeSize(5, 3, 4), EpisodeSize(2, 1, 1), EpisodeSize(20, 1, 5)]


def draw(source: TaskSource, split: Split, size: EpisodeSize, seed: int) -> DrawnTask:
    return source.draw(split, size, np.random.default_rng(seed))


def equal(a: DrawnTask, b: DrawnTask) -> bool:
    return all(x.dtype == y.dtype and np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("split", SPLITS)
def test_equal_generators_draw_equal_tasks_and_others_do_not(
    source: TaskSource, split: Split
) -> None:
    for size in sizes(source):
        assert equal(draw(source, split, size, 1), draw(source, split, size, 1))
        assert not equal(draw(source, split, size, 1), draw(source, split, size, 2))


@pytest.mark.parametrize("split", SPLITS)
def test_shapes_and_types(source: TaskSource, split: Split) -> None:
    for size in sizes(source):
        task = draw(source, split, size, 0)
        S, Q = size.ways * size.shots, size.ways * size.queries
        assert len(task.support_x) == len(task.support_y) == S
        assert len(task.query_x) == len(task.query_y) == Q
        assert task.support_x.shape[1:] == task.query_x.shape[1:]
        if source.kind == "classification":
            assert task.support_y.dtype == task.query_y.dtype == np.int64
            assert task.support_y.shape == (S,)
        else:
            assert task.support_y.dtype == task.query_y.dtype == np.float32
            assert task.support_y.shape == (S, source.num_outputs(size.ways))


def test_every_class_has_its_shots_and_queries(source: TaskSource) -> None:
    if source.kind != "classification":
        pytest.skip("regression has no classes")
    for size in sizes(source):
        task = draw(source, "train", size, 0)
        assert np.bincount(task.support_y).tolist() == [size.shots] * size.ways
        assert np.bincount(task.query_y).tolist() == [size.queries] * size.ways
        assert source.num_outputs(size.ways) == size.ways


def test_support_rows_are_in_random_order(source: TaskSource) -> None:
    size = EpisodeSize(1 if source.kind == "regression" else 5, 4, 1)
    orders = {draw(source, "train", size, seed).support_y.tobytes() for seed in range(20)}
    assert len(orders) == 20


def test_preprocess_makes_float32_of_the_input_shape_for_any_leading_shape(
    source: TaskSource,
) -> None:
    x = torch.from_numpy(draw(source, "train", sizes(source)[0], 0).support_x)
    before = x.clone()
    out = source.preprocess(x)
    stacked = source.preprocess(torch.stack([x, x]))
    assert out.dtype == torch.float32
    assert out.shape == (len(x), *source.input_shape)
    assert torch.equal(stacked[1], out)
    assert torch.equal(x, before)


def test_check_refuses_what_cannot_be_drawn_and_draw_agrees(source: TaskSource) -> None:
    good = sizes(source)[0]
    bad = [
        EpisodeSize(0, 1, 1),
        EpisodeSize(good.ways, 0, 1),
        EpisodeSize(good.ways, 1, 0),
        EpisodeSize(10**6, 1, 1),
    ]
    if source.kind == "classification":
        bad.append(EpisodeSize(good.ways, 1, 10**6))
    for split in SPLITS:
        source.check(split, good)
        for size in bad:
            with pytest.raises(ValueError, match=r"must be .*, got .*task\."):
                source.check(split, size)
            with pytest.raises(ValueError, match="must be"):
                draw(source, split, size, 0)
    with pytest.raises(ValueError, match="split must be one of train, val, test, got 'dev'"):
        source.check("dev", good)  # type: ignore[arg-type]


@pytest.mark.parametrize("split", SPLITS)
def test_a_source_that_lists_its_examples_lists_what_it_draws(
    source: TaskSource, split: Split
) -> None:
    if not isinstance(source, ListsExamples):
        pytest.skip("it makes examples without end")
    names = source.split_class_names(split)
    assert len(set(names)) == len(names)
    everything = [source.class_examples(split, place) for place in range(len(names))]
    listed = {row.tobytes(): place for place, rows in enumerate(everything) for row in rows}
    task = draw(source, split, sizes(source)[0], 0)
    classes = [listed[x.tobytes()] for x in task.support_x]
    assert len(set(zip(classes, task.support_y.tolist(), strict=True))) == sizes(source)[0].ways
    assert {x.tobytes() for x in task.query_x} <= set(listed)
    everything[0][...] = 0
    assert source.class_examples(split, 0).any(), "a copy"
    others = {name for s in SPLITS if s != split for name in source.split_class_names(s)}
    assert not others & set(names)


def test_a_pickled_copy_draws_the_same(source: TaskSource) -> None:
    copy = pickle.loads(pickle.dumps(source))
    assert equal(draw(source, "val", sizes(source)[0], 3), draw(copy, "val", sizes(source)[0], 3))


def test_read_only_arrays_suffice_and_nothing_drawn_is_a_view_of_them(source: TaskSource) -> None:
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(source, protocol=5, buffer_callback=buffers.append)
    frozen = [bytes(b.raw()) for b in buffers]
    copy = pickle.loads(data, buffers=frozen)  # arrays over bytes: read-only, as in a shared store
    size = sizes(source)[0]
    first = draw(copy, "train", size, 5)
    for array in first:
        assert array.flags.writeable
        array[...] = 0
    assert equal(draw(copy, "train", size, 5), draw(source, "train", size, 5))


def test_a_source_is_frozen(source: TaskSource) -> None:
    name = fields(source)[0].name  # type: ignore[arg-type]
    with pytest.raises(FrozenInstanceError):
        setattr(source, name, None)


def test_a_source_prints_as_one_line(source: TaskSource) -> None:
    assert "\n" not in repr(source)
    assert len(repr(source)) < 200


def test_drawing_leaves_global_random_state_alone(source: TaskSource) -> None:
    numpy_before, torch_before = np.random.get_state()[1].copy(), torch.get_rng_state()  # noqa: NPY002
    draw(source, "train", sizes(source)[0], 0)
    assert np.array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_before)


def parts_of(hint: typing.Any) -> list[typing.Any]:
    """The types that a union, a list or a group is made of, and the values of a choice."""
    inner = typing.get_args(hint)
    return [part for each in inner for part in parts_of(each)] if inner else [hint]


@pytest.mark.parametrize("name", sorted(TASKS))
def test_options_are_keywords_with_simple_types_and_defaults(name: str) -> None:
    make = TASKS[name].make
    hints = typing.get_type_hints(make.__init__ if inspect.isclass(make) else make)
    for option in inspect.signature(make).parameters.values():
        assert option.default is not inspect.Parameter.empty
        # What settings can write: texts, numbers, choices of names, and lists or groups of them.
        parts = parts_of(hints[option.name])
        plain = (str, int, float, bool, type(None), typing.Any, ...)
        assert all(part in plain or isinstance(part, str | int) for part in parts)
    assert TASKS[name].summary
    assert TASKS[name].source


def test_the_registry_does_not_import_torchvision() -> None:
    code = "import sys, dmeta.tasks; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_mini_batches_are_of_the_split_with_labels_among_all_its_classes(
    source: TaskSource,
) -> None:
    if not draws_batches(source):
        assert source.kind == "regression"
        return
    names = source.split_class_names("train")  # type: ignore[attr-defined]
    classes = [source.class_examples("train", place) for place in range(len(names))]  # type: ignore[attr-defined]
    total = sum(map(len, classes))
    assert source.num_classes("train") == len(names)
    x, y = source.draw_batch("train", total, np.random.default_rng(0))
    assert y.dtype == np.int64
    assert np.bincount(y).tolist() == [len(rows) for rows in classes], "everything once"
    for place, rows in enumerate(classes):
        drawn = sorted(row.tobytes() for row in x[y == place])
        assert drawn == sorted(row.tobytes() for row in rows)
    again = source.draw_batch("train", 7, np.random.default_rng(1))
    same = source.draw_batch("train", 7, np.random.default_rng(1))
    other = source.draw_batch("train", 7, np.random.default_rng(2))
    assert np.array_equal(again.x, same.x)
    assert not np.array_equal(again.x, other.x)
    with pytest.raises(ValueError, match=rf"task.train_examples must be <= {total} .*; lower it"):
        source.draw_batch("train", total + 1, np.random.default_rng(0))
