"""Which characters of Omniglot are for training, validation and test, by each published rule."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, TypeAlias

from dmeta.tasks.source import Split

SplitRule: TypeAlias = Literal["finn", "vinyals", "lake"]

FINN_TRAIN, FINN_VAL = 1100, 100

VINYALS_VAL = frozenset(
    {"Armenian", "Bengali", "Early_Aramaic", "Hebrew", "Mkhedruli_(Georgian)"}
)  # fmt: skip
VINYALS_TEST = frozenset(
    {
        "Kannada", "Keble", "Malayalam", "Manipuri", "Mongolian",
        "Old_Church_Slavonic_(Cyrillic)", "Oriya", "Sylheti", "Syriac_(Serto)", "Tengwar",
        "Tibetan", "ULOG",
    }
)  # fmt: skip
LAKE_VAL_ALPHABETS = 5


def split_of_each(
    rule: SplitRule, characters: Sequence[str], background: Sequence[str]
) -> list[Split]:
    """The split of each character.

    Args:
        rule: whose split.
        characters: as ``Greek/character01``.
        background: the background alphabets, sorted.
    """
    if rule == "finn":
        return _finn_splits(characters)
    if rule == "vinyals":
        return [_vinyals_split(name) for name in characters]
    return [_lake_split(name, background) for name in characters]


def _finn_splits(characters: Sequence[str]) -> list[Split]:
    """1,200 characters at random to train, "irrespective of alphabet", the rest to test.

    Finn et al. 2017, section 5.2; their code validates on 100 of the 1,200. Theirs depends on the
    order in which a file system lists folders; this one is in the order of the SHA-256 of the
    names.
    """
    order = sorted(characters, key=lambda name: hashlib.sha256(name.encode()).digest())
    rank = {name: position for position, name in enumerate(order)}

    def split_of(name: str) -> Split:
        if rank[name] < FINN_TRAIN:
            return "train"
        return "val" if rank[name] < FINN_TRAIN + FINN_VAL else "test"

    return [split_of(name) for name in characters]


def _vinyals_split(character: str) -> Split:
    """The split of Vinyals et al. 2016 as published with later code: by alphabet, except one."""
    alphabet, _, number = character.partition("/character")
    if alphabet == "Gurmukhi":
        return "train" if int(number) <= 41 else "test"
    if alphabet in VINYALS_VAL:
        return "val"
    return "test" if alphabet in VINYALS_TEST else "train"


def _lake_split(character: str, background: Sequence[str]) -> Split:
    """Background alphabets train, but for the last 5 by name (val); evaluation alphabets test.

    Lake et al. 2015 have no validation split; those 5 are this project's choice.
    """
    alphabet = character.split("/")[0]
    if alphabet not in background:
        return "test"
    return "val" if alphabet in background[-LAKE_VAL_ALPHABETS:] else "train"
