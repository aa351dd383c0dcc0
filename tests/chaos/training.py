"""One training, run as a user would (`python -m dmeta train ...`) and watched from outside.

What is known of it is what it prints, its metrics.jsonl and its results.json.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.processes import MARK

_POLL_S = 0.02
_CLEAN_DEADLINE_S = 3600.0
_ROUTINE = re.compile(
    r"$|\s|step \d+/|writing to |going on after|evaluating on|drawing figures|\S+ on \S+ with |"
    r"[┏┃┡│└]|\S+ after 0, 1, |training  |sha256 |wrote |next |"
    r"\[|\(|\d{4}-\d\d-\d\d |ray\.|At least one |Traceback|Exception ignored"
)
"""Lines that say nothing of a fault: the display's; Ray's own, in brackets, dated or indented."""
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True)
class Recipe:
    """What is trained: the settings that decide the bits, and the module that takes them."""

    name: str
    settings: tuple[str, ...]
    module: tuple[str, ...] = ("dmeta", "train")


_COMMON = (
    "seed=0",
    "joint_baseline=false",
    "compute.plan=vmap",
    "eval.every=0",
    "eval.num_tasks=8",
)

SMALL = Recipe("sinusoid", ("task=sinusoid", "compute.block_size=5", *_COMMON))
"""About 50 steps a second; 5 blocks of 5 tasks."""

RARE_NAN = Recipe("sinusoid, 1% NaN", SMALL.settings, ("tests.chaos.rare_nan",))
"""The same, but for a loss that is NaN now and then."""

LARGE = Recipe(
    "sinusoid, 4.2 million parameters",
    (
        "task=sinusoid",
        "model.hidden=2048",
        "algorithm.inner_steps=1",
        "algorithm.eval_inner_steps=1",
        "meta_batch_size=4",
        "compute.block_size=1",
        *_COMMON,
    ),
)
"""A vector, and a gradient of each of 4 blocks, of 17 MB."""


@dataclass(frozen=True)
class Seen:
    """A line of metrics.jsonl, at the moment it was seen."""

    at_s: float
    step: int
    retried_blocks: int
    copied_blocks: int


@dataclass(frozen=True)
class Said:
    """A line that the driver printed."""

    at_s: float
    text: str

    @property
    def is_notice(self) -> bool:
        """Whether it says that something is not as it should be."""
        return _ROUTINE.match(self.text) is None


@dataclass
class Training:
    """A training that can be started, watched, signalled and started again.

    Attributes:
        recipe: what is trained.
        steps: outer steps it is told to take.
        run_dir: where it writes.
        prefix: put in front of the command.
        rows: lines of metrics so far, over all resumes.
        lines: what was printed so far, over all resumes.
        launches_s: when it was started, and started again.
    """

    recipe: Recipe
    steps: int
    run_dir: Path
    prefix: Sequence[str]
    environment: Mapping[str, str]
    rows: list[Seen] = field(default_factory=list)
    lines: list[Said] = field(default_factory=list)
    launches_s: list[float] = field(default_factory=list)
    _process: subprocess.Popen[str] | None = None
    _offset: int = 0
    _over: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> Training:
        watcher = threading.Thread(target=self._watch, daemon=True)
        watcher.start()
        self._threads.append(watcher)
        return self

    def __exit__(self, *_: object) -> None:
        if self.is_running:
            self.signal(signal.SIGKILL)
            self.wait(10)
        self._over.set()
        for thread in self._threads:
            # A process that outlived the driver may hold its output open: it is ended later.
            thread.join(1)

    def start(self, settings: Sequence[str], *, resume: bool = False) -> None:
        """Start the driver; `settings` say where it computes, and decide no bit."""
        self.launches_s.append(time.monotonic())
        words = (
            *self.prefix,
            *(sys.executable, "-m", *self.recipe.module),
            *self.recipe.settings,
            *(f"steps={self.steps}", f"run_dir={self.run_dir}", f"resume={_word(resume)}"),
            *settings,
        )
        self._process = subprocess.Popen(
            words,
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        reader.start()
        self._threads.append(reader)

    @property
    def pid(self) -> int:
        """The driver's process id."""
        assert self._process is not None
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the driver lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def exit_code(self) -> int | None:
        """The driver's; None while it lives."""
        return None if self._process is None else self._process.poll()

    @property
    def num_resumes(self) -> int:
        """How often it was started again."""
        return max(0, len(self.launches_s) - 1)

    @property
    def step(self) -> int:
        """The last step seen; 0 before the first."""
        return self.rows[-1].step if self.rows else 0

    @property
    def retried_blocks(self) -> int:
        """The last number seen."""
        return self.rows[-1].retried_blocks if self.rows else 0

    @property
    def copied_blocks(self) -> int:
        """The last number seen."""
        return self.rows[-1].copied_blocks if self.rows else 0

    @property
    def last_words(self) -> str:
        """The last line that is no routine."""
        notices = [line.text for line in self.lines if line.is_notice]
        return notices[-1].strip()[:300] if notices else ""

    def signal(self, number: int) -> None:
        """Send the driver a signal."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Wait for the driver's end; whether it came."""
        assert self._process is not None
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def result(self) -> dict[str, Any] | None:
        """The content of results.json; None if there is none."""
        path = self.run_dir / "results.json"
        return dict(json.loads(path.read_text())) if path.exists() else None

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for text in process.stdout:
            self.lines.append(Said(time.monotonic(), _COLOUR.sub("", text.rstrip("\n"))))

    def _watch(self) -> None:
        while not self._over.wait(_POLL_S):
            with contextlib.suppress(OSError):  # not there yet, or a disk in trouble
                self._read_rows()

    def _read_rows(self) -> None:
        path = self.run_dir / "metrics.jsonl"
        size = path.stat().st_size
        if size < self._offset:  # a resume wrote it anew, up to its checkpoint: rows seen before
            self._offset = size
        if size == self._offset:
            return
        with path.open("rb") as file:
            file.seek(self._offset)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._offset += len(whole) + len(newline)
        now = time.monotonic()
        for line in whole.splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # began before a resume's rewriting
                row = json.loads(line)
                if row["event"] == "train":
                    again = row["retried_blocks"], row["copied_blocks"]
                    self.rows.append(Seen(now, row["step"], *again))


def clean_digest(recipe: Recipe, steps: int) -> str:
    """SHA-256 of the parameters of an undisturbed training without Ray.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="chaos") as folder:
        with Training(recipe, steps, Path(folder) / "clean", (), os.environ | MARK) as training:
            training.start(("runtime=local", "log_every=1000", "checkpoint.every=0"))
            training.wait(_CLEAN_DEADLINE_S)
            result = training.result()
        if training.exit_code or result is None:
            said = "\n".join(line.text for line in training.lines)
            raise RuntimeError(f"the clean run ended with {training.exit_code}: {said}")
        return str(result["meta_params_sha256"])


def _word(resume: bool) -> str:
    return "auto" if resume else "false"
