"""A worker that thinks that torch and a GPU of 10 GB are there, and tells what torch was told."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from types import SimpleNamespace

from dmeta.runtime.messages import GradientResult
from tests.runtime import toy

TOTAL = 10_000_000_000

told: list[float] = []

if "torch" not in sys.modules:  # a worker's process, not that of the tests
    properties = SimpleNamespace(name="A GPU", major=9, minor=0, multi_processor_count=132)
    cuda = SimpleNamespace(
        is_available=lambda: True,
        mem_get_info=lambda: (TOTAL, TOTAL),
        set_per_process_memory_fraction=told.append,
        get_device_properties=lambda _: properties,
    )
    sys.modules["torch"] = SimpleNamespace(  # type: ignore[assignment]
        cuda=cuda,
        set_num_threads=lambda _: None,
        version=SimpleNamespace(cuda="12.8"),
        backends=SimpleNamespace(cudnn=SimpleNamespace(version=lambda: 91002)),
        __version__="2.13",
    )


@dataclass
class GpuWorkerFactory(toy.ToyWorkerFactory):
    def build(self, device):
        return GpuWorker(self, device)


class GpuWorker(toy.ToyWorker):
    def gradient(self, vector, block):
        gradient, report = super().gradient(vector, block)
        report.sums["fraction"] = sum(told) if told else 1.0
        return GradientResult(gradient, report)
