"""The authors' trained relation networks in dmeta, against plain torch code of their architecture.

In float64, on images that are read here: the plain code has nothing of dmeta's sources or networks.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

import dmeta
from dmeta.algorithms.prediction import Predictor
from dmeta.bilevel.solvers import stop_gradient
from dmeta.bilevel.types import Examples, Stage
from tests.peers.relation_networks import (
    NETWORKS,
    Published,
    meta_params_of,
    read_weights,
    write_run,
)

NUM_TASKS = 2
CASES = [
    pytest.param(name, marks=[] if name == "omniglot_5w1s_relation" else pytest.mark.slow)
    for name in NETWORKS
]


@pytest.fixture
def data(data_root: Path) -> Path:
    if not (data_root / "relation-networks").is_dir():
        pytest.skip(f"no relation-networks under {data_root} (set DMETA_DATA)")
    return data_root


class CNNEncoder(nn.Module):
    """github.com/floodsung/LearningToCompare_FSL, miniimagenet/miniimagenet_train_few_shot.py."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layer1 = _block(channels, padding=0, pool=True)
        self.layer2 = _block(64, padding=0, pool=True)
        self.layer3 = _block(64, padding=1, pool=False)
        self.layer4 = _block(64, padding=1, pool=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return out


class RelationNetwork(nn.Module):
    """Likewise; for Omniglot its convolutions are padded."""

    def __init__(self, inputs: int, padding: int) -> None:
        super().__init__()
        self.layer1 = _block(128, padding=padding, pool=True)
        self.layer2 = _block(64, padding=padding, pool=True)
        self.fc1 = nn.Linear(inputs, 8)
        self.fc2 = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer2(self.layer1(x)).flatten(1)
        return torch.sigmoid(self.fc2(F.relu(self.fc1(out))))


def _block(channels: int, *, padding: int, pool: bool) -> nn.Sequential:
    layers = [nn.Conv2d(channels, 64, 3, padding=padding), nn.BatchNorm2d(64, momentum=1)]
    return nn.Sequential(*layers, nn.ReLU(), *([nn.MaxPool2d(2)] if pool else []))


class Images(NamedTuple):
    """One task as it is stored: pixels in 0..1, Omniglot's paper 1; labels."""

    support: Tensor
    support_y: Tensor
    query: Tensor
    query_y: Tensor


def scores(data: Path, network: Published, task: Images) -> Tensor:
    """[N, W], as the authors' test computes them: batch-norms are never in evaluation mode."""
    inputs, padding = (64, 1) if network.is_omniglot else (64 * 3 * 3, 0)
    encoder = CNNEncoder(task.support.shape[1]).double()
    relation = RelationNetwork(inputs, padding).double()
    for module, weights in zip((encoder, relation), read_weights(data, network), strict=True):
        module.load_state_dict(weights)
    support, query = ((x - 0.92206) / 0.08426 for x in (task.support, task.query))
    maps = encoder(support)
    classes = torch.stack([maps[task.support_y == w].sum(0) for w in task.support_y.unique()])
    pairs = [torch.cat([c, x]) for x in encoder(query) for c in classes]
    return relation(torch.stack(pairs)).view(len(query), len(classes)).detach()


def drawn(data: Path, network: Published) -> Iterator[Images]:
    settings = network.experiment
    ways, shots = (20 if "20w" in settings else 5), (5 if "5w5s" in settings else 1)
    queries = 1 if network.is_omniglot else 3 if shots == 1 else 5
    rng = np.random.default_rng(11)
    place = "omniglot/images_evaluation" if network.is_omniglot else "mini-imagenet/mini-imagenet"
    with zipfile.ZipFile(data / f"{place}.zip") as archive:
        classes = characters(archive) if network.is_omniglot else photographs(archive)
        for _ in range(NUM_TASKS):
            parts: tuple[list[Tensor], list[Tensor]] = ([], [])
            for name in rng.choice(sorted(classes), ways, replace=False):
                files = rng.choice(classes[name], shots + queries, replace=False)
                images = torch.stack([pixels(archive.read(file)) for file in files])
                parts[0].append(images[:shots])
                parts[1].append(images[shots:])
            labels = torch.arange(ways)
            yield Images(
                torch.cat(parts[0]),
                labels.repeat_interleave(shots),
                torch.cat(parts[1]),
                labels.repeat_interleave(queries),
            )


def characters(archive: zipfile.ZipFile) -> dict[str, list[str]]:
    classes: dict[str, list[str]] = {}
    for name in sorted(archive.namelist()):
        if name.endswith(".png"):
            classes.setdefault(name.rpartition("/")[0], []).append(name)
    return classes


def photographs(archive: zipfile.ZipFile) -> dict[str, list[str]]:
    classes: dict[str, list[str]] = {}
    for row in csv.DictReader(io.StringIO(archive.read("test.csv").decode())):
        classes.setdefault(row["label"], []).append(f"images/{row['filename']}")
    return classes


def pixels(file: bytes) -> Tensor:
    image = Image.open(io.BytesIO(file))
    if image.mode == "1":  # of one bit: the nearest pixel
        return torch.tensor(np.array(image.resize((28, 28)), dtype=np.float64))[None]
    rgb = np.array(image.convert("RGB"), dtype=np.float64) / 255
    assert rgb.shape == (84, 84, 3)
    return torch.tensor(rgb).movedim(-1, 0)


@pytest.mark.parametrize("name", CASES)
def test_scores_and_accuracy_are_those_of_the_authors_network(name: str, data: Path) -> None:
    network = NETWORKS[name]
    weights = meta_params_of(
        *({key: w.double() for key, w in part.items()} for part in read_weights(data, network)),
        inverted=network.is_omniglot,
    )
    right, right_there, total = 0, 0, 0
    for task in drawn(data, network):
        support, query = (1 - x if network.is_omniglot else x for x in (task.support, task.query))
        shape = support.shape[1:]
        module = dmeta.MODELS["conv4"].make(shape, None, num_pools=2, unpadded_blocks=2)
        learner = dmeta.make_algorithm("relation", module.double(), example=support)
        assert weights.keys() == learner.init_meta_params().keys()
        stage = Stage(training=False, ways=len(task.support_y.unique()))
        examples = Examples(support, task.support_y)
        with torch.no_grad():
            adapted = learner.adapt(weights, examples, stop_gradient, stage)
        got = Predictor(learner, adapted, support).predict(query, transductive=True).sigmoid()
        want = scores(data, network, task)
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)
        right += int((got.argmax(1) == task.query_y).sum())
        right_there += int((want.argmax(1) == task.query_y).sum())
        total += len(task.query_y)
    assert right == right_there
    assert right / total > (0.9 if network.is_omniglot else 0.35)


@pytest.mark.slow
def test_a_run_that_has_the_authors_weights_is_evaluated_and_loaded(
    data: Path, tmp_path: Path
) -> None:
    network = NETWORKS["omniglot_5w1s_relation"]
    write_run(tmp_path / "run", data, network)
    found = dmeta.evaluate(tmp_path / "run", num_tasks=40, task={"split": "lake"})
    assert found.transductive.mean[0] > 0.95
    learner = dmeta.load(tmp_path / "run")
    for task in drawn(data, network):
        adapted = learner.adapt(1 - task.support.float(), task.support_y)
        labels = adapted.predict_labels(1 - task.query.float(), transductive=True)
        assert labels == scores(data, network, task).argmax(1).tolist()
