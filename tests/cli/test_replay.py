"""A rejected step says how to look at it, and the replay finds the task to blame."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import dmeta
from dmeta.cli.main import main
from dmeta.runs.metrics import read_metrics

SETTINGS = [
    "task=sinusoid", "runtime=local", "compute.plan=vmap", "compute.block_size=3", "eval.every=0",
    "meta_batch_size=6", "steps=6", "checkpoint.every=2", "eval.num_tasks=4", "checkpoint.keep=9",
]  # fmt: skip


class RareNaN:
    """The squared error, but NaN for tasks whose first target is large."""

    def __call__(self, prediction, target):
        error = (prediction - target).square().mean()
        return torch.where(target.flatten()[0].abs() > 4.4, torch.nan, error)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch, (run_dir.parent / "log").open("w") as log:
        handler = logging.StreamHandler(log)
        patch.setattr(logging.getLogger("dmeta"), "handlers", [handler])
        dmeta.train([*SETTINGS, f"run_dir={run_dir}"], loss=RareNaN())
    return run_dir


@pytest.mark.slow
def test_a_rejected_step_is_written_with_what_is_needed_to_compute_it_again(run_dir):
    rows = [row for row in read_metrics(run_dir) if row["event"] == "rejected"]
    results = json.loads((run_dir / "results.json").read_text())
    assert len(rows) == results["training"]["rejected_steps"] > 0
    block = rows[0]["blocks"][0]
    assert rows[0]["reason"] == "a number that is not finite"
    assert block["sums"]["loss"] == "nan"
    assert block["task_seeds"][0] == [0, 0, rows[0]["step"] - 1, block["first_slot"]]
    line = f"dmeta replay run_dir={run_dir} step={block['step']} block={block['index']}"
    assert line in (run_dir.parent / "log").read_text()


def test_a_replay_finds_the_task_to_blame_and_has_the_numbers_of_the_run(run_dir):
    rows = [row for row in read_metrics(run_dir) if row["event"] == "rejected"]
    recorded = rows[-1]["blocks"][0]
    [[whole, *tasks]] = dmeta.replay(run_dir, recorded["step"], recorded["index"], loss=RareNaN())
    assert not whole.finite
    assert whole.task_seeds == recorded["task_seeds"]
    bad = [task for task in tasks if not task.finite]
    assert 0 < len(bad) <= len(tasks) == recorded["num_slots"]
    folder = run_dir / "replay" / f"step-{recorded['step']}"
    with np.load(folder / f"block-{recorded['index']}.npz") as arrays:
        large = np.abs(arrays["support_y"][:, 0, 0]) > 4.4
        large |= np.abs(arrays["query_y"][:, 0, 0]) > 4.4
        assert [not task.finite for task in tasks] == large.tolist()
        assert arrays["gradient"].shape == arrays["meta_params"].shape


@pytest.mark.slow
def test_a_replay_computes_what_the_run_computed(tmp_path):
    """The mean of the replayed blocks' gradients has the norm that the run wrote, at every step."""
    dmeta.train([*SETTINGS, "log_every=1", f"run_dir={tmp_path / 'run'}"])
    rows = {row["step"]: row for row in read_metrics(tmp_path / "run") if row["event"] == "train"}
    for step in (0, 3, 5):
        dmeta.replay(tmp_path / "run", step, out=tmp_path / str(step))
        gradients = []
        for path in sorted((tmp_path / str(step)).glob("*.npz")):
            with np.load(path) as arrays:
                gradients.append(arrays["gradient"])
        assert len(gradients) == 2
        norm = float(torch.from_numpy(sum(gradients) / np.float32(6)).norm())
        assert norm == pytest.approx(rows[step + 1]["gradient_norm"], rel=1e-6)


@pytest.mark.slow
def test_the_verb_prints_a_row_for_every_task(tmp_path, capsys):
    dmeta.train([*SETTINGS, f"run_dir={tmp_path / 'run'}"])
    main(["replay", f"run_dir={tmp_path / 'run'}", "step=3", "block=1"])
    out = capsys.readouterr().out
    assert "step 3, block 1" in out
    assert "[0, 0, 3, 5]" in out
    assert "block-1" in {path.stem for path in (tmp_path / "run/replay/step-3").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["step=6"], "step must be < 6"),
        (["step=-1"], "step must be >= 0"),
        (["step=0", "block=2"], "block must be < 2"),
        ([], "step must be given"),
        (["step=0", "blocks=1"], "did you mean 'block'?"),
    ],
)
def test_what_the_run_does_not_have_is_refused(run_dir, arguments, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["replay", f"run_dir={run_dir}", *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_a_run_that_is_not_there_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["replay", f"run_dir={tmp_path / 'nothing'}", "step=0"])
    assert stop.value.code == 2
    assert "run_dir must hold a run" in capsys.readouterr().err
    assert list(Path(tmp_path).iterdir()) == []


@pytest.mark.slow
def test_an_asynchronous_run_is_not_replayed(tmp_path):
    dmeta.train([*SETTINGS, "runtime.mode=async", f"run_dir={tmp_path / 'run'}"])
    with pytest.raises(ValueError, match=r"runtime\.mode=sync, got async"):
        dmeta.replay(tmp_path / "run", 1)
