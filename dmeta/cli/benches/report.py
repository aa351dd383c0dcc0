"""What all of `dmeta bench` share: terminal output, a folder, and JSON with its settings."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from dmeta.formatting import safe_text
from dmeta.training.config import RunConfig
from dmeta.training.results import hardware, versions, write_json
from dmeta.training.setup import Run


class BenchCommand(NamedTuple):
    """What `dmeta bench WHAT` was called with.

    Attributes:
        settings: of the run that is measured, composed.
        bench: the group ``bench``, without its name.
        overrides: as they were typed, for what composes settings again.
    """

    settings: Mapping[str, Any]
    bench: Mapping[str, Any]
    overrides: Sequence[str]


def say(console: Console, line: str) -> None:
    """One line, as it is."""
    console.print(safe_text(line, console), soft_wrap=True, highlight=False)


def title_of(run: Run, *details: str) -> str:
    """What was measured: of which run, and how."""
    config = run.config
    precision = config.compute.precision
    rounded = [] if precision == "float32" else [precision]
    return (
        f"{config.algorithm.name} on {config.task.source.name} with {config.model.name}: "
        + ", ".join([*details, *rounded])
    )


def count_of(number: int, thing: str) -> str:
    """``1 task``, ``2 tasks``."""
    return f"{number} {thing}{'s' * (number != 1)}"


def folder_of(what: str, config: RunConfig, out: str | None) -> Path:
    """Where the results go, made if need be.

    Args:
        what: that was measured.
        config: settings of the run.
        out: the folder that the user named; None: a new one under ./runs.
    """
    now = datetime.datetime.now().astimezone().strftime("%Y-%m-%d_%H-%M-%S")
    new = Path("runs") / f"{what}_{config.task.source.name}_{config.algorithm.name}_{now}"
    folder = new if out is None else Path(str(out))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_report(run: Run, options: Any, content: Mapping[str, Any], path: Path) -> Path:
    """Write what was found, with everything that it is of.

    Args:
        run: the run.
        options: of the measurement, a dataclass.
        content: what was found, plain data.
        path: the JSON to write.

    Returns: `path`.
    """
    report = {
        **content,
        "bench": dataclasses.asdict(options),
        "settings": run.config.as_mapping(),
        "versions": versions(),
        "hardware": hardware(),
    }
    write_json(path, report)
    return path
