"""Checkpoints: data only, complete or absent, checked when read.

A checkpoint is a folder ``step-00001000`` of ``state.safetensors`` (meta-parameters by name and the
optimiser's state) and ``checkpoint.json`` (step, progress, size and SHA-256 of the former, and its
own SHA-256). It is written under another name, flushed, and renamed, so that a folder of the right
name is whole.
Knows no runtime: in a run the server calls `write_checkpoint`, the driver the rest.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

FORMAT = 1
STATE, MANIFEST = "state.safetensors", "checkpoint.json"
_NAME = re.compile(r"step-(\d{8,})")
_PARAMS = "meta_params/"


class CheckpointError(ValueError):
    """A checkpoint that is not there, not whole, or not of this run."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        path: its folder.
        step: outer steps done.
        tensors: ``meta_params/<name>`` and ``optimizer/<key>``.
        progress: what the training loop wrote beside them.
    """

    path: Path
    step: int
    tensors: Mapping[str, torch.Tensor]
    progress: Mapping[str, Any]

    def meta_params(self) -> dict[str, torch.Tensor]:
        """Name -> tensor."""
        return {
            name.removeprefix(_PARAMS): tensor
            for name, tensor in self.tensors.items()
            if name.startswith(_PARAMS)
        }


def write_checkpoint(
    directory: str, step: int, tensors: Mapping[str, torch.Tensor], progress: Mapping[str, Any]
) -> str:
    """Write ``directory/step-<step>``, whole or not at all; returns its path."""
    parent = Path(directory)
    parent.mkdir(parents=True, exist_ok=True)
    final = parent / f"step-{step:08d}"
    aside = parent / f".{final.name}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    state = safetensors.torch.save({k: t.contiguous().clone() for k, t in tensors.items()})
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "step": step,
        "progress": dict(progress),
        "files": {STATE: {"size_bytes": len(state), "sha256": hashlib.sha256(state).hexdigest()}},
    }
    manifest["sha256"] = _digest(manifest)
    _write(aside / STATE, state)
    _write(aside / MANIFEST, json.dumps(manifest, indent=1).encode())
    _flush_folder(aside)
    if final.exists():  # a step saved twice is the same bits: keep the newer progress
        shutil.rmtree(final)
    aside.rename(final)
    _flush_folder(parent)
    return str(final)


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read and verify one checkpoint.

    Raises:
        CheckpointError: a file is missing, truncated or altered; the message names it.
    """
    folder = Path(path)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest.pop("sha256") != _digest(manifest) or manifest["format"] != FORMAT:
            raise ValueError(f"a SHA-256 or format that is not this file's ({FORMAT})")
        step, progress = int(manifest["step"]), dict(manifest["progress"])
        expected = manifest["files"][STATE]
        size_bytes, sha256 = int(expected["size_bytes"]), str(expected["sha256"])
        state = (folder / STATE).read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(
            f"a checkpoint must have {STATE} and {MANIFEST}, got none at {error.filename}; "
            "use another checkpoint, or another run_dir"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(
            f"{folder / MANIFEST} must be a checkpoint's manifest, got {error!r}; it was altered "
            "or truncated: delete this checkpoint to go on from the one before"
        ) from None
    if len(state) != size_bytes or hashlib.sha256(state).hexdigest() != sha256:
        raise CheckpointError(
            f"{folder / STATE} must have {size_bytes} bytes with SHA-256 {sha256[:12]}..., got "
            f"{len(state)} with {hashlib.sha256(state).hexdigest()[:12]}...; it was altered or "
            "truncated: delete this checkpoint to go on from the one before"
        )
    return Checkpoint(folder, step, safetensors.torch.load(state), progress)


def list_checkpoints(directory: str | Path) -> list[Path]:
    """The folders that are named as checkpoints, oldest step first; not verified."""
    parent = Path(directory)
    if not parent.is_dir():
        return []
    found = [(int(m[1]), p) for p in parent.iterdir() if (m := _NAME.fullmatch(p.name))]
    return [path for _, path in sorted(found)]


def prune_checkpoints(directory: str | Path, keep: int, best: Collection[int]) -> None:
    """Delete all but the last `keep` checkpoints and those of the `best` steps."""
    for path in list_checkpoints(directory)[:-keep]:
        if int(path.name.removeprefix("step-")) not in best:
            shutil.rmtree(path)


def remove_unfinished(directory: str | Path) -> None:
    """Delete what writers that were killed left behind; nobody must be writing there."""
    for path in Path(directory).glob(".step-*"):
        shutil.rmtree(path)


def _digest(manifest: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of a manifest's content, whatever its spacing."""
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
