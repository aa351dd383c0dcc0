"""`dmeta status`: the state of a run or a search, from its folder only."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.text import Text

from dmeta.addresses import is_address, local_path
from dmeta.formatting import safe_text
from dmeta.quoting import printable
from dmeta.runs.layout import CONFIG, SEARCH
from dmeta.runs.lock import is_locked
from dmeta.runs.remote_status import copied
from dmeta.runs.search_status import SearchStatus, search_status
from dmeta.runs.status import RunStatus, run_status

_EVERY_S = 2.0


def status_command(keys: Mapping[str, str]) -> None:
    """The verb: show it once, or until it ends."""
    for key in ("json", "watch"):
        if keys.get(key, "true") not in ("true", "false"):
            raise ValueError(f"{key} must be true or false, got {keys[key]!r}; choose one")
    if "run_dir" not in keys:
        raise ValueError("run_dir must be given, got nothing; add run_dir=FOLDER")
    place = keys["run_dir"]
    run_dir = place if is_address(place) else local_path(place)
    console = Console()
    show = _as_json if keys.get("json") == "true" else _as_text
    if keys.get("watch") == "true":
        watch(run_dir, console, show)
    else:
        console.print(show(status(run_dir), console), soft_wrap=True)


def status(run_dir: Path | str) -> RunStatus | SearchStatus:
    """What the files of a run or a search say of it.

    Args:
        run_dir: its folder or address.

    Raises:
        ValueError: there is neither, or a file of it is damaged.
    """
    try:
        found = _look(run_dir)
    except OSError as error:
        raise ValueError(
            f"run_dir must hold files that can be read, got {run_dir} ({error}); make them "
            "readable, or choose another run_dir"
        ) from None
    if found is not None:
        return found
    if isinstance(run_dir, str):
        raise ValueError(
            f"run_dir must hold a run or a search, got the address {run_dir} with none; correct "
            "run_dir"
        )
    what = "an empty or another folder" if run_dir.is_dir() else "no folder"
    raise ValueError(
        f"run_dir must hold a run or a search, got {run_dir}, which is {what}; correct run_dir"
    )


def _look(run_dir: Path | str) -> RunStatus | SearchStatus | None:
    if isinstance(run_dir, str):
        with copied(run_dir) as (folder, afar):
            if (folder / SEARCH).exists():
                return search_status(folder, afar)
            is_there = (folder / CONFIG).exists() or afar.lives
            return run_status(folder, afar) if is_there else None
    if (run_dir / SEARCH).exists():
        return search_status(run_dir)
    if run_dir.is_dir() and ((run_dir / CONFIG).exists() or is_locked(run_dir)):
        return run_status(run_dir)
    return None


def watch(
    run_dir: Path | str,
    console: Console,
    show: Callable[[RunStatus | SearchStatus, Console], Text],
    every_s: float = _EVERY_S,
) -> None:
    """Show it again and again, until it does not go on any more, or Ctrl-C.

    On a terminal in place; elsewhere whenever it changed.
    """
    ended, mark = 0, None
    with suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while ended < 2:  # between a run and the one it is compared with, nobody seems to work
            found = status(run_dir)
            if console.is_terminal:
                live.update(show(found, console), refresh=True)
            elif found.mark != mark:
                console.print(show(found, console), soft_wrap=True)
            mark = found.mark
            ended = 0 if found.state in ("starting", "running") else ended + 1
            time.sleep(every_s if ended < 2 else 0)


def _as_text(found: RunStatus | SearchStatus, console: Console) -> Text:
    return safe_text("\n".join(map(printable, found.lines())), console)


def _as_json(found: RunStatus | SearchStatus, console: Console) -> Text:  # noqa: ARG001
    return Text(json.dumps(dataclasses.asdict(found)))
