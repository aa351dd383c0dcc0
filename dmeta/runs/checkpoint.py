"""Checkpoints: data only, complete or absent, checked when read.

A checkpoint is a folder ``step-00001000`` of ``state.safetensors`` (meta-parameters by name and the
optimiser's state) and ``checkpoint.json`` (step, progress, size and SHA-256 of the former, and its
own SHA-256). The name says which checkpoint it is, and `dmeta.runs.storage` that it is
complete, so no other file points to the last one and could be wrong.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.numpy

from dmeta.runs.layout import CHECKPOINTS
from dmeta.runs.storage import Folders, Storage, open_storage
from dmeta.runtime.messages import ServerState

if TYPE_CHECKING:
    import torch

CHECKPOINT_FORMAT = 1
STATE, MANIFEST = "state.safetensors", "checkpoint.json"
META_PARAMS = "meta_params/"
"""In front of the names of the meta-parameters in a server's state."""

_NAME = re.compile(r"step-[0-9]{8,}")


class CheckpointError(ValueError):
    """A checkpoint that is not there, not whole, or not of this run."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        where: path or address of its folder.
        state: of the server; its arrays are ``meta_params/<name>`` and ``optimizer/<key>``.
        progress: what the training loop wrote with them.
    """

    where: str
    state: ServerState
    progress: Mapping[str, Any]

    @property
    def step(self) -> int:
        """Outer steps done."""
        return self.state.step

    def meta_params(self) -> dict[str, torch.Tensor]:
        """Name -> tensor."""
        return meta_params_of(self.state)


def meta_params_of(state: ServerState) -> dict[str, torch.Tensor]:
    """Name -> tensor, a copy."""
    import torch  # seconds to import, and those who only list checkpoints do without

    return {
        name.removeprefix(META_PARAMS): torch.from_numpy(array.copy())
        for name, array in state.arrays.items()
        if name.startswith(META_PARAMS)
    }


def open_checkpoints(run_dir: Path, location: str | None) -> Storage:
    """Where a run keeps its checkpoints: at `location`, or if that is None, in its directory."""
    folders = Folders(_NAME, completed_by=MANIFEST)
    return open_storage(str(run_dir / CHECKPOINTS) if location is None else location, folders)


def write_checkpoint(storage: Storage, state: ServerState, progress: Mapping[str, Any]) -> None:
    """Write ``step-<step>``, whole or not at all.

    Raises:
        OSError: it could not be written; the others are as they were.
    """
    # Not np.ascontiguousarray, which makes a vector of a number.
    arrays = {name: np.asarray(array, order="C") for name, array in state.arrays.items()}
    content = safetensors.numpy.save(arrays)
    manifest: dict[str, Any] = {
        "format": CHECKPOINT_FORMAT,
        "step": state.step,
        "progress": dict(progress),
        "files": {
            STATE: {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        },
    }
    manifest["sha256"] = _digest(manifest)
    files = {STATE: content, MANIFEST: json.dumps(manifest, indent=1).encode()}
    storage.write(checkpoint_name(state.step), files)


def read_checkpoint(storage: Storage, step: int) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        CheckpointError: a file is missing, truncated or altered; the message names it.
    """
    name = checkpoint_name(step)
    where = storage.locate(name)
    try:
        content = storage.read(name, MANIFEST)
        state = storage.read(name, STATE)
    except OSError as error:
        raise CheckpointError(
            f"a checkpoint must have {STATE} and {MANIFEST}, got {error} in {where}; "
            "use another checkpoint, or another run_dir"
        ) from None
    try:
        manifest = _parsed(content)
        if manifest.pop("sha256") != _digest(manifest) or manifest["format"] != CHECKPOINT_FORMAT:
            raise ValueError(f"a SHA-256 or format that is not this file's ({CHECKPOINT_FORMAT})")
        if manifest["step"] != step or not isinstance(manifest["step"], int):
            raise ValueError(f"step {manifest['step']!r}, which is not its folder's")
        progress, expected = manifest["progress"], manifest["files"][STATE]
        if not isinstance(progress, dict):
            raise ValueError(f"progress {progress!r}")
        size_bytes, sha256 = int(expected["size_bytes"]), str(expected["sha256"])
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(
            f"{where}/{MANIFEST} must be a checkpoint's manifest, got {error!r}; it was altered "
            "or truncated: delete this checkpoint to go on from the one before"
        ) from None
    if len(state) != size_bytes or hashlib.sha256(state).hexdigest() != sha256:
        raise CheckpointError(
            f"{where}/{STATE} must have {size_bytes} bytes with SHA-256 {sha256[:12]}..., got "
            f"{len(state)} with {hashlib.sha256(state).hexdigest()[:12]}...; it was altered or "
            "truncated: delete this checkpoint to go on from the one before"
        )
    try:
        arrays = safetensors.numpy.load(state)
    except safetensors.SafetensorError as error:
        raise CheckpointError(
            f"{where}/{STATE} must be in the format of safetensors, got {error}; use another "
            "checkpoint"
        ) from None
    return Checkpoint(where, ServerState(step, arrays), progress)


def last_checkpoint(storage: Storage, steps: Sequence[int]) -> tuple[Checkpoint, list[str]]:
    """The last whole checkpoint, and what is wrong with those after it.

    Args:
        storage: where they are.
        steps: those there are, `steps_in`; at least one.

    Raises:
        CheckpointError: every one is damaged.
    """
    damages: list[str] = []
    for step in reversed(steps):
        try:
            return read_checkpoint(storage, step), damages
        except CheckpointError as error:
            damages.append(str(error))
    raise CheckpointError(
        f"one of the {len(steps)} checkpoints must be whole, got none; the last: {damages[0]}"
    )


def steps_in(storage: Storage) -> list[int]:
    """The steps of the checkpoints there, rising; not verified."""
    return sorted(int(name.removeprefix("step-")) for name in storage.names())


def prune_checkpoints(storage: Storage, keep: int, best: Collection[int]) -> None:
    """Delete all but the last `keep` checkpoints and those of the `best` steps."""
    for step in steps_in(storage)[:-keep]:
        if step not in best:
            storage.remove(checkpoint_name(step))


def checkpoint_name(step: int) -> str:
    """``step-00001000``."""
    return f"step-{step:08d}"


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("brackets in brackets without an end") from None


def _digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a manifest's content, whatever its spacing."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()
