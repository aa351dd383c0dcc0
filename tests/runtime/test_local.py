from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from dmeta.runtime import ComputeOptions, RuntimeOptions, make_runtime
from dmeta.runtime.blocks import blocks_of
from tests.runtime import toy
from tests.runtime.toy_torch import TorchWorkerFactory

CONFIGS = Path(__file__).parents[2] / "configs" / "runtime"


def local(worker_factory=None, *, threads=1):
    return make_runtime(
        RuntimeOptions(name="local"),
        worker_factory or toy.ToyWorkerFactory(),
        toy.ToyServerFactory(100),
        "cpu",
        4,
        compute=ComputeOptions(threads_per_worker=threads),
    )


def blocks(step=0):
    return blocks_of("train", step, 7, 2)


def test_the_callers_thread_count_comes_back(tmp_path):
    toy.arm(tmp_path, "0-2", "raise")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with local(TorchWorkerFactory(), threads=2) as runtime:
            report = runtime.step(0, blocks())
        assert report.blocks[0].sums["threads"] == 2
        assert torch.get_num_threads() == 3
        with pytest.raises(ZeroDivisionError):
            local(toy.ToyWorkerFactory(folder=str(tmp_path))).step(0, blocks())
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_an_exception_of_the_work_names_its_block(tmp_path):
    toy.arm(tmp_path, "1-2", "raise")
    with local(toy.ToyWorkerFactory(folder=str(tmp_path))) as runtime:
        runtime.step(0, blocks())
        with pytest.raises(ZeroDivisionError, match="no classes") as caught:
            runtime.step(1, blocks(1))
    assert "step=1, index=2" in caught.value.__notes__[0]


def test_a_worker_cannot_write_to_the_vector():
    with local() as runtime:
        assert runtime.evaluate(blocks_of("val", 0, 1, 1))[0].sums["writable"] == 0


def test_gradients_that_share_one_buffer_are_kept_apart():
    @dataclasses.dataclass
    class Sharing(toy.ToyWorkerFactory):
        def build(self, device):
            worker = toy.ToyWorkerFactory.build(self, device)
            buffer = np.empty(100, np.float32)
            fresh = worker.gradient

            def gradient(vector, block):
                result = fresh(vector, block)
                buffer[:] = result.gradient
                return result._replace(gradient=buffer)

            worker.gradient = gradient
            return worker

    with local() as expected, local(Sharing()) as runtime:
        expected.step(0, blocks())
        runtime.step(0, blocks())
        assert runtime.digest() == expected.digest()


def test_a_step_with_a_number_that_is_not_finite_is_rejected_and_the_next_one_is_not(tmp_path):
    toy.arm(tmp_path, "0-2", "not_finite")
    with local(toy.ToyWorkerFactory(folder=str(tmp_path))) as runtime:
        before = runtime.digest()
        assert not runtime.step(0, blocks()).applied.applied
        assert runtime.digest() == before
        assert runtime.step(1, blocks(1)).applied.applied
        assert runtime.digest() != before


def test_a_closed_runtime_says_so():
    runtime = local()
    runtime.close()
    runtime.close()
    with pytest.raises(RuntimeError, match="must be open"):
        runtime.step(0, blocks())


def test_cuda_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="set device=cpu"):
        make_runtime(RuntimeOptions(), toy.ToyWorkerFactory(), toy.ToyServerFactory(), "cuda", 1)


@pytest.mark.slow
def test_a_local_run_never_imports_ray():
    code = """
import sys
sys.modules["ray"] = None  # any import of it fails
from tests.runtime import toy
from dmeta.runtime import ComputeOptions, RuntimeOptions, make_runtime, protocol
from dmeta.runtime.blocks import blocks_of
runtime = make_runtime(RuntimeOptions(), toy.ToyWorkerFactory(), toy.ToyServerFactory(9), "cpu", 1)
runtime.step(0, blocks_of("train", 0, 2, 1))
"""
    subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=600
    )
