"""The toy work as work that uses torch: it says how many threads that has."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from tests.runtime.toy import ToyWorker, ToyWorkerFactory


@dataclass
class TorchWorkerFactory(ToyWorkerFactory):
    def build(self, device):
        return TorchWorker(self, device)


class TorchWorker(ToyWorker):
    def gradient(self, vector, block):
        result = super().gradient(vector, block)
        result.report.sums["threads"] = float(torch.get_num_threads())
        return result
