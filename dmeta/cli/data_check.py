"""`dmeta data check task=...`: what a task source has, and a picture of a few of its tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from dmeta.addresses import folder_here
from dmeta.formatting import safe_text
from dmeta.reports.contact_sheet import contact_sheet, shows_images
from dmeta.runs.folder import check_folder
from dmeta.tasks.fixed_tasks import FixedTasks
from dmeta.tasks.source import SPLITS, EpisodeSize, ListsExamples, Split, TaskSource, is_fixed
from dmeta.training.build import make_source
from dmeta.training.config import RunConfig, run_config

_MOST_NAMED = 3


def data_check_command(settings: dict[str, Any], overrides: list[str]) -> None:  # noqa: ARG001 - as all
    """The verb: read the data that the settings name, and say what was found."""
    out = settings.pop("out")
    path = None if out is None else folder_here(str(out), "out")
    if path is not None:
        check_folder(path.parent, "out")
    config, console = run_config(settings), Console()
    source = make_source(config)
    _say(console, f"{config.task.source.name}: {source!r}")
    if isinstance(source, FixedTasks):  # which are not drawn
        return
    if isinstance(source, ListsExamples):
        console.print(_classes(source))
        for line in _repeats(source):
            _say(console, line)
    drawable = list(_drawable(config, source, console))
    if path is not None and drawable and shows_images(source):
        size = config.task.evaluation
        _say(console, f"wrote {contact_sheet(source, drawable, size, config.seed, path)}")


def _classes(source: ListsExamples) -> Table:
    table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("split")
    for heading in ("classes", "examples", "a class"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("smallest class", overflow="fold")
    for split in SPLITS:
        names = source.split_class_names(split)
        counts = [len(source.class_examples(split, place)) for place in range(len(names))]
        cells = [f"{len(names):,}", f"{sum(counts):,}"]
        if counts:
            cells += [f"{min(counts)} to {max(counts)}", _shown(names[int(np.argmin(counts))])]
        table.add_row(split, *cells)
    return table


def _shown(class_name: str) -> str:
    """On one line, whatever is in it."""
    return ascii(class_name)[1:-1]


def _repeats(source: ListsExamples) -> Iterator[str]:
    """Lines about examples that are there more than once."""
    places: dict[bytes, list[tuple[Split, str]]] = {}
    for split in SPLITS:
        for place, name in enumerate(source.split_class_names(split)):
            for example in source.class_examples(split, place):
                content = hashlib.blake2b(example.tobytes(), digest_size=16).digest()
                places.setdefault(content, []).append((split, name))
    repeated = [where for where in places.values() if len(where) > 1]
    if not repeated:
        yield "no example is there twice"
        return
    splits = sum(len({split for split, _ in where}) > 1 for where in repeated)
    classes = sum(len(set(where)) > 1 for where in repeated)
    yield (
        f"{len(repeated)} examples are there more than once: {classes} of them in several classes, "
        f"{splits} in several splits"
    )
    for where in repeated[:_MOST_NAMED]:
        yield "  " + ", ".join(f"{_shown(name)} ({split})" for split, name in where)


def _drawable(config: RunConfig, source: TaskSource, console: Console) -> Iterator[Split]:
    """The splits that have tasks of the size that the settings say; says why others have none."""
    for split in SPLITS:
        size = config.task.training if split == "train" else config.task.evaluation
        if not isinstance(size, EpisodeSize):
            size = config.task.evaluation
        words = f"{size.ways}-way {size.shots}-shot tasks with {size.queries} queries a class"
        if not is_fixed(size):
            words = f"tasks of at most {size.ways} ways, drawn by sampler {size.sampler},"
        try:
            source.check(split, size)
        except ValueError as error:
            _say(console, f"{split}: no {words}: {error}")
        else:
            _say(console, f"{split}: {words} can be drawn")
            yield split


def _say(console: Console, line: str) -> None:
    console.print(safe_text(line, console), soft_wrap=True, highlight=False)
