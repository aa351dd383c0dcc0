"""Spaces as plain data: points, conditions, grids, and what is tried before a search."""

from __future__ import annotations

import pytest

from dmeta.search.space import Choice, Interval, Space, grid, has_key, probes, resolved_point

METHODS = Space(
    {"algorithm": Choice(("maml", "leo", "protonet")), "outer.lr": Interval(1e-4, 1e-2, log=True)},
    {
        "algorithm=maml": Space({"algorithm.inner_steps": Interval(1, 3, whole=True)}),
        "algorithm=leo": Space(
            {"algorithm.dropout": Choice((0.0, 0.3))},
            {"algorithm.dropout=0.3": Space({"algorithm.kl_weight": Choice((0.1, 1.0))})},
        ),
    },
)


def test_a_point_is_settled_to_what_its_choices_allow() -> None:
    point = {
        "algorithm": "leo",
        "outer.lr": 0.001,
        "algorithm=maml": {"algorithm.inner_steps": 2},
        "algorithm=leo": {
            "algorithm.dropout": 0.3,
            "algorithm.dropout=0.3": {"algorithm.kl_weight": 0.1},
        },
    }
    assert resolved_point(point) == {
        "algorithm": "leo",
        "outer.lr": 0.001,
        "algorithm.dropout": 0.3,
        "algorithm.kl_weight": 0.1,
    }
    assert resolved_point({**point, "algorithm": "protonet"}) == {
        "algorithm": "protonet",
        "outer.lr": 1e-3,
    }


def test_a_grid_has_every_point_once_and_only_what_its_conditions_allow() -> None:
    space = Space({"algorithm": METHODS.dimensions["algorithm"]}, METHODS.conditions)
    points = [resolved_point(point) for point in grid(space)]
    assert points == [
        {"algorithm": "maml", "algorithm.inner_steps": 1},
        {"algorithm": "maml", "algorithm.inner_steps": 2},
        {"algorithm": "maml", "algorithm.inner_steps": 3},
        {"algorithm": "leo", "algorithm.dropout": 0.0},
        {"algorithm": "leo", "algorithm.dropout": 0.3, "algorithm.kl_weight": 0.1},
        {"algorithm": "leo", "algorithm.dropout": 0.3, "algorithm.kl_weight": 1.0},
        {"algorithm": "protonet"},
    ]
    with pytest.raises(ValueError, match=r"outer\.lr=tag\(log,interval\(0\.0001,0\.01\)\)"):
        grid(METHODS)


def test_the_ends_of_every_key_are_tried_under_every_choice_of_a_group() -> None:
    tried = probes(METHODS)
    assert {point["algorithm"] for point in tried} == {"maml", "leo", "protonet"}
    for name in ("maml", "leo", "protonet"):
        assert {p["outer.lr"] for p in tried if p["algorithm"] == name} == {1e-4, 1e-2}
    assert {p["algorithm.inner_steps"] for p in tried if p["algorithm"] == "maml"} == {1, 3}
    assert all("algorithm.dropout" in p for p in tried if p["algorithm"] == "leo")
    assert {p.get("algorithm.kl_weight") for p in tried} == {None, 0.1, 1.0}


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Choice(()), "at least one value"),
        (lambda: Choice((1, 2, 1)), "different values, got 1 twice"),
        (lambda: Interval(1, 1), "from a number to a larger one"),
        (lambda: Interval(0, float("inf")), "larger one"),
        (lambda: Interval(0, 1, log=True), "above 0"),
        (lambda: Space({}, {"algorithm=maml": Space({})}), "a choice of the space"),
        (
            lambda: Space({"algorithm": Choice(("maml", "leo"))}, {"algorithm=mamm": Space({})}),
            "did you mean 'algorithm=maml'",
        ),
    ],
)
def test_a_space_that_makes_no_sense_is_refused(make: object, match: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=match):
        make()


def test_one_and_true_are_different_values() -> None:
    assert Choice((1, True, 1.0)).values == (1, True, 1.0)


def test_a_key_is_found_in_nested_settings() -> None:
    settings = {"outer": {"lr": None}, "steps": 3}
    assert has_key(settings, "outer.lr")
    assert has_key(settings, "steps")
    assert not has_key(settings, "outer.lrr")
    assert not has_key(settings, "steps.x")
