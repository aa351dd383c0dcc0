"""What a run leaves open is chosen where it computes, and nowhere else."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

import dmeta
from dmeta.cli.settings.hydra_app import compose
from dmeta.cli.train import train_command
from dmeta.quoting import as_override
from dmeta.runtime.messages import ALONE, Seat
from dmeta.training.autotune import planning
from dmeta.training.autotune.selection import Selection, with_selection
from dmeta.training.devices.gpu_memory import GpuMemoryError
from dmeta.training.setup import prepare
from tests.conftest import TINY, tiny_config


class Elsewhere:
    """A workplace whose worker is this process, reached by messages alone."""

    def __init__(self, seat: Seat = ALONE) -> None:
        self.seat = seat
        self.answers: list[Any] = []

    def call(self, compute: Callable[[Seat], Any]) -> Any:
        compute = pickle.loads(pickle.dumps(compute))
        answer = pickle.dumps(compute(self.seat))
        assert len(answer) < 5000  # what was chosen, and not the run
        self.answers.append(pickle.loads(answer))
        return self.answers[-1]


@pytest.mark.slow
def test_plan_and_chunk_are_chosen_by_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "eager_seconds", lambda _, plan, *__: {"loop": 1.0}.get(plan, 9))
    place, run = Elsewhere(), prepare(tiny_config("run", compute__plan="measure"))
    done = with_selection(run, None, place)
    assert isinstance(place.answers[0], Selection)
    assert (done.config.compute.plan, done.work.plan, done.config.compute.chunk_size) == (
        "loop",
        "loop",
        2,
    )
    assert done.plan is not None
    assert done.plan.seconds == {"vmap": 9, "loop": 1.0}
    assert done.work.source is run.work.source


def test_memory_is_measured_and_divided_by_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"compute__block_size": 5, "meta_batch_size": 5}
    monkeypatch.setattr(planning, "eager_seconds", lambda *_: 1.0)
    run = prepare(tiny_config("run", compute__plan="measure", **sizes))
    peak = planning.block_peak("vmap", run.work.estimator, planning.first_block_inputs(run))
    monkeypatch.setattr(planning, "available_memory_bytes", lambda: 8 * peak)
    at_once = {
        n: with_selection(run, None, Elsewhere(Seat(9, n))).work.chunk_size for n in (1, 4, 40)
    }
    assert at_once[1] == at_once[4] == 5
    assert at_once[40] == 1
    budget = prepare(tiny_config("run", gradient__memory_budget="1GB", compute__plan="loop"))
    place = Elsewhere()
    memory = with_selection(budget, None, place).memory
    assert memory is not None
    assert memory.measured > 0
    assert len(place.answers) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "begun", "asked"),
    [
        ({"compute__plan": "loop"}, None, 1),  # an evaluation is tried
        ({"compute__plan": "vmap", "compute__chunk_size": "2"}, None, 1),  # is compared
        ({"compute__plan": "vmap"}, None, 1),
        ({"compute__plan": "loop"}, {"compute": {"plan": "loop", "chunk_size": 2}}, 0),
        ({"compute__plan": "auto"}, {"compute": {"plan": "vmap", "chunk_size": 2}}, 0),
        ({"compute__plan": "auto"}, {"compute": {"plan": "compiled", "chunk_size": 2}}, 1),
    ],
)
def test_a_worker_is_asked_only_if_something_is_open(
    changes: Mapping[str, str],
    begun: Mapping[str, Any] | None,
    asked: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(planning, "CompiledBlocks", lambda *_: lambda *_: None)
    place = Elsewhere()
    run = with_selection(prepare(tiny_config("run", **changes)), begun, place)
    assert len(place.answers) == asked
    assert run.config.compute.chunk_size == 2
    if begun is not None:
        assert run.config.compute.plan == begun["compute"]["plan"]


def test_a_gpu_without_room_for_one_task_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(planning, "eager_seconds", full)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (1, 8))
    for name in ("max_memory_allocated", "max_memory_reserved"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: 5)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda *_: 1.0)
    with pytest.raises(GpuMemoryError, match=r"with 1 task at once.*gradient=checkpointed"):
        with_selection(prepare(tiny_config("run", compute__plan="measure")), None, Elsewhere())


@pytest.fixture
def forbidden_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch finds a GPU in this process, and whatever would begin to use it fails."""

    def begun(*_: object) -> None:
        raise AssertionError("CUDA is initialised")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for name in ("_lazy_init", "current_device", "get_device_name", "mem_get_info"):
        monkeypatch.setattr(torch.cuda, name, begun)


@pytest.mark.slow
@pytest.mark.usefixtures("forbidden_gpu")
def test_a_run_on_the_cpu_leaves_the_gpu_alone(tmp_path: Any) -> None:
    asked = {"device": "cpu", "compute.plan": "measure", "gradient.memory_budget": "1GB"}
    result = dmeta.train(TINY | asked | {"run_dir": str(tmp_path / "run")})
    assert result.summary["plan"]["seconds"]
    dmeta.evaluate(tmp_path / "run", num_tasks=2, device="cpu")


@pytest.mark.slow
def test_on_the_command_line_a_run_on_the_cpu_sees_no_gpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    for device, expected in (("auto", "0,1"), ("cpu", "")):
        asked = {"device": device, "run_dir": str(tmp_path / device), "steps": 1, "eval.every": 0}
        overrides = [as_override(key, value) for key, value in (TINY | asked).items()]
        train_command(compose("train", overrides), overrides)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == expected
