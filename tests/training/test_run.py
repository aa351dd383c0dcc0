"""A whole run in its directory: what it writes, and that resuming changes nothing."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dmeta
from dmeta.cli.settings.hydra_app import compose
from dmeta.inference import learner_of
from dmeta.reports.run_report import draw_run
from dmeta.runs.checkpoint import Checkpoint, open_checkpoints, read_checkpoint, steps_in
from dmeta.runs.lock import only_one_in
from dmeta.runs.metrics import read_metrics
from dmeta.runtime.local import LocalRuntime
from dmeta.runtime.messages import (
    Block,
    GradientResult,
    StepReport,
    Vector,
)
from dmeta.runtime.protocol import Runtime
from dmeta.training.config import RunConfig, run_config
from dmeta.training.evaluation import Evaluation
from dmeta.training.loop import TrainingStopped, train_steps
from dmeta.training.results import Result
from dmeta.training.resume import starting_point
from dmeta.training.run import Draw, joint_config, open_run, run_session
from dmeta.training.session import Session
from dmeta.training.setup import Run, prepare
from dmeta.training.work.worker import TaskWork
from tests.conftest import tiny_config
from tests.tasks.conftest import tiny_features, write_tiny_features


def local(run: Run) -> Runtime:
    return LocalRuntime(run.work, run.outer, "cpu", 1)


def finish(run_dir: Path, draw: Draw | None = None, **changes: object) -> Result:
    run = prepare(tiny_config(run_dir, **changes))
    joint = prepare(joint_config(run.config)) if run.config.joint_baseline else None
    return run_session(Session(run, run_dir, local), joint, draw=draw)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run that nothing disturbed."""
    return finish(tmp_path_factory.mktemp("whole"))


def kept_in(run_dir: Path) -> list[int]:
    return steps_in(open_checkpoints(run_dir, None))


def last_of(run_dir: Path) -> Checkpoint:
    return read_checkpoint(open_checkpoints(run_dir, None), kept_in(run_dir)[-1])


class Interrupt:
    """Stops the run after a step, as Ctrl-C would."""

    def __init__(self, after: int) -> None:
        self.after = after

    def on_row(self, row: object) -> None:
        pass

    def on_phase(self, what: str) -> None:
        pass

    def on_step(self, step: int, report: StepReport) -> None:
        if step == self.after:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_run_writes_results_metrics_events_and_figures(tmp_path: Path) -> None:
    result = finish(tmp_path, draw_run)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["meta_params_sha256"] == result.meta_params_sha256
    assert written["test"]["num_tasks"] == 6
    assert written["test"]["split"] == "test"
    assert len(written["test"]["transductive"]["mean"]) == 11
    assert written["settings"]["algorithm"]["inner_lr"] == 0.01
    rows = read_metrics(tmp_path)
    assert [r["step"] for r in rows if r["event"] == "train"] == [2, 4, 6]
    assert [r["step"] for r in rows if r["event"] == "val"] == [3, 6]
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert {p.name for p in (tmp_path / "figures").iterdir()} == {
        "learning_curve.png",
        "inner_steps.png",
        "adapted_functions.png",
    }


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 3, 5])
def test_interrupted_and_resumed_ends_in_the_same_bits(
    tmp_path: Path, whole: Result, stop_after: int
) -> None:
    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        run_session(Session(prepare(tiny_config(broken)), broken, local, [Interrupt(stop_after)]))
    resumed = finish(broken, resume=True)
    assert resumed.meta_params_sha256 == whole.meta_params_sha256
    assert resumed.test == whole.test

    def without_clock(run_dir: Path) -> list[dict[str, object]]:
        clock = ("seconds", "tasks_per_second")
        return [{k: v for k, v in r.items() if k not in clock} for r in read_metrics(run_dir)]

    assert [r for r in without_clock(broken) if r["event"] == "val"] == [
        r for r in without_clock(whole.run_dir) if r["event"] == "val"
    ]


@pytest.mark.slow
def test_the_last_step_is_validated_whenever_others_are(tmp_path: Path) -> None:
    hashes = set()
    for every, steps in ((4, [4, 6]), (3, [3, 6]), (9, [6]), (0, [])):
        found = finish(tmp_path / str(every), eval__every=every)
        rows = read_metrics(tmp_path / str(every))
        assert [row["step"] for row in rows if row["event"] == "val"] == steps
        hashes.add(found.meta_params_sha256)
    assert len(hashes) == 1, "when it is validated does not touch the parameters"


@pytest.mark.parametrize(("steps", "every"), [(10000, 1000), (80, 8), (25, 2), (3, 1)])
def test_validations_are_a_share_of_the_steps(steps: int, every: int) -> None:
    assert run_config(compose("train", [f"steps={steps}"])).eval.every == every
    given = run_config(compose("train", [f"steps={steps}", "eval.every=7"])).eval.every
    assert given == 7


@pytest.mark.slow
def test_another_seed_gives_other_bits_and_the_same_seed_the_same(tmp_path: Path) -> None:
    first = finish(tmp_path / "a", steps=2)
    assert finish(tmp_path / "b", steps=2).meta_params_sha256 == first.meta_params_sha256
    assert finish(tmp_path / "c", steps=2, seed=1).meta_params_sha256 != first.meta_params_sha256


@pytest.mark.slow
def test_a_run_can_be_made_longer(tmp_path: Path, whole: Result) -> None:
    finish(tmp_path / "short", steps=4)
    longer = finish(tmp_path / "short", steps=6, resume=True)
    assert longer.meta_params_sha256 == whole.meta_params_sha256


def test_only_the_last_and_the_best_checkpoints_are_kept(tmp_path: Path) -> None:
    finish(tmp_path, steps=8, checkpoint__keep=1, eval__every=4, checkpoint__every=1)
    best = read_metrics(tmp_path)[-1]["best_step"]
    kept = set(kept_in(tmp_path))
    assert kept == {8, best}


def test_an_ensemble_averages_the_best_validated_models(tmp_path: Path) -> None:
    result = finish(
        tmp_path, steps=6, eval__every=1, eval__checkpoint="ensemble", eval__ensemble_size=3,
        checkpoint__keep=1,
    )  # fmt: skip
    values = {r["step"]: r["mse"] for r in read_metrics(tmp_path) if r["event"] == "val"}
    best = sorted(values, key=values.__getitem__)[:3]
    assert (result.test.model, result.test.num_models) == ("ensemble", 3)
    assert result.test.step == best[0]
    kept = set(kept_in(tmp_path))
    assert kept == {*best, 6}
    again = dmeta.evaluate(tmp_path, checkpoint="ensemble", num_tasks=6)
    assert again == result.test
    members = [dmeta.evaluate(tmp_path, checkpoint=step, num_tasks=6).value for step in best]
    # The squared error of a mean is at most the mean of the squared errors.
    assert result.test.value <= sum(members) / 3
    assert result.test.value not in members


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "add resume=true"),
        ({"resume": True, "algorithm__inner_lr": 0.5}, r"different: algorithm.inner_lr"),
        ({"resume": True, "steps": 4}, "steps must be >= 6"),
    ],
)
def test_a_run_dir_of_another_run_is_refused(
    tmp_path: Path, whole: Result, changes: dict[str, object], words: str
) -> None:
    shutil.copytree(whole.run_dir, tmp_path / "run")
    with pytest.raises(ValueError, match=words):
        finish(tmp_path / "run", **changes)


def test_resuming_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="resume=true must have a run"):
        finish(tmp_path / "none", resume=True)


def test_the_joint_baseline_is_trained_beside(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, joint_baseline=True)
    run = prepare(config)
    result = run_session(Session(run, tmp_path, local), prepare(joint_config(config)))
    assert result.joint_baseline is not None
    assert result.joint_baseline != result.test
    assert (tmp_path / "joint_baseline" / "checkpoints").is_dir()


def test_the_joint_baseline_takes_over_a_rate_but_not_the_factor_of_an_lstm(
    tmp_path: Path,
) -> None:
    for algorithm, rate in (("maml", {"inner_lr": 0.02}), ("learned_optimizer", {})):
        changes = {"algorithm": algorithm, "algorithm__inner_lr": 0.02}
        joint = joint_config(tiny_config(tmp_path, **changes)).algorithm
        assert joint.options == {"eval_inner_steps": 10, "inner_steps": 0} | rate


def test_initial_weights_that_are_not_learned_are_in_every_checkpoint_unchanged(
    tmp_path: Path,
) -> None:
    run = prepare(tiny_config(tmp_path, algorithm="learned_optimizer"))
    run_session(Session(run, tmp_path, local))
    trained = learner_of(run, last_of(tmp_path)).meta_params
    for name, p in run.algorithm.init_meta_params().items():
        assert torch.equal(trained[name], p) is (name in run.algorithm.network.names)


class _Poisoned:
    """A worker factory whose gradients of some steps are NaN."""

    def __init__(self, run: Run, steps: set[int]) -> None:
        self.run, self.steps = run, steps

    def build(self, device: str) -> TaskWork:
        work, steps = self.run.work.build(device), self.steps
        plain = work.gradient

        def gradient(vector: Vector, block: Block) -> GradientResult:
            result = plain(vector, block)
            if block.step not in steps:
                return result
            bad = np.full_like(result.gradient, np.nan)
            return GradientResult(bad, dataclasses.replace(result.report, finite=False))

        work.gradient = gradient  # type: ignore[method-assign]
        return work


def test_a_gradient_that_is_not_finite_is_never_applied(tmp_path: Path) -> None:
    run = prepare(tiny_config(tmp_path))
    poisoned = _Poisoned(run, {1, 4})

    def open_poisoned(run: Run) -> Runtime:
        return LocalRuntime(poisoned, run.outer, "cpu", 1)

    result = run_session(Session(run, tmp_path, open_poisoned))
    assert result.summary["training"]["rejected_steps"] == 2
    assert np.isfinite(result.test.value)


def test_too_many_in_a_row_end_the_run_and_keep_the_last_good_checkpoint(tmp_path: Path) -> None:
    run = prepare(tiny_config(tmp_path, max_rejected=2, eval__every=0))
    poisoned = _Poisoned(run, {2, 3, 4, 5})

    def open_poisoned(run: Run) -> Runtime:
        return LocalRuntime(poisoned, run.outer, "cpu", 1)

    with pytest.raises(TrainingStopped, match=r"step-00000002.*inner_lr"):
        run_session(Session(run, tmp_path, open_poisoned))
    assert kept_in(tmp_path) == [2]


@pytest.mark.slow
def test_a_damaged_last_checkpoint_is_told_of_and_the_one_before_gives_the_same_bits(
    tmp_path: Path, whole: Result
) -> None:
    finish(tmp_path / "run", steps=4, checkpoint__every=1)
    (tmp_path / "run" / "checkpoints" / "step-00000004" / "state.safetensors").write_bytes(b"")

    class Told(Interrupt):
        def on_phase(self, what: str) -> None:
            told.append(what)

    told: list[str] = []
    run = prepare(tiny_config(tmp_path / "run", resume=True))
    result = run_session(Session(run, tmp_path / "run", local, [Told(-1)]))
    assert result.meta_params_sha256 == whole.meta_params_sha256
    assert [what for what in told if "step-00000004" in what and "truncated" in what]


@pytest.fixture(scope="module")
def beside_joint(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A run and its joint baseline, which nothing disturbed."""
    return finish(tmp_path_factory.mktemp("beside_joint"), joint_baseline=True)


@pytest.mark.slow
@pytest.mark.parametrize("begin", ["", "file://", "memory://"])
def test_checkpoints_elsewhere_are_enough_to_go_on_with(
    tmp_path: Path, beside_joint: Result, begin: str
) -> None:
    location = f"{begin}{tmp_path}/elsewhere"
    elsewhere = {"checkpoint__location": location, "joint_baseline": True}
    whole = beside_joint
    first = finish(tmp_path / "first", steps=3, **elsewhere)
    assert steps_in(open_checkpoints(tmp_path, location))[-1] == 3
    assert not (tmp_path / "first" / "checkpoints").exists()
    with pytest.raises(ValueError, match=r"checkpoint\.location must be new"):
        finish(tmp_path / "second", **elsewhere)
    with pytest.raises(ValueError, match="checkpoints must belong to this configuration"):
        finish(tmp_path / "second", seed=9, resume="auto", **elsewhere)
    second = finish(tmp_path / "second", resume="auto", **elsewhere)  # the first folder is lost
    assert second.meta_params_sha256 == whole.meta_params_sha256 != first.meta_params_sha256
    assert second.joint_baseline == whole.joint_baseline is not None
    again = dmeta.evaluate(tmp_path / "second", num_tasks=6, trust=True)
    assert again == second.test


def test_a_run_whose_evaluation_fails_keeps_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(self: TaskWork, vector: Vector, block: Block) -> None:
        raise ZeroDivisionError("a task without a query")

    monkeypatch.setattr(TaskWork, "evaluate", failing)
    with pytest.raises(ZeroDivisionError):
        finish(tmp_path, checkpoint__every=0, eval__every=4)
    assert kept_in(tmp_path) == [4]


@pytest.mark.slow
def test_a_run_that_fails_keeps_the_steps_since_the_last_checkpoint(
    tmp_path: Path, whole: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradient = TaskWork.gradient

    def failing(self: TaskWork, vector: Vector, block: Block) -> GradientResult:
        if block.step == 4:
            raise ZeroDivisionError("a task that cannot be computed")
        return gradient(self, vector, block)

    with monkeypatch.context() as patch:
        patch.setattr(TaskWork, "gradient", failing)
        with pytest.raises(ZeroDivisionError):
            finish(tmp_path / "run", checkpoint__every=0, eval__every=0)
    assert kept_in(tmp_path / "run") == [4]
    again = finish(tmp_path / "run", resume=True, checkpoint__every=0, eval__every=0)
    assert again.meta_params_sha256 == whole.meta_params_sha256


def test_whoever_waits_for_validations_finds_their_checkpoints(tmp_path: Path) -> None:
    """And changes nothing: neither the parameters, nor the lines of metrics but for the clock."""
    seen: list[tuple[int, list[int], int]] = []

    def on_validated(evaluation: Evaluation) -> None:
        assert evaluation.value == pytest.approx(float(evaluation.scores.mean()), rel=1e-6)
        seen.append((evaluation.step, kept_in(tmp_path / "waited"), len(evaluation.scores)))

    plain = finish(tmp_path / "plain", eval__every=2, checkpoint__every=0)
    run_dir = tmp_path / "waited"
    run = prepare(tiny_config(run_dir, eval__every=2, checkpoint__every=0))
    with only_one_in(run_dir):
        start = starting_point(run.config, run_dir)
        session = Session(run, run_dir, local)
        with open_run(session, start) as runtime:
            train_steps(session, start, runtime, on_validated)
            assert runtime.digest() == plain.meta_params_sha256
    assert [step for step, _, _ in seen] == [2, 4, 6]
    assert all(step in kept for step, kept, _ in seen)
    assert {size for _, _, size in seen} == {run.config.eval.val_tasks}
    clock = ("seconds", "tasks_per_second")
    rows = [
        [{k: v for k, v in row.items() if k not in clock} for row in read_metrics(tmp_path / name)]
        for name in ("plain", "waited")
    ]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_a_run_may_begin_with_the_state_of_another(tmp_path: Path) -> None:
    """Its step, parameters and optimiser; its own settings from there on."""
    finish(tmp_path / "parent", steps=4)
    parent = last_of(tmp_path / "parent")

    def digest(name: str, first: Checkpoint | None, **changes: object) -> str:
        run = prepare(tiny_config(tmp_path / name, steps=8, **changes))
        with only_one_in(tmp_path / name):
            start = starting_point(run.config, tmp_path / name, first)
            session = Session(run, tmp_path / name, local)
            with open_run(session, start) as runtime:
                progress = train_steps(session, start, runtime)
                assert progress.step == 8
                return runtime.digest()

    assert digest("child", parent) == digest("whole", None)
    assert digest("other", parent, outer__lr=0.1) != digest("again", parent)
    rows = read_metrics(tmp_path / "child")
    assert min(row["step"] for row in rows) > 4
    assert last_of(tmp_path / "other").progress["fingerprint"] != parent.progress["fingerprint"]


class Lost(nn.Module):
    """Predicts NaN at evaluation, as a learner that diverged does."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(28 * 28, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.flatten(1))
        return out if self.training else out * torch.nan


def test_a_run_whose_predictions_are_not_finite_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny_config(tmp_path, task="glyphs", task__ways=2, task__num_classes=30)
    result = run_session(Session(prepare(config, model=Lost()), tmp_path, local))
    assert (result.test.value, result.test.num_non_finite) == (0.0, 6)
    assert json.loads((tmp_path / "results.json").read_text())["test"]["num_non_finite"] == 6
    rows = read_metrics(tmp_path)
    assert [row["num_non_finite"] for row in rows if row["event"] == "val"] == [4, 4]
    line = "predictions were NaN or infinite in 6 of 6 test tasks"
    assert line in caplog.text
    assert line in (tmp_path / "log.jsonl").read_text()


def test_a_run_on_a_file_that_has_moved_is_resumed_and_on_another_one_is_not(
    tmp_path: Path,
) -> None:
    def settings(file: Path, **changes: object) -> RunConfig:
        return tiny_config(
            tmp_path / "run", task="features", task__queries=3, task__file=str(file), **changes
        )

    def session(config: RunConfig) -> Result:
        return run_session(Session(prepare(config), tmp_path / "run", local))

    file = write_tiny_features(tmp_path / "here.npz")
    session(settings(file, steps=2))
    moved = file.rename(tmp_path / "there.npz")
    result = session(settings(moved, steps=4, resume=True))
    assert result.summary["training"]["steps"] == 4
    assert result.summary["settings"]["task"]["file"] == str(moved)
    np.savez(moved, **tiny_features(seed=1))
    with pytest.raises(ValueError, match=r"different: .*task\.sha256\); give the same settings"):
        session(settings(moved, steps=6, resume=True))
