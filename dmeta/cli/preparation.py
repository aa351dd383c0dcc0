"""What `dmeta train` does before the first step: data, network, and the execution plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dmeta.cli.saved_run import NONE, read_saved
from dmeta.runs.folder import RunPlace, check_folder
from dmeta.runs.layout import CONFIG, JOINT
from dmeta.runtime import check_room
from dmeta.runtime.protocol import Workplace
from dmeta.runtime.threads import torch_threads
from dmeta.training.autotune.selection import with_selection
from dmeta.training.config import RunConfig
from dmeta.training.other_tasks import with_other_tasks
from dmeta.training.resume import check_primary_metric, check_resume, placed_at
from dmeta.training.run import joint_config
from dmeta.training.setup import Run, prepare
from dmeta.training.task_options import OTHER_TASKS

_OF_BOTH = ("model", "loss", "metrics", "augment")
"""Own objects that the joint baseline is trained with, too."""


def prepared(
    config: RunConfig, own: Mapping[str, Any], place: RunPlace, say: Callable[[str], None]
) -> tuple[Run, Run | None]:
    """The run and, if it is asked for, its joint baseline; nothing is written yet.

    Args:
        config: settings.
        own: the user's own objects, by the name of what each of them is.
        place: where the run will be, or is to be continued.
        say: shows a line of text.

    Raises:
        ValueError: whatever is wrong with the settings.
    """
    if place.mirror is None:
        check_folder(place.folder, "run_dir")
        config = dataclasses.replace(config, run_dir=place.name)
    else:
        config = placed_at(config, place.name)
    if config.resume and (place.folder / CONFIG).exists():
        call = f'dmeta.train({{"run_dir": {place.name!r}, "resume": True}}'
        read_saved(place).check_own({**NONE, **own}, place.name, call)
    if config.runtime.name != "local":
        from dmeta.runtime.ray.pickling import check_picklable  # imports Ray

        check_picklable(**own)
    check_resume(config, place.folder)
    check_room(config.runtime, config.device, config.num_blocks)
    if "root" in config.task.source.options and own.get("source") is None:
        say(f"reading the data of task={config.task.source.name}")
    with torch_threads(config.compute.threads_per_worker):
        run = prepare(config, **own)
        if config.eval.task:
            say(f"reading the data of {OTHER_TASKS}")
            run = with_other_tasks(run)
    check_primary_metric(run, place.folder)
    joint = None
    if config.joint_baseline:
        settings = dataclasses.replace(joint_config(run.config), runtime=config.runtime)
        kept: dict[str, Any] = {key: own.get(key) for key in _OF_BOTH}
        joint = prepare(settings, data=run.source, **kept)
        made = {name: tasks.source for name, tasks in run.work.others.items()}
        joint = with_other_tasks(joint, made)
    return run, joint


def with_plans(
    run: Run,
    joint: Run | None,
    place: RunPlace,
    workplace: Workplace,
    say: Callable[[str], None],
) -> tuple[Run, Run | None]:
    """Both with the execution plan and the chunk size that suit the workers.

    Args:
        run: of `prepared`.
        joint: likewise.
        place: where the run is to be continued, if it is there: then by the plan it began with.
        workplace: where it computes.
        say: shows a line of text.
    """
    _say_what_is_planned(run, say)
    run = with_selection(run, _begun_with(place.folder), workplace)
    if joint is not None:
        _say_what_is_planned(joint, say)
        joint = with_selection(joint, _begun_with(place.folder / JOINT), workplace)
    return run, joint


def _say_what_is_planned(run: Run, say: Callable[[str], None]) -> None:
    """What takes a while before the first step."""
    plan, name = run.config.compute.plan, run.config.algorithm.name
    if run.config.memory_budget is not None:
        say(f"measuring what the meta-gradient of {name} takes (gradient.memory_budget)")
    if plan == "measure":
        say(
            f"timing the execution plans of {name} on the first tasks (compute.plan=measure); "
            "compiling one, where that can pay, takes 20 to 80 s"
        )
    elif plan == "compiled":
        say(f"compiling the block of {name}: 20 to 80 s, unless it was compiled before")


def _begun_with(run_dir: Path) -> Mapping[str, Any] | None:
    """The settings of the run that is already there."""
    there = (run_dir / CONFIG).exists()
    return read_saved(RunPlace(run_dir)).config.as_mapping() if there else None
