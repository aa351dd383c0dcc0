"""Whole runs on mini-batches against a training loop in plain torch, and scores of its features.

The reference knows the source's rows and labels, `torch.nn` and `torch.optim`, and nothing else of
dmeta but the seeds that the mini-batches and tasks are drawn from. Images are of unequal classes.

Letters: D dimensions of the features, C training classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dmeta
from dmeta.algorithms.base_classes import BIAS, WEIGHT
from dmeta.algorithms.simpleshot import CENTER
from dmeta.tasks.classes import make_starts
from dmeta.tasks.images import ImageClasses

STEPS, SLOTS, EXAMPLES = 12, 4, 10
RATE, CENTER_RATE = 0.2, 0.1
COUNTS = [9, 14, 7, 20, 11, 8, 8, 8, 8, 8, 8, 8]  # of the stored classes
TRAIN, OTHERS = (0, 2, 3, 4, 1), (5, 6, 7, 8, 9, 10, 11)  # not in the stored order
WAYS, SHOTS, QUERIES, TASKS = 3, 2, 3, 20


def patches() -> ImageClasses:
    """Blurred noise; a class has a pattern of its own. Turned classes are classes, too."""
    rng = np.random.default_rng(17)
    images = []
    for count in COUNTS:
        pattern = rng.random((12, 12))
        images.append(np.clip(pattern + rng.normal(0, 0.2, (count, 12, 12)), 0, 1))
    pairs = [[(c, 0) for c in TRAIN] + [(3, 1)], [(c, 0) for c in OTHERS]]
    train, others = (np.array(each) for each in pairs)
    return ImageClasses(
        (255 * np.concatenate(images)).astype(np.uint8),
        tuple(f"class{i:02d}" for i in range(len(COUNTS))),
        make_starts(COUNTS),
        {"train": train, "val": others[:3], "test": others},
    )


def backbone() -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2),
        nn.Conv2d(6, 7, 3, stride=2, bias=False), nn.BatchNorm2d(7), nn.ReLU(), nn.Flatten(),
    )  # fmt: skip


def drawn(source: ImageClasses, step: int, slot: int) -> tuple[Tensor, Tensor]:
    """A mini-batch, its labels looked up by the image in the stored arrays."""
    rng = np.random.default_rng([0, 0, step, slot])
    x, y = source.draw_batch("train", EXAMPLES, rng)
    for image, label in zip(x, y, strict=True):
        stored, turns = source.splits["train"][label]
        own = source.images[source.starts[stored] : source.starts[stored + 1]]
        assert (np.rot90(image, -turns) == own).all((1, 2)).any()
    return torch.from_numpy(x)[:, None] / 255, torch.from_numpy(y)


def trained_by_torch(source: ImageClasses, layer: nn.Linear) -> tuple[nn.Sequential, Tensor]:
    """The backbone after training, and the centre of its features."""
    body = backbone()
    optimizer = torch.optim.SGD([*body.parameters(), *layer.parameters()], lr=RATE, momentum=0.9)
    center = torch.zeros(layer.in_features)
    for step in range(STEPS):
        optimizer.zero_grad()
        means = []
        for slot in range(SLOTS):
            x, y = drawn(source, step, slot)
            features = body(x)
            (F.cross_entropy(layer(features), y) / SLOTS).backward()
            means.append(features.detach().mean(0))
        optimizer.step()
        center += CENTER_RATE * (torch.stack(means).mean(0) - center)
    return body, center


def scores_of(source: ImageClasses, body: nn.Sequential, center: Tensor) -> list[float]:
    """CL2N accuracies of the test tasks, all queries of a task as one batch."""
    size = dmeta.tasks.source.EpisodeSize(WAYS, SHOTS, QUERIES)
    found = []
    for slot in range(TASKS):
        task = source.draw("test", size, np.random.default_rng([1, 2, 0, slot]))
        x, qx = (torch.from_numpy(a)[:, None] / 255 for a in (task.support_x, task.query_x))
        with torch.no_grad():
            z, zq = (F.normalize(body(each) - center) for each in (x, qx))
        y = torch.from_numpy(task.support_y)
        means = torch.stack([z[y == w].mean(0) for w in range(WAYS)])
        right = torch.cdist(zq, means).argmin(1) == torch.from_numpy(task.query_y)
        found.append(float(right.float().mean()))
    return found


@pytest.mark.parametrize("plan", ["loop", "vmap"])
@pytest.mark.parametrize("block_size", [1, 3])
def test_a_run_is_a_training_loop_of_torch(tmp_path: Path, plan: str, block_size: int) -> None:
    source = patches()
    settings: dict[str, Any] = {
        "algorithm": "simpleshot", "algorithm.center_rate": CENTER_RATE, "steps": STEPS,
        "meta_batch_size": SLOTS, "outer": "sgd", "outer.lr": RATE, "outer.momentum": 0.9,
        "task.ways": WAYS, "task.shots": SHOTS, "task.queries": QUERIES,
        "task.train_examples": EXAMPLES, "compute.plan": plan, "compute.block_size": block_size,
        "eval.every": 0, "eval.num_tasks": TASKS, "runtime": "local",
        "run_dir": str(tmp_path / "first"),
    }  # fmt: skip
    result = dmeta.train({**settings, "steps": 1}, model=backbone(), source=source)
    first = dmeta.load(result.run_dir, model=backbone()).algorithm.init_meta_params()
    layer = nn.Linear(first[WEIGHT].shape[1], first[WEIGHT].shape[0])
    assert layer.out_features == len(source.splits["train"])
    layer.weight.data, layer.bias.data = first[WEIGHT].clone(), first[BIAS].clone()
    body, center = trained_by_torch(source, layer)
    settings["run_dir"] = str(tmp_path / "whole")
    result = dmeta.train(settings, model=backbone(), source=source)
    learned = dmeta.load(result.run_dir, model=backbone()).meta_params
    expected = {**dict(body.named_parameters()), WEIGHT: layer.weight, BIAS: layer.bias}
    worst = 0.0
    for name, p in {**expected, CENTER: center}.items():
        worst = max(worst, float((learned[name] - p.detach()).abs().max()))
        assert (p.detach() - first[name]).abs().max() > 0.01, name
    print(f"{plan}, blocks of {block_size}: largest difference {worst:.1e} after {STEPS} steps")
    assert worst < 2e-5
    scores = scores_of(source, body, center)
    assert result.test.scores == pytest.approx(scores)
    assert 0.4 < np.mean(scores) < 1
