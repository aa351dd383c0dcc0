"""One page per method: its paper, its mathematics, and the settings it brings."""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.inner_loop import InnerLoop
from reference_pages.settings import chosen_settings, settings_of
from reference_pages.text import cell, linked_papers, markdown, table, value_text


def method_pages() -> dict[str, str]:
    """Method -> its page; ``index`` is the table of all."""
    own = chosen_settings("algorithm")
    pages = {name: _page(name, own[name]) for name in ALGORITHMS}
    return {"index": _index(), **pages}


def _index() -> str:
    rows = [
        (
            f"[`{name}`]({name}.md)",
            cell(entry.summary),
            linked_papers(cell(entry.source)),
            f"`{settings_of('train', f'algorithm={name}')['gradient']['name']}`",
        )
        for name, entry in ALGORITHMS.items()
    ]
    contents = "\n".join(["```{toctree}", ":hidden:", "", *ALGORITHMS, "```"])
    return (
        "# Methods\n\nChoose one with `algorithm=NAME`. Each brings its usual meta-gradient "
        "estimator, which `gradient=` changes.\n\n"
        + table(("method", "what it does", "paper", "`gradient=`"), rows)
        + f"\n{contents}\n"
    )


def _page(name: str, own: list[Any]) -> str:
    entry = ALGORITHMS[name]
    module = importlib.import_module(getattr(entry.make, "func", entry.make).__module__)
    composed = settings_of("train", f"algorithm={name}")
    return "\n\n".join(
        [
            f"# `algorithm={name}`",
            f"{entry.summary[0].upper()}{entry.summary[1:]}. Paper: {linked_papers(entry.source)}.",
            f"## Mathematics\n\nFrom `{module.__name__}`:",
            linked_papers(markdown(module.__doc__ or "")),
            "## Settings",
            f"Meta-gradient: `gradient={composed['gradient']['name']}`.",
            _changed(composed["algorithm"]),
            _own(own),
            f"## Try it\n\n```bash\ndmeta train algorithm={name} task=glyphs steps=200\n```\n",
        ]
    )


def _changed(settings: dict[str, Any]) -> str:
    """The keys of the inner loop that the method sets, with their values."""
    defaults = {f.name: f.default for f in dataclasses.fields(InnerLoop)}
    if not defaults.keys() & settings.keys():
        return "It has no keys of the [inner loop](../settings.md#the-inner-loop)."
    changed = {k: v for k, v in settings.items() if k in defaults and v != defaults[k]}
    if not changed:
        return "The [inner loop](../settings.md#the-inner-loop) has its default settings."
    rows = [(f"`algorithm.{key}`", value_text(value)) for key, value in changed.items()]
    return "It sets these keys of the [inner loop](../settings.md#the-inner-loop):\n\n" + table(
        ("key", "value"), rows
    )


def _own(settings: list[Any]) -> str:
    if not settings:
        return "It has no keys of its own."
    rows = (setting.row() for setting in settings)
    return "Keys of its own:\n\n" + table(("key", "type", "default", "meaning"), rows)
