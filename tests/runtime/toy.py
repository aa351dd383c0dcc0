"""A numpy worker and server whose bits depend on every block and on the order of addition.

Without torch, whose import would be most of what their processes do.
"""

from __future__ import annotations

import hashlib
import math
import os
import signal
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from dmeta.runtime.messages import (
    ApplyReport,
    Block,
    BlockReport,
    GradientResult,
    ServerState,
)
from dmeta.runtime.reduction import total_of

Fault = Literal["kill", "stop", "slow", "raise", "not_finite", "kill_before", "kill_after"]
"""What a process does: SIGKILL or SIGSTOP to itself, sleep, raise; a server is killed before or
after it has taken a step."""

SLOW_S = 8.0


def digest_of(vector):
    return hashlib.sha256(vector.tobytes()).hexdigest()


def arm(folder: Path, where: str, *faults: Fault) -> None:
    """Let the attempts at `where` go wrong in turn.

    It is ``<step>-<block>``, ``val-<block>`` or ``server-<step>``.
    """
    for attempt, fault in enumerate(faults):
        (folder / f"{where}-{attempt}").write_text(fault)


def disarm(folder: Path) -> None:
    """Nothing goes wrong any more."""
    for path in folder.iterdir():
        path.unlink(missing_ok=True)


def next_fault(folder: str, where: str) -> Fault | None:
    """The fault of this attempt, which is used up, in whichever process it is asked for."""
    if not folder:
        return None
    for path in sorted(Path(folder).glob(f"{where}-*")):
        fault = path.read_text()
        try:
            path.unlink()
        except FileNotFoundError:  # another process was faster
            continue
        return fault
    return None


@dataclass
class ToyWorkerFactory:
    """Adds noise drawn from the block's seed to the vector; misbehaves as `arm` says."""

    table: np.ndarray = field(default_factory=lambda: np.arange(1000, dtype=np.float32))
    folder: str = ""

    def build(self, device):
        return ToyWorker(self, device)


class ToyWorker:
    def __init__(self, factory, device):
        self.factory, self.device = factory, device

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
        sums = {"loss": float(gradient[0])}
        sums["gpu"] = float(os.environ.get("CUDA_VISIBLE_DEVICES") or -1)
        return GradientResult(
            gradient, BlockReport(block, sums, finite, time.perf_counter() - started)
        )

    def evaluate(self, vector, block):
        if next_fault(self.factory.folder, f"{block.phase}-{block.index}") == "raise":
            raise ZeroDivisionError("a task with no queries")
        slots = np.arange(block.first_slot, block.first_slot + block.num_slots)
        values = (vector[0] * slots).astype(np.float32)
        per_task = {"loss": values}
        writable = {"writable": float(vector.flags.writeable)}
        writable["table_writable"] = float(self.factory.table.flags.writeable)
        writable["digest"] = float(int(digest_of(vector)[:8], 16))
        return BlockReport(block, writable, True, 0.0, per_task)

    def _misbehave(self, block: Block) -> bool:
        """Whether the block's result is to be called not finite."""
        fault = next_fault(self.factory.folder, f"{block.step}-{block.index}")
        if fault == "raise":
            raise ZeroDivisionError("a task with no classes")
        if fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        if fault == "slow":
            time.sleep(SLOW_S)
        return fault == "not_finite"


@dataclass
class BrokenWorkerFactory:
    def build(self, device):
        raise LookupError("no such data set")


@dataclass
class ToyServerFactory:
    size: int = 50_000  # 200 kB: above what Ray sends inside a message
    folder: str = ""
    first: int = 0
    end: int | None = None

    def build(self):
        theta = np.linspace(-1, 1, self.size, dtype=np.float32)[self.first : self.end]
        return ToyServer(theta, self.folder if self.end in (None, self.size) else "")

    def parts(self, num):
        cuts = self._cuts(num)
        return [replace(self, first=first, end=end) for first, end in pairwise(cuts)]

    def joined(self, parts):
        theta = np.concatenate([part.arrays["theta"] for part in parts])
        return ServerState(parts[0].step, {"theta": theta})

    def divided(self, state, num):
        theta = state.arrays["theta"]
        if len(theta) != self.size:
            raise ValueError(f"a state must have {self.size} numbers, got {len(theta)}; use ours")
        cuts = self._cuts(num)
        return [ServerState(state.step, {"theta": theta[a:b]}) for a, b in pairwise(cuts)]

    def digest(self, pieces):
        return digest_of(np.concatenate(pieces))

    def _cuts(self, num):
        """Pieces of different lengths."""
        return [self.size * i * (i + 1) // (num * (num + 1)) for i in range(num + 1)]


class ToyServer:
    """The one of the last part misbehaves as `arm` says."""

    def __init__(self, theta, folder):
        self.theta = theta.copy()
        self.next_step = 0
        self.folder = folder
        self.mean = None

    def vector(self):
        return self.theta.copy()

    def gather(self, gradients, num_tasks):
        self.mean = None
        if not gradients:
            return np.empty(0)
        self.mean = total_of(gradients)
        self.mean /= np.float32(num_tasks)
        return np.square(self.mean, dtype=np.float64)

    def commit(self, step, sums):
        if step < self.next_step:
            return ApplyReport(step, True, 0.0, 0.1)
        fault = next_fault(self.folder, f"server-{step}")
        if fault == "kill_before":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "stop":
            os.kill(os.getpid(), signal.SIGSTOP)
        self.next_step = step + 1
        if self.mean is None:
            return ApplyReport(step, False, float("nan"), 0.1)
        self.theta -= np.float32(0.1) * self.mean
        if fault == "kill_after":
            os.kill(os.getpid(), signal.SIGKILL)
        return ApplyReport(step, True, math.sqrt(math.fsum(np.concatenate(sums))), 0.1)

    def state(self):
        return ServerState(self.next_step, {"theta": self.theta.copy()})

    def load(self, state):
        self.theta, self.next_step = state.arrays["theta"].copy(), state.step
