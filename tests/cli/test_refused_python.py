"""Wrong settings from Python are refused as on the command line: one sentence, a ValueError."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import dmeta
from tests.cli.refusal import content, nothing_starts  # noqa: F401

pytestmark = pytest.mark.usefixtures("nothing_starts")

WRONG: list[tuple[Mapping[str, Any] | Sequence[str], str]] = [
    ({"stepz": 3, "steps": 1}, r"unknown key 'stepz' \(did you mean 'steps'\?\)"),
    ({"algorithm": "protonett"}, r"algorithm must be one of .*got 'protonett'.*'protonet'"),
    ({"algorithm": 3}, r"algorithm must be one of .*got '3'; choose one"),
    (
        {"algorithm": "protonet", "algorithm.inner_lr": 0.1, "task": "glyphs"},
        r"'algorithm.inner_lr', which is a key of algorithm=maml, .*; algorithm has name",
    ),
    ({"model.num_block": 3}, r"unknown key 'model.num_block' .*; model has name, hidden"),
    ({"model": {"num_block": 3}}, r"unknown key 'model.num_block'"),
    ({"steps": "???"}, r"steps must be given, got nothing; add steps="),
    (["steps=${nothing}"], r"'nothing' not found"),
    (["steps"], r"an override must be key=value .*got 'steps'"),
]
"""(what is passed, a pattern of the message)."""


@pytest.mark.parametrize(("settings", "words"), WRONG, ids=lambda each: str(each)[:40])
def test_a_wrong_name_is_said_in_one_sentence(settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        dmeta.train(settings)
    assert type(refused.value) is ValueError
    assert "\n\n" not in str(refused.value)
    assert content(Path()) == {}, "nothing is written"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        *WRONG[:2],
        ({"algorithm": "choice(maml,protonett)"}, r"algorithm must be one of .*got 'protonett'"),
        ({"algorithm.iner_lr": "interval(0.1,0.2)"}, r"did you mean 'algorithm.inner_lr'"),
    ],
)
def test_a_search_says_it_too(settings: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as refused:
        dmeta.tune(settings)
    assert type(refused.value) is ValueError


class Vectors:
    """A source of 3 numbers; it is never drawn from."""

    kind = "regression"
    input_shape = (3, 1, 1)


def test_a_wrong_name_beside_a_source_of_ones_own_is_said_too() -> None:
    with pytest.raises(ValueError, match=r"did you mean 'steps'") as refused:
        dmeta.train({"stepz": 3}, source=Vectors())  # type: ignore[arg-type]
    assert type(refused.value) is ValueError
