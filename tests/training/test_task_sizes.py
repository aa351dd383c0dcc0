"""Tasks of different sizes in one block."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dmeta
from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.algorithm import kinds, trains_on_batches
from dmeta.cli.settings.hydra_app import compose
from dmeta.runtime.blocks import blocks_of
from dmeta.runtime.messages import Block
from dmeta.tasks.source import DrawnTask, EpisodeSize, Split
from dmeta.training.autotune.memory_budget import first_block_inputs
from dmeta.training.config import run_config
from dmeta.training.setup import Run, prepare
from dmeta.training.work.replay import replay_block
from tests.conftest import tiny_config

VARIED = ["task.ways=6", "task.shots=4", "task.queries=3", "task.sampler=meta_dataset"]
SMALL = ["task=glyphs", "task.num_classes=30", "model=conv4_strided", "model.filters=4"]
NEEDED = {"cavia": ["model.context=3"]}
QUICK = ("maml", "protonet", "matching")
CLASSIFY = [
    pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
    for name, entry in ALGORITHMS.items()
    if "classification" in kinds(entry.make) and not trains_on_batches(entry.make)
]


def run_of(*overrides: str, **own: Any) -> Run:
    return prepare(run_config(compose("train", [*overrides, "compute.block_size=4"])), **own)


def slots(first: int, num: int) -> Block:
    return Block("train", 3, 0, first, num)


@pytest.mark.parametrize("algorithm", CLASSIFY)
def test_a_blocks_gradient_is_the_sum_of_its_tasks(algorithm: str) -> None:
    needed = NEEDED.get(algorithm, [])
    run = run_of(f"algorithm={algorithm}", *SMALL, *VARIED, *needed, "task.min_ways=3")
    work, vector = run.work.build("cpu"), run.outer.initial
    sizes = [inputs.tasks.support.x.shape[:2] for inputs in work.block_inputs(vector, slots(0, 4))]
    assert len(set(sizes)) > 1, "the tasks must differ"
    whole = work.gradient(vector, slots(0, 4))
    alone = [work.gradient(vector, slots(slot, 1)) for slot in range(4)]
    total = np.sum([each.gradient.astype(np.float64) for each in alone], axis=0)
    scale = np.abs(total).max()
    assert scale > 0
    np.testing.assert_allclose(whole.gradient, total, rtol=0, atol=1e-5 * scale)
    for name, value in whole.report.sums.items():
        summed = sum(each.report.sums[name] for each in alone)
        assert value == pytest.approx(summed, rel=1e-4, abs=1e-4), name


def test_the_plans_agree_and_a_block_has_its_bits_on_any_worker() -> None:
    run = run_of("algorithm=protonet", *SMALL, *VARIED, "compute.plan=vmap")
    loop = run_of("algorithm=protonet", *SMALL, *VARIED, "compute.plan=loop")
    one, vector = run.work.build("cpu"), run.outer.initial
    other = pickle.loads(pickle.dumps(run.work)).build("cpu")
    for block in blocks_of("train", 0, 8, 4):
        mine, theirs = one.gradient(vector, block), other.gradient(vector, block)
        assert np.array_equal(mine.gradient, theirs.gradient)
        plain = loop.work.build("cpu").gradient(vector, block).gradient
        np.testing.assert_allclose(mine.gradient, plain, atol=1e-5 * np.abs(plain).max())


def test_scores_stand_in_the_places_of_their_tasks() -> None:
    run = run_of("algorithm=protonet", *SMALL, *VARIED, "eval.metrics=[accuracy,nll,macro_f1]")
    work, vector = run.work.build("cpu"), run.outer.initial
    whole = work.evaluate(vector, Block("test", 0, 0, 0, 6))
    for slot in range(6):
        alone = work.evaluate(vector, Block("test", 0, 0, slot, 1))
        for name, value in alone.per_task.items():
            np.testing.assert_allclose(whole.per_task[name][slot], value[0], rtol=1e-4, atol=1e-5)


def test_an_ensemble_of_one_model_is_that_model(tmp_path: Path) -> None:
    settings = {
        **{key: value for key, _, value in (each.partition("=") for each in SMALL + VARIED)},
        "algorithm": "protonet", "steps": 2, "meta_batch_size": 3, "compute.block_size": 3,
        "eval.every": 1, "eval.num_tasks": 9, "eval.val_tasks": 4, "runtime": "local",
        "checkpoint.every": 1,
    }  # fmt: skip
    run_dir = str(tmp_path / "run")
    dmeta.train(
        settings | {"run_dir": run_dir, "eval.checkpoint": "ensemble", "eval.ensemble_size": 1}
    )
    both = [dmeta.evaluate(run_dir, checkpoint=c, num_tasks=9) for c in ("ensemble", "best")]
    assert both[0].model == "ensemble"
    assert both[0].value == pytest.approx(both[1].value, abs=1e-6)
    assert both[0].scores == pytest.approx(both[1].scores, abs=1e-6)


def test_a_resumed_run_goes_on_with_the_same_tasks(tmp_path: Path) -> None:
    small = {
        "algorithm": "maml", "task": "sinusoid", "task.sampler": "uniform", "task.shots": 6,
        "steps": 4, "meta_batch_size": 6, "compute.block_size": 2, "eval.num_tasks": 6,
        "eval.every": 2, "eval.val_tasks": 4, "model.hidden": 8, "joint_baseline": False,
    }  # fmt: skip
    one = dmeta.train(small | {"run_dir": str(tmp_path / "one"), "runtime": "local"})
    other = {"run_dir": str(tmp_path / "two"), "runtime": "local"}
    half = dmeta.train(small | other | {"steps": 2})
    assert half.meta_params_sha256 != one.meta_params_sha256
    resumed = dmeta.train(small | other | {"resume": True})
    assert resumed.meta_params_sha256 == one.meta_params_sha256
    assert resumed.test == one.test


def test_a_plan_is_chosen_for_a_block_of_the_largest_tasks() -> None:
    run = run_of("algorithm=protonet", *SMALL, *VARIED)
    inputs = first_block_inputs(run)
    groups = run.work.build("cpu").block_inputs(run.outer.initial, Block("train", 0, 0, 0, 4))
    rows = [each.tasks.support.x.shape[1] + each.tasks.query.x.shape[1] for each in groups]
    assert len(set(rows)) > 1
    assert inputs.tasks.support.x.shape[1] + inputs.tasks.query.x.shape[1] == max(rows)
    assert len(inputs.tasks.support.x) == len(inputs.task_seeds) == 4


def test_a_replayed_block_has_each_task_of_its_own(tmp_path: Path) -> None:
    run = run_of("algorithm=protonet", *SMALL, *VARIED)
    block = slots(0, 3)
    parts, arrays = replay_block(run, "cpu", run.outer.initial, block)
    assert len(parts) == 4
    shots = [len(arrays[f"support_x_{place}"]) for place in range(3)]
    assert len(set(shots)) > 1
    for place in range(3):
        assert len(arrays[f"support_y_{place}"]) == shots[place]


@dataclass(frozen=True)
class Ragged:
    """A user's own: task i of three has i + 1 classes more than two."""

    labels: list[int] = field(default_factory=lambda: [0, 1])
    kind: str = "classification"
    input_shape: tuple[int, ...] = (2,)

    def num_outputs(self, ways: int) -> int:
        return ways

    def check(self, split: Split, size: EpisodeSize) -> None: ...

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        num = int(rng.integers(2, 5))
        y = np.arange(num) if self.labels == [0, 1] else np.array(self.labels)
        x = rng.normal(size=(len(y), 2)).astype(np.float32) + 3 * y[:, None]
        more = np.repeat(y, 2)
        return DrawnTask(x, y, x[:1].repeat(len(more), 0), more)

    def preprocess(self, x: Any) -> Any:
        return x


def test_an_own_source_may_decide(tmp_path: Path) -> None:
    settings = ["algorithm=protonet", "model=mlp", "task.ways=4", "task.sampler=source"]
    run = run_of(*settings, source=Ragged())
    found = run.work.build("cpu").block_inputs(run.outer.initial, slots(0, 4))
    ways = {inputs.stage.ways for inputs in found}
    assert len(ways) > 1
    assert ways <= {2, 3, 4}
    with pytest.raises(ValueError, match=r"tasks of a split must be of one size"):
        run_of(*settings[:-1], source=Ragged())
    with pytest.raises(ValueError, match=r"sampler must be fixed or source for this source, got u"):
        run_of(*settings[:-1], "task.sampler=uniform", source=Ragged())


@pytest.mark.parametrize(
    ("labels", "ways", "message"),
    [
        ([0, 2], 4, r"split 'train': the support set must have an example of each class, labelled from 0 on, got labels 0, 2"),  # noqa: E501
        ([0, 1, 2, 3], 3, r"at most 3 classes \(task\.ways\), got 4"),
        ([], 3, r"support_y must have a label at least"),
    ],
)  # fmt: skip
def test_tasks_that_are_none_are_refused(labels: list[int], ways: int, message: str) -> None:
    settings = ["algorithm=protonet", "model=mlp", f"task.ways={ways}", "task.sampler=source"]
    with pytest.raises(ValueError, match=message):
        run_of(*settings, source=Ragged(labels))


def test_one_program_cannot_compute_tasks_of_several_sizes(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"compute\.plan must be.*train_sampler=uniform.*compiled"):
        run_of("task=sinusoid", "task.sampler=uniform", "compute.plan=compiled")


def test_training_and_evaluation_have_samplers_of_their_own(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, task__sampler="uniform", task__train_sampler="fixed")
    run = prepare(config)
    assert (run.work.training.sampler, run.work.evaluation.sampler) == ("fixed", "uniform")
    plain = prepare(tiny_config(tmp_path))
    assert config.fingerprint() == plain.config.fingerprint(), "evaluation does not decide"
    varied = tiny_config(tmp_path, task__train_sampler="uniform")
    assert varied.fingerprint() != plain.config.fingerprint()
    assert run_config(config.as_mapping()) == config
