"""`dmeta replay` and `dmeta.replay`: compute a block of a run again and inspect it."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import NonNegativeInt
from rich.console import Console
from rich.table import Table

from dmeta.addresses import folder_here
from dmeta.cli.saved_run import NONE, read_saved, typed_root, with_root
from dmeta.cli.settings.trust import check_saved, trusts
from dmeta.cli.single_run import alone_in_process
from dmeta.formatting import safe_text
from dmeta.launch import open_runtime
from dmeta.options import check_fields, checked
from dmeta.runs.checkpoint import meta_params_of, open_checkpoints, read_checkpoint, steps_in
from dmeta.runs.folder import RunPlace, run_place
from dmeta.runtime.blocks import blocks_of
from dmeta.runtime.local import local_device
from dmeta.runtime.messages import Block, Vector
from dmeta.runtime.options import RuntimeOptions
from dmeta.runtime.threads import torch_threads
from dmeta.training.config import RunConfig
from dmeta.training.model_evaluation import restore
from dmeta.training.results import write_json
from dmeta.training.setup import Run, prepare
from dmeta.training.work.replay import Replayed, replay_block

_LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ReplayConfig:
    """Settings of `dmeta replay`.

    Attributes:
        run_dir: the run: a folder that `dmeta train` wrote, or its URL.
        step: the outer step, counted from 0, as in the message of a rejected step.
        block: number of the block in that step, counted from 0; None: all.
        out: where the results go; None: a folder in run_dir.
        root: where the data is; None: where the run found it.
        device: ``cpu``, ``cuda``, or ``auto``: cuda if there is one.
    """

    run_dir: str
    step: NonNegativeInt
    block: NonNegativeInt | None = None
    out: str | None = None
    root: str | None = None
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "")

    @property
    def name(self) -> str:
        """Of the folder that the results go to, in that of the run, if no other is given."""
        return f"replay/step-{self.step}"


@alone_in_process("dmeta.replay")
def replay(
    run_dir: str | Path,
    step: int,
    block: int | None = None,
    *,
    out: str | Path | None = None,
    root: str | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    trust: bool = False,
    **own: Any,
) -> list[list[Replayed]]:
    """Take a run to one of its outer steps again, in this process, and compute blocks of it.

    It goes on from the last checkpoint at or before that step, by the run's own plan: to the same
    bits, as long as it is the same kind of device.

    Args:
        run_dir: what `dmeta.train` wrote.
        step: outer step, counted from 0.
        block: number of the block in that step; None: all.
        out: folder for ``block-<n>.json`` (what is returned) and ``block-<n>.npz`` (the tasks, the
            meta-parameters and the gradient); None: ``replay/step-<step>`` in the run's folder.
        root: where the data is; None: where the run found it.
        device: ``cpu``, ``cuda`` or ``auto``.
        trust: contact the addresses in the run's settings even if someone else wrote them.
        own: ``model``, ``source``, ``algorithm``, ``loss``, ``augment``: your own objects that the
            run was trained with, if it was.

    Returns: for every block: it, and then its tasks one by one.

    Raises:
        ValueError: the run has no such step or block, or a setting is not what it must be.
    """
    folder = None if out is None else str(out)
    wanted = ReplayConfig(str(run_dir), step, block, folder, root, device)
    with run_place(run_dir) as place:
        return _replay(wanted, place, own, trust)


def replay_command(settings: dict[str, Any], overrides: list[str]) -> None:
    """The verb: replay, print a table of every block, say what was written."""
    wanted = checked(ReplayConfig, settings, "")
    console = Console()
    with run_place(wanted.run_dir) as place:
        for parts in _replay(wanted, place, {}, trusts(overrides)):
            console.print(_table(parts))
    line = f"wrote     {wanted.out or place.locate(wanted.name)}"
    console.print(safe_text(line, console), soft_wrap=True)


def _replay(
    wanted: ReplayConfig, place: RunPlace, own: dict[str, Any], trust: bool
) -> list[list[Replayed]]:
    saved = read_saved(place)
    config = _locally(with_root(saved.config, wanted.root), wanted.device)
    if not trust:
        check_saved(config.as_mapping(), place.name, typed=typed_root(wanted.root))
    if saved.config.runtime.mode == "async":
        raise ValueError(
            "a run to be replayed must have runtime.mode=sync, got async, where the workers' speed "
            "decides what a block is computed at; train again with runtime.mode=sync"
        )
    folder = folder_here(wanted.out, "out") if wanted.out else place.folder / wanted.name
    if wanted.step >= config.steps:
        raise ValueError(f"step must be < {config.steps}, the run's steps, got {wanted.step}")
    blocks = _blocks(config, wanted.step)
    if wanted.block is not None and wanted.block >= len(blocks):
        raise ValueError(f"block must be < {len(blocks)}, those of a step, got {wanted.block}")
    chosen = blocks if wanted.block is None else [blocks[wanted.block]]
    needed = {part: each for part, each in {**NONE, **own}.items() if part != "metrics"}
    saved.check_own(needed, place.name, f"dmeta.replay({place.name!r}, {wanted.step}")
    run = prepare(config, **own)
    vector = _vector_at(run, place.folder, wanted.step)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    with torch_threads(config.compute.threads_per_worker):
        for block in chosen:
            parts, arrays = replay_block(run, local_device(wanted.device), vector, block)
            path = folder / f"block-{block.index}"
            write_json(path.with_suffix(".json"), [dataclasses.asdict(part) for part in parts])
            np.savez(path.with_suffix(".npz"), allow_pickle=False, **arrays)
            found.append(parts)
    place.push()
    return found


def _locally(config: RunConfig, device: Literal["auto", "cpu", "cuda"]) -> RunConfig:
    """The run's settings, but for who computes."""
    return dataclasses.replace(
        config,
        runtime=RuntimeOptions(name="local"),
        device=device,
        eval=dataclasses.replace(config.eval, metrics=None),  # it evaluates nothing
    )


def _blocks(config: RunConfig, step: int) -> list[Block]:
    return blocks_of("train", step, config.meta_batch_size, config.compute.block_size)


def _vector_at(run: Run, run_dir: Path, step: int) -> Vector:
    """The meta-parameters [P] that the run had after so many steps."""
    storage = open_checkpoints(run_dir, run.config.checkpoint.location)
    first = max((s for s in steps_in(storage) if s <= step), default=0)
    with open_runtime(run) as runtime:
        if first:
            restore(runtime, read_checkpoint(storage, first))
        _LOG.info("taking steps %d to %d again", first, step)
        for number in range(first, step):
            runtime.step(number, _blocks(run.config, number))
        state = runtime.state()()
    return run.outer.layout.flatten(meta_params_of(state)).numpy()


def _table(parts: list[Replayed]) -> Table:
    block, *tasks = parts
    table = Table(title=f"step {block.block.step}, block {block.block.index}")
    for column in ("task", "seed", "finite", "gradient norm", *block.sums):
        table.add_column(column, justify="left" if column in ("task", "seed") else "right")
    for part in (*tasks, block):
        alone = part is not block
        table.add_row(
            str(part.block.first_slot) if alone else "all",
            str(part.task_seeds[0]) if alone else "",
            "yes" if part.finite else "NO",
            f"{part.gradient_norm:.4g}",
            *(f"{value:.4g}" for value in part.sums.values()),
        )
    return table
