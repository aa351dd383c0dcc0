"""Docstrings and types as Markdown."""

from __future__ import annotations

import inspect
import re
import types
import typing
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from dmeta.typed_values import bounds_of


def type_text(hint: Any) -> str:
    """A type as a reader of settings writes its values."""
    if hint is type(None):
        return "null"
    if typing.get_origin(hint) is typing.Annotated:
        bounds = ", ".join(f"{sign} {bound:g}" for sign, bound in bounds_of(hint))
        return f"{type_text(typing.get_args(hint)[0])} {bounds}".rstrip()
    if typing.get_origin(hint) is Literal:
        return " \\| ".join(f"`{value}`" for value in typing.get_args(hint))
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " \\| ".join(type_text(each) for each in typing.get_args(hint))
    if typing.get_origin(hint) is not None:
        return "list"
    names = {int: "whole number", float: "number", bool: "true \\| false", str: "text"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def value_text(value: Any) -> str:
    """A default as it is written on a command line."""
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`" if value != "" else "(empty)"


def markdown(docstring: str) -> str:
    """A docstring as Markdown: indented lines are code, double backticks are single ones."""
    blocks = re.split(r"\n\s*\n", inspect.cleandoc(docstring).strip())
    merged: list[str] = []
    for block in blocks:
        code = all(line.startswith("    ") for line in block.splitlines())
        if not code:
            merged.append(_prose(block))
        elif merged and merged[-1].endswith("\n```"):
            body = merged[-1].removesuffix("\n```")
            merged[-1] = f"{body}\n\n{_dedented(block)}\n```"
        else:
            merged.append(f"```text\n{_dedented(block)}\n```")
    return "\n\n".join(merged) + "\n"


def cell(text: str) -> str:
    """Text for a cell of a table: a sentence, with ``null`` as settings write it."""
    plain = re.sub(r"\bNone\b", "`null`", re.sub(r"\s+", " ", _prose(text)))
    return (plain[:1].upper() + plain[1:]).replace("|", "\\|")


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the cells are Markdown already."""
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines) + "\n"


def linked_papers(text: str) -> str:
    """``arXiv:1703.03400`` as a link to it."""
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def _dedented(block: str) -> str:
    lines = block.splitlines()
    margin = min(len(line) - len(line.lstrip()) for line in lines if line.strip())
    return "\n".join(line[margin:] for line in lines)


def _prose(block: str) -> str:
    text = block.replace("``", "`")
    return re.sub(r"(?<![`\w])\|([^|`\n]+)\|(?![`\w])", r"`|\1|`", text)
