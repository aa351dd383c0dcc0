"""What is kept of a search, to continue it: its settings, and Tune's own state."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmeta.search.options import SearchOptions
from dmeta.search.own import Own, in_words
from dmeta.search.space import Space
from dmeta.search.trial import TRIALS, digest_of
from dmeta.search.trials import TABLE
from dmeta.training.config import RunConfig
from dmeta.training.mark import MARK
from dmeta.training.places import RunPlace

SEARCH, TUNE = "search.json", "tune"

SEARCH_FILES = (SEARCH, TABLE)
"""What is needed of a search's folder to go on."""


def record_of(space: Space, options: SearchOptions, base: RunConfig, own: Own) -> dict[str, Any]:
    """What a search is of: to be the same when it is continued."""
    return {
        "format": 1,
        "space": space_in_words(space),
        "search": dataclasses.asdict(options),
        "settings": base.as_mapping(),
        "sha256": digest_of(base),
        "own": own.names,
    }


def space_in_words(space: Space) -> dict[str, Any]:
    """Key -> dimension, condition -> space, as a user writes them."""
    words: dict[str, Any] = {key: str(d) for key, d in space.dimensions.items()}
    return words | {c: space_in_words(inner) for c, inner in space.conditions.items()}


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


def check_begun(place: RunPlace, resume: bool, record: Mapping[str, Any]) -> None:
    """Raises ValueError if there is a search and it is not to be continued, or is another one."""
    run_dir = place.name
    if not (place.folder / SEARCH).exists():
        if resume:
            raise ValueError(
                f"resume=true must have a search in run_dir, got none in {run_dir}; correct run_dir"
            )
        if others := [name for name in (TUNE, TRIALS) if place.has(name)]:
            raise ValueError(
                f"run_dir must be new, got {run_dir} with a folder {others[0]} of no search; "
                "choose another run_dir"
            )
        return
    if not resume:
        raise ValueError(
            f"run_dir must be new, got {run_dir} with a search in it; add resume=true to go on "
            "with it, or choose another run_dir"
        )
    there = read_search(place)
    if (own := there.get("own", {})) != record["own"]:
        raise ValueError(
            f"a search must be continued with the objects that it was begun with, got {run_dir} of "
            f"{in_words(own)} and {in_words(record['own'])} now; pass the same from Python "
            "(dmeta.tune), or choose another run_dir"
        )
    changed = [key for key in ("space", "search", "sha256") if there.get(key) != record[key]]
    if changed:
        what = "settings" if changed[0] == "sha256" else changed[0]
        raise ValueError(
            f"run_dir must belong to this search, got {run_dir} of another {what}; give the same, "
            "or choose another run_dir"
        )
    if place.mirror is None:
        _check_ours(place.folder / TUNE)


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
