"""A numpy worker and server whose bits depend on every block and on the order of addition."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from dmeta.runtime.protocol import ApplyReport, Block, BlockReport, GradientResult

Fault = Literal["none", "kill", "kill_always", "raise", "not_finite"]


def digest_of(vector):
    return hashlib.sha256(vector.tobytes()).hexdigest()


FAULTY_INDEX = 2
"""The block of a step at which a worker misbehaves."""


@dataclass
class ToyWorkerFactory:
    """Adds noise drawn from the block's seed to the vector; misbehaves at the steps of `faults`."""

    table: np.ndarray = field(default_factory=lambda: np.arange(1000, dtype=np.float32))
    faults: dict[int, Fault] = field(default_factory=dict)
    marker: str = ""  # file that remembers that a worker was killed

    def build(self, device):
        import torch

        return ToyWorker(self, device, torch.get_num_threads())


class ToyWorker:
    def __init__(self, factory, device, threads):
        self.factory, self.device, self.threads = factory, device, threads

    def gradient(self, vector, block):
        started = time.perf_counter()
        seen = digest_of(vector)
        gradient = np.zeros_like(vector)
        for slot in range(block.first_slot, block.first_slot + block.num_slots):
            draw = np.random.default_rng([block.step, slot])
            gradient += np.sin(vector) * self.factory.table[slot % 1000]
            gradient += draw.standard_normal(len(vector), dtype=np.float32)
        finite = not self._misbehave(block)
        assert seen == digest_of(vector)
        sums = {"loss": float(gradient[0]), "threads": float(self.threads)}
        return GradientResult(
            gradient, BlockReport(block, sums, finite, time.perf_counter() - started)
        )

    def evaluate(self, vector, block):
        slots = np.arange(block.first_slot, block.first_slot + block.num_slots)
        values = (vector[0] * slots).astype(np.float32)
        per_task = {"loss": values}
        writable = {"writable": float(vector.flags.writeable)}
        writable["table_writable"] = float(self.factory.table.flags.writeable)
        writable["digest"] = float(int(digest_of(vector)[:8], 16))
        return BlockReport(block, writable, True, 0.0, per_task)

    def _misbehave(self, block: Block) -> bool:
        """Whether the block's result is to be called not finite."""
        if block.index != FAULTY_INDEX:
            return False
        fault = self.factory.faults.get(block.step, "none")
        if fault == "raise":
            raise ZeroDivisionError("a task with no classes")
        if fault == "kill_always":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "kill" and not Path(self.factory.marker).exists():
            Path(self.factory.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return fault == "not_finite"


@dataclass
class BrokenWorkerFactory:
    def build(self, device):
        raise LookupError("no such data set")


@dataclass
class ToyServerFactory:
    size: int = 50_000  # 200 kB: above what Ray sends inside a message

    def build(self):
        return ToyServer(self.size)


class ToyServer:
    def __init__(self, size):
        self.theta = np.linspace(-1, 1, size, dtype=np.float32)
        self.next_step = 0

    def vector(self):
        return self.theta.copy()

    def apply(self, step, gradients, num_tasks):
        if step < self.next_step:
            return ApplyReport(step, True, 0.0, 0.1)
        self.next_step = step + 1
        if not gradients:
            return ApplyReport(step, False, float("nan"), 0.1)
        total = np.zeros_like(self.theta)
        for gradient in gradients:
            total += gradient
        total /= np.float32(num_tasks)
        self.theta -= np.float32(0.1) * total
        return ApplyReport(step, True, float(np.linalg.norm(total)), 0.1)

    def save(self, directory, progress):
        path = Path(directory) / "toy.npz"
        np.savez(path, theta=self.theta, next_step=self.next_step)
        (Path(directory) / "progress.json").write_text(json.dumps(dict(progress)))
        return str(path)

    def restore(self, checkpoint):
        with np.load(checkpoint) as saved:
            self.theta, self.next_step = saved["theta"], int(saved["next_step"])

    def digest(self):
        return digest_of(self.theta)
