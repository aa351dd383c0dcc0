"""What a check of `dmeta doctor` says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Level: TypeAlias = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        level: ``problem``: dmeta, or much of it, does not work; ``warning``: part of it does not,
            or is slow.
        found: what there is.
        remedy: what to do; empty where nothing needs to be done.
    """

    level: Level
    found: str
    remedy: str = ""
