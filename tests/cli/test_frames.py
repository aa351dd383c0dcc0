"""How many functions stand between the command `dmeta train` and a step of the runtime."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import pytest

import dmeta
from dmeta.cli.settings.hydra_app import compose
from dmeta.cli.train import train_command
from dmeta.runtime.local import LocalRuntime
from dmeta.runtime.messages import Block, StepReport

PACKAGE = str(Path(dmeta.__file__).parent)
MOST_BETWEEN = 4


def names_up_to(frame: FrameType | None, function: str) -> list[str]:
    """Functions of the package on the stack, innermost first, up to the one of that name."""
    names: list[str] = []
    while frame is not None:
        if frame.f_code.co_filename.startswith(PACKAGE):
            names.append(frame.f_code.co_qualname)
            if names[-1] == function:
                return names
        frame = frame.f_back
    raise AssertionError(f"{function} is not on the stack: {names}")


def test_few_functions_stand_between_the_command_and_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    step_of = LocalRuntime.step

    def step(
        self: LocalRuntime, step: int, blocks: Sequence[Block], upcoming: Sequence[Block] = ()
    ) -> StepReport:
        seen.append(names_up_to(sys._getframe(), "train_command"))
        return step_of(self, step, blocks, upcoming)

    monkeypatch.setattr(LocalRuntime, "step", step)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    words = ["runtime=local", "steps=1", "joint_baseline=false", f"run_dir={tmp_path / 'run'}"]
    words += ["eval.num_tasks=2", "eval.val_tasks=2", "compute.plan=loop"]
    train_command(compose("train", words), words)
    [names] = seen
    between = names[:-1]
    assert len(between) <= MOST_BETWEEN, f"Runtime.step <- {' <- '.join(names)}"
    assert "train_steps" in between
