"""Hydra's sweep syntax as a space, and a point's values in composed settings."""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from dmeta.cli.settings.sweeps import Composer, space_of_preset, split_overrides
from dmeta.search.space import Choice, Interval, Space


@pytest.mark.parametrize(
    ("override", "dimension"),
    [
        ("outer.lr=0.001,0.01", Choice((0.001, 0.01))),
        ("algorithm=maml,fomaml", Choice(("maml", "fomaml"))),
        ("model.width=choice(32,64)", Choice((32, 64))),
        ("algorithm.adapt=all,[head.*,body.*]", Choice(("all", ["head.*", "body.*"]))),
        ("outer.clip_norm=null,1", Choice((None, 1))),
        ("joint_baseline=true,false", Choice((True, False))),
        ("x.y=interval(0.01,1)", Interval(0.01, 1.0)),
        ("x.y=interval(0,1)", Interval(0.0, 1.0)),
        ("x.y=tag(log,interval(0.01,1))", Interval(0.01, 1.0, log=True)),
        ("x.y=int(interval(1,5))", Interval(1, 5, whole=True)),
        ("x.y=tag(log,int(interval(1,64)))", Interval(1, 64, log=True, whole=True)),
        ("x.y=range(1,8)", Interval(1, 7, whole=True)),
        ("x.y=range(3)", Interval(0, 2, whole=True)),
        ("x.y=range(1,8,3)", Choice((1, 4, 7))),
        ("x.y=range(0,0.3,0.1)", Choice((0.0, 0.1, 0.2))),
        ("x.y=sort(3,1,2)", Choice((1, 2, 3))),
        ("model=glob(conv4*)", Choice(("conv4", "conv4_strided"))),
        ("+x.y=1,2", Choice((1, 2))),
    ],
)
def test_every_sweep_of_hydra_is_a_dimension(override: str, dimension: object) -> None:
    fixed, space = split_overrides(["steps=3", override, "hydra.verbose=true", "--cfg", "job"])
    assert fixed == ["steps=3", "hydra.verbose=true", "--cfg", "job"]
    [(key, found)] = space.items()
    assert key == override.lstrip("+").partition("=")[0]
    assert found == dimension
    assert isinstance(found, Choice | Interval)
    assert [type(v) for v in found.ends] == [type(v) for v in dimension.ends]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("x.y=1,1", "different values, got 1 twice"),
        ("x.y=shuffle(range(5))", "leave shuffle out"),
        ("x.y=tag(log,interval(0,1))", "above 0"),
        ("x.y=interval(1,0)", "from a number to a larger one"),
        ("model=glob(nothing*)", "at least one value"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_refused_by_name(override: str, match: str) -> None:
    with pytest.raises(ValueError, match=match) as error:
        split_overrides([override])
    assert override in str(error.value)


def test_a_preset_may_have_conditions() -> None:
    preset: dict[str, Any] = {
        "algorithm": ["maml", "leo"],
        "outer.lr": "tag(log,interval(0.001,0.01))",
        "algorithm=leo": {"algorithm.latent_lr": "choice(0.5,1.0)"},
    }
    space = space_of_preset(preset)
    assert space == Space(
        {"algorithm": Choice(("maml", "leo")), "outer.lr": Interval(0.001, 0.01, log=True)},
        {"algorithm=leo": Space({"algorithm.latent_lr": Choice((0.5, 1.0))})},
    )
    with pytest.raises(ValueError, match=r"search\.space must have several values for outer\.lr"):
        space_of_preset({"outer.lr": 0.1})
    with pytest.raises(ValueError, match="a group of keys under 'algorithm=leo'"):
        space_of_preset({**preset, "algorithm=leo": 3})


def test_a_point_changes_what_it_names_and_nothing_else() -> None:
    composer = Composer(("task=glyphs", "steps=30", "search=asha"))
    base = composer({})
    point = {"algorithm": "anil", "outer.lr": 0.5, "algorithm.inner_steps": 3, "meta_batch_size": 2}
    changed = composer(point)
    assert (changed.algorithm.name, changed.outer.lr, changed.meta_batch_size) == ("anil", 0.5, 2)
    assert changed.algorithm.options["inner_steps"] == 3
    assert changed.algorithm.options["adapt"] == "head"  # ANIL's own, from its file
    assert (changed.task, changed.steps, changed.model) == (base.task, 30, base.model)
    assert composer({}) == base  # nothing of the point is left behind
    assert pickle.loads(pickle.dumps(composer)) == composer


def test_a_key_that_a_choice_has_not_is_left_out_there() -> None:
    composer = Composer(("task=glyphs",))
    point = {"algorithm": "protonet", "algorithm.inner_lr": 0.1, "outer.lr": 0.5}
    config = composer(point)
    assert config.algorithm.name == "protonet"
    assert "inner_lr" not in config.algorithm.options
    assert config.outer.lr == 0.5


def test_a_key_that_no_choice_has_is_refused_with_the_nearest() -> None:
    composer = Composer(("task=glyphs",))
    methods = Choice(("maml", "protonet"))
    composer.check(Space({"algorithm": methods, "algorithm.inner_lr": Interval(0.1, 1)}))
    with pytest.raises(
        ValueError, match=r"unknown key 'algorithm.iner_lr' \(did you mean 'algorithm.inner_lr'"
    ):
        composer.check(Space({"algorithm": methods, "algorithm.iner_lr": Interval(0.1, 1)}))
    with pytest.raises(ValueError, match=r"unknown key 'stepps' \(did you mean 'steps'"):
        composer.check(Space({"stepps": Choice((1, 2))}))


def test_a_value_of_the_wrong_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"outer\.lr must be a number, got 'much'"):
        Composer(())({"outer.lr": "much"})
