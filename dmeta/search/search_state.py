"""What is stored to continue a search: its settings, and Tune's own state."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmeta.runs.folder import RunPlace
from dmeta.runs.heartbeat import MARK
from dmeta.runs.layout import FINAL, RESULTS, SEARCH, TRIALS, TRIALS_TABLE, TUNE
from dmeta.search.options import SearchOptions
from dmeta.search.space import Space
from dmeta.search.trial import settings_digest
from dmeta.search.trials import read_numbers
from dmeta.search.user_objects import Own, list_objects
from dmeta.training.config import RunConfig, run_config
from dmeta.training.results import write_json

TRIED = "tried"
"""In search.json: the points of a search before it was extended, for searchers that learn."""

NO_SEARCH = "resume=true must have a search in run_dir, got none in {}; correct run_dir"

SEARCH_FILES = (SEARCH, TRIALS_TABLE)
"""What is needed of a search's folder to go on."""


def record_of(space: Space, options: SearchOptions, base: RunConfig, own: Own) -> dict[str, Any]:
    """What a search is of: to be the same when it is continued."""
    return {
        "format": 1,
        "space": plain_space(space),
        "search": dataclasses.asdict(options),
        "settings": base.as_mapping(),
        "sha256": settings_digest(base),
        "own": own.listed,
    }


def plain_space(space: Space) -> dict[str, Any]:
    """Key -> dimension, condition -> space, as a user writes them."""
    words: dict[str, Any] = {key: str(d) for key, d in space.dimensions.items()}
    return words | {c: plain_space(inner) for c, inner in space.conditions.items()}


def read_search(place: RunPlace) -> dict[str, Any]:
    """What is kept of a search: its space, its options, its settings, and notes.

    Raises:
        ValueError: it is not readable.
    """
    try:
        return dict(json.loads((place.folder / SEARCH).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"{place.locate(SEARCH)} must be a search's settings, got {error!r}; restore it, or "
            "choose another run_dir"
        ) from None


def check_begun(place: RunPlace, resume: bool, record: Mapping[str, Any]) -> bool:
    """Whether there is a search in the folder that is to be extended: by more trials or steps.

    Raises:
        ValueError: there is a search and it is not to be continued, or is another one.
    """
    run_dir = place.name
    if not (place.folder / SEARCH).exists():
        if resume:
            raise ValueError(NO_SEARCH.format(run_dir))
        if others := [name for name in (TUNE, TRIALS) if place.has(name)]:
            raise ValueError(
                f"run_dir must be new, got {run_dir} with a folder {others[0]} of no search; "
                "choose another run_dir"
            )
        return False
    if not resume:
        raise ValueError(
            f"run_dir must be new, got {run_dir} with a search in it; add resume=true to continue "
            "it, or choose another run_dir"
        )
    there = read_search(place)
    _check_same(there, record, run_dir)
    if place.mirror is None:
        _check_ours(place.folder / TUNE)
    return _is_extended(there, record)


def _check_same(there: Mapping[str, Any], record: Mapping[str, Any], run_dir: str) -> None:
    """Raises ValueError if the two are of different searches, but for trials and steps."""
    if (own := there.get("own", {})) != record["own"]:
        raise ValueError(
            f"a search must be continued with the objects that it was begun with, got {run_dir} of "
            f"{list_objects(own)} and {list_objects(record['own'])} now; pass the same from Python "
            "(dmeta.tune), or choose another run_dir"
        )
    what = None
    if there.get("space") != record["space"]:
        what = "space"
    elif _but_trials(there) != _but_trials(record):
        what = "search"
    elif not _same_settings(there, record):
        what = "settings"
    if what is not None:
        raise ValueError(
            f"run_dir must belong to this search, got {run_dir} of another {what}; give the same, "
            "or choose another run_dir"
        )


def _but_trials(record: Mapping[str, Any]) -> dict[str, Any]:
    options = record.get("search")
    options = options if isinstance(options, Mapping) else {}
    return {key: value for key, value in options.items() if key != "num_trials"}


def _same_settings(there: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether the settings are the same, but for the number of steps."""
    steps = record["settings"]["steps"]
    try:
        before = run_config(there["settings"])
    except (ValueError, KeyError, TypeError):
        return False
    longer = dataclasses.replace(before, steps=steps)
    return (
        settings_digest(before) == there.get("sha256")
        and settings_digest(longer) == record["sha256"]
    )


def _is_extended(there: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether there are more trials, or more steps of each, than before.

    Raises:
        ValueError: there are fewer; or what its trials did cannot be extended.
    """
    is_extended = False
    for key, group in (("search.num_trials", "search"), ("steps", "settings")):
        name = key.rpartition(".")[2]
        before, now = there[group][name], record[group][name]
        if before == now:
            continue
        if before is None or (now is not None and now < before):  # None: all there are
            raise ValueError(
                f"{key} must be at least that of the search that is continued ({before}), got "
                f"{now}; raise it, leave it out, or choose another run_dir"
            )
        if record["search"]["scheduler"] in ("pbt", "hyperband"):
            raise ValueError(
                f"{key} must stay {before} with search.scheduler={record['search']['scheduler']}, "
                f"whose trials depend on how many there are and how long, got {now}; begin "
                "another search in another run_dir"
            )
        is_extended = True
    return is_extended


def forget_course(place: RunPlace) -> list[Any]:
    """Remove what there is of a search but its trials' runs, so that it can be run again.

    Its trials find their runs, and report again what these have reported.

    Returns: the points that it has tried, as Tune has them, in the order of its trials.
    """
    there = read_search(place)
    numbers = read_numbers(place.folder / TRIALS_TABLE)
    points = {}
    for name in place.find(f"{TUNE}/*/params.json"):
        number, text = numbers.get(name.split("/")[-2]), place.read(name)
        if number is not None and text is not None:
            points[number] = json.loads(text)
    tried = [points[number] for number in sorted(points)] or list(there.get(TRIED, []))
    write_json(place.folder / SEARCH, {**there, TRIED: tried})
    place.push()
    for name in (RESULTS, TRIALS_TABLE):
        place.remove_file(name)
    for name in (FINAL, TUNE):
        place.remove_folder(name)
    return tried


def _check_ours(folder: Path) -> None:
    """Raises ValueError if others may have written there: Tune runs what it finds (pickles)."""
    for path in (folder.parent, folder, *(folder.glob("*") if folder.is_dir() else ())):
        if path.exists() and (path.stat().st_uid != os.geteuid() or path.stat().st_mode & 0o002):
            raise ValueError(
                "a search that is continued must be your own, for Ray Tune runs code that it finds "
                f"there, got {path}, which another user owns or anyone can write to; if you trust "
                "it, make it yours (chown, chmod o-w)"
            )


def can_go_on(place: RunPlace) -> bool:
    """Whether Tune has saved a search in its folder."""
    return place.has(f"{TUNE}/tuner.pkl") and bool(place.find(f"{TUNE}/experiment_state-*.json"))


def forget_marks(place: RunPlace) -> None:
    """Remove the marks of trials at an address: Tune does not wait for their ends."""
    if place.mirror is None:
        return
    there = place.mirror.there
    for name in there.find(f"{TRIALS}/*/{MARK}"):
        with contextlib.suppress(Exception):  # it has just ended; or who comes next waits
            there.remove(name)
