"""Where a step's time goes: every second of it is of one part."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from dmeta.bench import profile as module
from dmeta.bench.profile import ALL_PARTS, LOOP, OUTER, RUNTIME, ProfileOptions, profile
from dmeta.bench.profile_figure import profile_figure
from dmeta.launch import open_runtime
from dmeta.runtime.messages import (
    ApplyReport,
    Block,
    BlockReport,
    RuntimeInfo,
    ServerState,
    StepReport,
)
from dmeta.runtime.protocol import Runtime
from dmeta.training.setup import Run, prepare
from dmeta.training.work.worker import BLOCK_PARTS
from tests.conftest import tiny_config

OPTIONS = ProfileOptions(steps=3, warmup=2)


def test_the_parts_are_the_whole_step() -> None:
    found = profile(prepare(tiny_config("run")), open_runtime, OPTIONS)
    assert tuple(found.parts) == ALL_PARTS
    assert sum(found.parts.values()) == pytest.approx(found.seconds)
    assert sum(found.share(part) for part in ALL_PARTS) == pytest.approx(1)
    assert all(seconds > 0 for seconds in found.parts.values())
    assert (found.runtime, found.num_workers, found.num_tasks) == ("local", 1, 5)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Told(Runtime):
    """Says what its steps cost: 5 s on the first two, which are not to be counted, then 10 s."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.upcoming: list[int] = []
        self.others: list[str] = []

    @property
    def info(self) -> RuntimeInfo:
        return RuntimeInfo("ray", 2, "cpu", {})

    def step(
        self, step: int, blocks: Sequence[Block], upcoming: Sequence[Block] = ()
    ) -> StepReport:
        self.upcoming.append(len(upcoming))
        self._clock.now += 12.5 if step >= OPTIONS.warmup else 5.0
        seconds = {"draw": 1.0, "move": 0.5, "mathematics": 4.0, "pack": 0.5}
        reports = [
            BlockReport(block, {"loss": 1.0}, True, 6.0, part_seconds=seconds) for block in blocks
        ]
        applied = ApplyReport(step, applied=True, gradient_norm=1.0, lr=0.1, seconds=0.25)
        return StepReport(reports, applied, 0, 0, 12.0 if step >= OPTIONS.warmup else 5.0)

    def evaluate(self, blocks: Sequence[Block]) -> Sequence[BlockReport]:
        raise AssertionError("no part of a step")

    def state(self) -> Callable[[], ServerState]:
        self._clock.now += 1000  # after the last step
        return lambda: ServerState(OPTIONS.warmup + OPTIONS.steps, {})

    def load(self, state: ServerState) -> None:
        raise AssertionError("nothing to load")

    def digest(self) -> str:
        raise AssertionError("of no interest")

    def close(self) -> None:
        self.others.append("closed")

    def __enter__(self) -> Told:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def test_a_step_of_two_workers_is_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    told = Told(clock)
    run = prepare(tiny_config("run", eval__every=1, checkpoint__every=1))

    def open_told(opened: Run) -> Runtime:
        assert opened.config.steps == 5
        return told

    found = profile(run, open_told, OPTIONS)
    assert told.others == ["closed"]
    assert told.upcoming == [3, 3, 3, 3, 0]
    assert found.seconds == 12.5
    assert found.tasks_per_second == 5 / 12.5
    # Three blocks, two workers.
    assert {part: found.parts[part] for part in BLOCK_PARTS} == {
        "draw": 1.5, "move": 0.75, "mathematics": 6.0, "pack": 0.75,
    }  # fmt: skip
    assert found.parts[OUTER] == 0.25
    assert found.parts[RUNTIME] == 12.0 - 9.25
    assert found.parts[LOOP] == 0.5
    assert found.share_around == pytest.approx(1 - 6.0 / 12.5)


def test_the_run_is_trained_as_it_is(tmp_path: Path) -> None:
    run = prepare(tiny_config(tmp_path / "run"))
    profile(run, open_runtime, OPTIONS)
    assert not (tmp_path / "run").exists(), "nothing of it is kept"


def test_the_figure_is_written(tmp_path: Path) -> None:
    found = profile(prepare(tiny_config("run")), open_runtime, ProfileOptions(steps=1, warmup=1))
    path = profile_figure(found, "maml on sinusoid", tmp_path / "new" / "profile.png")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("key", ["steps", "warmup"])
def test_impossible_numbers_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match=f"bench.{key} must be >= 1, got 0"):
        ProfileOptions(**{key: 0})
