"""Describes a data set that is there, and one that is missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataSetStatus:
    """What was found of one data set.

    Attributes:
        name: the task's name in the registry.
        needs_data: whether it reads files at all; if not, it is always complete.
        complete: whether it can be loaded as it stands.
        where: files or folders that were found, or were looked for if none was.
        found: what they hold, in words.
        missing: what is not there, one item a line.
        how_to_get: what to do about it.
    """

    name: str
    needs_data: bool
    complete: bool
    where: tuple[str, ...]
    found: str
    missing: tuple[str, ...]
    how_to_get: str


class MissingDataError(ValueError):
    """A data set, or part of it, is not there: what, where it was looked for, how to get it."""

    def __init__(
        self, name: str, missing: str, looked_in: Sequence[Path | str], how_to_get: str
    ) -> None:
        self.name = name
        places = ", ".join(str(place) for place in looked_in)
        super().__init__(
            f"{name} must be complete to be read, got {missing} (looked in {places}); {how_to_get}"
        )

    def __reduce__(self) -> tuple[type[ValueError], tuple[str]]:
        # The default would call __init__ with the message alone, and fail in another process.
        return (ValueError, (str(self),))
