"""Checks of a task's size that every source shares; they name the config key to change."""

from __future__ import annotations

from dmeta.tasks.source import SPLITS, EpisodeSize, Split


def key(split: Split, name: str) -> str:
    """The config key behind `name` (ways, shots or queries): training may have its own."""
    return f"task.train_{name} (or task.{name})" if split == "train" else f"task.{name}"


def check_split(split: str) -> None:
    """Raises ValueError if `split` is no split."""
    if split not in SPLITS:
        raise ValueError(
            f"split must be one of {', '.join(SPLITS)}, got {split!r}; use one of them"
        )


def check_positive(split: Split, size: EpisodeSize) -> None:
    """Raises ValueError unless the split exists and ways, shots and queries are all at least 1."""
    check_split(split)
    for name in ("ways", "shots", "queries"):
        value = getattr(size, name)
        if value < 1:
            raise ValueError(f"{name} must be >= 1, got {value}; raise {key(split, name)}")
