"""What a share of a GPU allows, and what is said when it is not enough; torch's numbers made up."""

from __future__ import annotations

import pickle

import pytest
import torch

from dmeta.runtime.blocks import blocks_of
from dmeta.training.devices.gpu_memory import GpuMemoryError, free_gpu_bytes
from dmeta.training.setup import prepare
from tests.conftest import tiny_config

GIB = 2**30


def gpu(monkeypatch: pytest.MonkeyPatch, share: float = 1.0, **sizes: float) -> None:
    """A GPU of 80 GiB; `sizes` in GiB."""
    found = {"free": 70.0, "reserved": 6.0, "allocated": 4.0, "peak": 5.0} | sizes
    size = {key: int(value * GIB) for key, value in found.items()}
    answers = {
        "mem_get_info": (size["free"], 80 * GIB),
        "get_per_process_memory_fraction": share,
        "memory_reserved": size["reserved"],
        "max_memory_reserved": size["reserved"],
        "memory_allocated": size["allocated"],
        "max_memory_allocated": size["peak"],
    }
    for name, answer in answers.items():
        monkeypatch.setattr(torch.cuda, name, lambda *_, found=answer: found)


@pytest.mark.parametrize(
    ("share", "sizes", "expected"),
    [
        (1.0, {}, 72),  # what is free, and what torch has reserved and does not use
        (0.25, {}, 16),  # of 20
        (0.25, {"free": 3}, 5),  # others have taken what is this one's share
        (0.05, {}, 2),  # the share is used up
    ],
)
def test_only_its_share_of_a_gpu_is_free_for_a_worker(
    monkeypatch: pytest.MonkeyPatch, share: float, sizes: dict[str, float], expected: int
) -> None:
    gpu(monkeypatch, share, **sizes)
    assert free_gpu_bytes("cuda") == expected * GIB


def fails(monkeypatch: pytest.MonkeyPatch, phase: str, **changes: str) -> str:
    run = prepare(tiny_config("run", **changes))
    work = run.work.build("cpu")

    def out_of_memory(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has")

    monkeypatch.setattr(work, "_params", out_of_memory)
    block = blocks_of(phase, 0, 4, 4)[0]  # type: ignore[arg-type]
    with pytest.raises(GpuMemoryError) as caught:
        (work.gradient if phase == "train" else work.evaluate)(run.outer.initial, block)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    return str(caught.value)


def test_out_of_memory_names_what_was_used_and_what_to_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu(monkeypatch, share=0.25, reserved=19.5, peak=18)
    assert fails(monkeypatch, "train") == (
        "a block must fit the GPU's memory, got out of memory with 4 tasks at once: peak 18.0 GiB "
        "of tensors, reserved 19.5 GiB of the 20.0 GiB that this worker may use of the GPU's "
        "80.0 GiB (runtime.gpus_per_worker), 70.0 GiB free on the GPU; raise "
        "runtime.gpus_per_worker, or begin a run with compute.chunk_size below 4 or "
        "gradient=checkpointed"
    )


def test_a_whole_gpu_that_others_use_too_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu(monkeypatch, reserved=20, free=1)
    said = fails(monkeypatch, "val", compute__plan="loop")
    assert "with 1 task at once" in said
    assert said.endswith(
        "end the other processes on the GPU, or begin a run with gradient=checkpointed"
    )
    gpu(monkeypatch, reserved=78, free=0.5)
    said = fails(monkeypatch, "val", compute__chunk_size="2")
    assert said.endswith(
        "512.0 MiB free on the GPU; begin a run with compute.chunk_size below 2 or "
        "gradient=checkpointed"
    )
