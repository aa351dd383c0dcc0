"""`dmeta embed`: from a trained run to a file of features, and on to a run on those."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dmeta
from dmeta.cli import main
from dmeta.tasks.features import load_features
from dmeta.tasks.glyphs import make_glyphs
from dmeta.tasks.source import SPLITS
from tests.conftest import TINY

GLYPHS = {"task": "glyphs", "task.num_classes": 30, "task.drawings": 6, "task.queries": 2}
SMALL = {"model.filters": 4, "model.blocks": 2}


def train(run_dir: Path, algorithm: str, **changes: Any) -> Path:
    settings = TINY | GLYPHS | {"run_dir": str(run_dir), "algorithm": algorithm, "steps": 2}
    return dmeta.train(settings | {"eval.every": 0} | changes).run_dir


def read(path: Path) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def protonet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("runs") / "protonet", "protonet", **SMALL)


def test_every_example_of_every_split_is_there_under_its_class(protonet: Path) -> None:
    path = dmeta.embed(protonet)
    assert path == protonet / "features.npz"
    source, images = load_features(file=str(path)), make_glyphs(num_classes=30, drawings=6)
    assert source.input_shape == (4,)
    assert len(source.features) == 30 * 6
    for split in SPLITS:
        assert source.split_class_names(split) == images.split_class_names(split)
    with pytest.raises(ValueError, match=r"out must be new, got .*features\.npz; delete it"):
        dmeta.embed(protonet)
    path.unlink()


def test_a_vector_is_the_networks_with_the_statistics_of_training_images(
    protonet: Path, tmp_path: Path
) -> None:
    """By hand: a query of the non-transductive kind, behind the fixed training images."""
    arrays = read(dmeta.embed(protonet, tmp_path / "x.npz", statistics_examples=16))
    images, learner = make_glyphs(num_classes=30, drawings=6), dmeta.load(protonet)
    rng = np.random.default_rng(0)
    places = rng.integers(len(images.split_class_names("train")), size=16)
    fixed = [images.class_examples("train", int(place))[rng.integers(6)] for place in places]
    test = images.class_examples("test", 2)
    x = images.preprocess(torch.from_numpy(np.concatenate([np.stack(fixed), test])))
    network = learner.algorithm.network
    with torch.no_grad():
        fixed = network.with_statistics_of_first(16)
        want = fixed.apply(dict(learner.meta_params), x)[16:].flatten(1)
    name = images.split_class_names("test")[2]
    label = arrays["class_names"].tolist().index(name)
    got = arrays["features"][arrays["labels"] == label]
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-4, atol=1e-5)


def test_what_is_embedded_beside_it_does_not_matter(protonet: Path, tmp_path: Path) -> None:
    one, other = (
        read(dmeta.embed(protonet, tmp_path / f"{size}.npz", batch_size=size)) for size in (7, 200)
    )
    np.testing.assert_allclose(one["features"], other["features"], rtol=1e-4, atol=1e-5)
    assert np.array_equal(one["labels"], other["labels"])


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["maml", "meta_sgd", "reptile", "joint"])
def test_a_classifier_embeds_without_its_last_layer(algorithm: str, tmp_path: Path) -> None:
    run = train(tmp_path / "run", algorithm, **SMALL)
    assert load_features(file=str(dmeta.embed(run))).input_shape == (4,)


@pytest.mark.slow
def test_runs_that_cannot_embed_say_why(tmp_path: Path) -> None:
    cavia = train(tmp_path / "cavia", "cavia", **SMALL, **{"model.context": 3})
    with pytest.raises(ValueError, match=r"got one without .*context; choose a run of protonet"):
        dmeta.embed(cavia)
    sines = dmeta.train(TINY | {"run_dir": str(tmp_path / "sines"), "steps": 1}).run_dir
    with pytest.raises(ValueError, match=r"must be a data set .* got sinusoid; choose a run"):
        dmeta.embed(sines)
    own = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 5))
    settings = TINY | GLYPHS | {"run_dir": str(tmp_path / "own"), "steps": 1}
    dmeta.train(settings, model=own)
    with pytest.raises(ValueError, match="a custom model must belong to a method that embeds"):
        dmeta.embed(tmp_path / "own", model=own)
    with pytest.raises(ValueError, match="batch_size must be >= 2, got 1; raise it"):
        dmeta.embed(tmp_path / "own", batch_size=1)
    assert not list(tmp_path.glob("*/*.npz"))


def test_an_own_embedding_embeds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    own = nn.Sequential(nn.Flatten(), nn.Linear(28 * 28, 3))
    settings = TINY | GLYPHS | {"run_dir": str(tmp_path / "own"), "steps": 1}
    dmeta.train(settings | {"algorithm": "protonet"}, model=own)
    assert load_features(file=str(dmeta.embed(tmp_path / "own", model=own))).input_shape == (3,)


@pytest.mark.slow
def test_from_a_run_to_leo_on_its_features_by_the_command_line(
    protonet: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["dmeta"])
    main.main(["embed", f"run_dir={protonet}", "out=made/features.npz"])
    told = capsys.readouterr().out
    assert "180 vectors of 4 features; classes: 19 train, 5 val, 6 test" in told
    next_command = told.split("next      dmeta ")[1].split()
    quick = ["runtime=local", "steps=2", "meta_batch_size=3", "eval.num_tasks=4", "run_dir=leo"]
    main.main([*next_command, *quick, "task.queries=3"])
    learner = dmeta.load("leo")
    adapted = learner.adapt(np.eye(4, dtype=np.float32), np.arange(4))
    assert adapted.predict(np.eye(4, dtype=np.float32)).shape == (4, 4)
    with pytest.raises(SystemExit) as stop:
        main.main(["embed", f"run_dir={protonet}", "out=made/features.npz"])
    assert stop.value.code == 2
    assert "out must be new" in capsys.readouterr().err
