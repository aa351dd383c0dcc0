"""Options of factories: their defaults as plain data, and values checked against their types."""

from __future__ import annotations

import enum
import functools
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from dmeta.declared import REQUIRED
from dmeta.options import NamedOptions, checked_options, default_options, refuse_unread

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]


class Flavour(enum.Enum):
    SWEET = "sweet"
    SOUR = "sour"


@dataclass(frozen=True)
class Steps:
    lr: float = 0.1
    count: int = 2


@dataclass(frozen=True)
class Factory:
    network: object
    width: int
    steps: Steps = field(default_factory=lambda: Steps(lr=0.5))
    root: Path = Path("data")
    flavour: Flavour = Flavour.SWEET
    sizes: tuple[int, ...] = (1, 2)
    bound: float = math.inf
    named: Any = len
    other: Unknown = 3


def test_defaults_are_plain_and_what_is_not_is_left_out() -> None:
    assert default_options(Factory) == {
        "width": REQUIRED,
        "lr": 0.5,
        "count": 2,
        "root": "data",
        "flavour": "sweet",
        "sizes": [1, 2],
        "other": 3,
    }


def test_values_become_what_the_factory_declares() -> None:
    given = {"width": 3, "count": 5, "root": "there", "flavour": "sour", "sizes": [4]}
    options = checked_options(Factory, NamedOptions("factory", given), "model")
    assert options == {
        "width": 3,
        "steps": Steps(0.5, 5),
        "root": Path("there"),
        "flavour": Flavour.SOUR,
        "sizes": (4,),
    }
    with pytest.raises(ValueError, match=r"model\.width must be a whole number, got 'wide'"):
        checked_options(Factory, NamedOptions("factory", {"width": "wide"}), "model")


@pytest.mark.parametrize(
    "make", [functools.partial(Factory, width=3), lambda network, width=3, **rest: None]
)
def test_partials_and_functions_are_factories_too(make: Any) -> None:
    assert default_options(make)["width"] == 3
    assert checked_options(make, NamedOptions("factory", {"width": 4}), "model") == {"width": 4}
    with pytest.raises(ValueError, match=r"unknown key 'model\.widht' \(did you mean 'width'"):
        checked_options(make, NamedOptions("factory", {"widht": 4}), "model")


@dataclass(frozen=True)
class Convex:
    """Reads `strength` if it is to."""

    ridge: bool = False
    strength: float = 1.0


def test_a_setting_that_nothing_reads_is_refused_but_at_its_default() -> None:
    refuse_unread(Convex(), ["strength"], "algorithm", "algorithm.ridge=true")
    message = r"algorithm\.strength must not be set without algorithm\.ridge=true, .*got 3\.0"
    with pytest.raises(ValueError, match=message):
        refuse_unread(Convex(strength=3.0), ["strength"], "algorithm", "algorithm.ridge=true")
