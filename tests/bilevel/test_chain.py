"""A chain of inner transforms: contracts of each, composition, and a transform of one's own."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

import dmeta
from dmeta.bilevel.chain import Chain, meta_parameters
from dmeta.bilevel.estimators import Checkpointed, exact
from dmeta.bilevel.implicit import Implicit
from dmeta.bilevel.inner import State
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import unrolled
from dmeta.bilevel.transforms import TRANSFORMS
from dmeta.bilevel.transforms.rate import Rate
from dmeta.bilevel.types import Params
from dmeta.registry import Entry
from tests.bilevel.problems import TRAINING, Problem, first_task, flat, problem, relative_error

FACTOR = "inner_gated/"


@dataclasses.dataclass(frozen=True)
class Gated:
    """Multiplies each row of an update by a learned factor and by the number of steps, halved.

    Attributes:
        start: initial value of the factors.
    """

    start: float = 1.0

    def meta_parameters(self, params: Params, num_steps: int) -> dict[str, Tensor]:
        return {FACTOR + n: p.new_full(p.shape[:1], self.start) for n, p in params.items()}

    def init(self, params: Params) -> State:
        return next(iter(params.values())).new_zeros(())

    def update(
        self, update: Params, state: State, params: Params, step: int, meta: Params
    ) -> tuple[Params, State]:
        shapes = {n: (-1,) + (1,) * (u.dim() - 1) for n, u in update.items()}
        return {
            n: (1 + state / 2) * meta[FACTOR + n].reshape(shapes[n]) * u for n, u in update.items()
        }, state + 1


def params() -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    shapes = {"weight": (3, 2), "conv": (2, 3, 2, 2), "bias": (3,)}
    return {n: torch.randn(s, generator=rng, dtype=torch.float64) for n, s in shapes.items()}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_keeps_shapes_and_structure_and_changes_nothing_in_place(name: str) -> None:
    transform: Any = TRANSFORMS[name].make()
    weights = params()
    meta = transform.meta_parameters(weights, 2)
    start = {**weights, **{n: p for n, p in meta.items() if n.startswith("inner_moment")}}
    gradients = {n: torch.ones_like(p) for n, p in start.items()}
    before = pytree.tree_map(torch.clone, (start, gradients, meta))
    state = transform.init(start)
    for step in range(3):
        update, after = transform.update(gradients, state, start, step, meta)
        assert {n: update[n].shape for n in weights} == {n: p.shape for n, p in weights.items()}
        assert pytree.tree_structure(after) == pytree.tree_structure(state)
        assert all(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(after))
        state = after
    pytree.tree_map(torch.testing.assert_close, before, (start, gradients, meta))


@pytest.mark.parametrize("name", [name for name in TRANSFORMS if name != "carried_adam"])
def test_plans_and_estimators_agree_on_each_transform(name: str) -> None:
    at = problem("mlp", "regression", inner_chain=[name, "rate"], inner_lr=0.02, inner_steps=3)
    got = {
        (estimator, plan): block_gradient(
            plan, made, at.algorithm, at.params, at.tasks, TRAINING, None
        )
        for estimator, made in (("exact", exact), ("checkpointed", Checkpointed()))
        for plan in ("loop", "vmap")
    }
    first = flat(got["exact", "loop"].gradients)
    assert first.isfinite().all()
    assert first.any()
    for each in got.values():
        assert relative_error(flat(each.gradients), first) < 1e-10


def chained(*chain: Any, **options: Any) -> Problem:
    return problem("mlp", "regression", inner_chain=chain, inner_lr=0.05, inner_steps=4, **options)


SAME: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "clip, momentum": (
        {"inner_clip_norm": 0.5, "inner_momentum": 0.9},
        [{"name": "clip", "max_norm": 0.5}, {"name": "momentum", "decay": 0.9}, "rate"],
    ),
    "curvature, learned rates": (
        {"precondition": "curvature", "learn_inner_lr": "per_element"},
        ["curvature", {"name": "rate", "learn_inner_lr": "per_element"}],
    ),
    "lstm": ({"inner_optimizer": "lstm"}, ["lstm", "rate"]),
}


@pytest.mark.parametrize("name", SAME)
def test_the_settings_are_a_chain(name: str) -> None:
    settings, chain = SAME[name]
    old = problem("mlp", "regression", inner_lr=0.05, inner_steps=4, **settings)
    new = chained(*chain)
    assert list(old.params) == list(new.params)
    one, other = (
        block_gradient("loop", exact, p.algorithm, p.params, p.tasks, TRAINING, None)
        for p in (old, new)
    )
    assert all(torch.equal(one.gradients[n], other.gradients[n]) for n in old.params)


def test_a_chain_of_nothing_steps_along_the_gradient() -> None:
    weights = params()
    after, _ = Chain((), {}).update(weights, weights, (), 0)
    assert not flat(after).any()


def test_a_ready_transform_is_taken_as_it_is() -> None:
    at = chained(Gated(0.5), Rate(0.1))
    assert [n for n in at.params if n.startswith(FACTOR)] == [
        FACTOR + n for n in at.params if "/" not in n
    ]
    adapted = at.algorithm.adapt(at.params, first_task(at).support, unrolled, TRAINING)
    assert set(adapted) == {n for n in at.params if "/" not in n}


def test_an_own_transform_is_differentiated_through_what_it_learns() -> None:
    at = chained("momentum", Gated(0.7), "rate")
    result = block_gradient("vmap", exact, at.algorithm, at.params, at.tasks, TRAINING, None)
    h, ends = 1e-6, []
    for sign in (1, -1):
        moved = {n: p + sign * h if n.startswith(FACTOR) else p for n, p in at.params.items()}
        block = block_gradient("loop", exact, at.algorithm, moved, at.tasks, TRAINING, None)
        ends.append(float(block.losses.sum()))
    factors = [g.sum() for n, g in result.gradients.items() if n.startswith(FACTOR)]
    slope = (ends[0] - ends[1]) / (2 * h)
    assert float(torch.stack(factors).sum()) == pytest.approx(slope, rel=1e-6)


def test_a_registered_transform_is_meta_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Entry(Gated, "rows times a factor", "this test")
    monkeypatch.setattr(TRANSFORMS, "_builtin", {**TRANSFORMS.builtin, "gated": entry})
    run = tmp_path / "run"
    settings = {
        "task": "sinusoid", "model.hidden": 8, "runtime": "local", "steps": 3, "run_dir": str(run),
        "eval.num_tasks": 2, "eval.val_tasks": 2, "meta_batch_size": 2, "algorithm.inner_steps": 2,
        "algorithm.inner_chain": [{"name": "gated", "start": 0.5}, "nesterov", "rate"],
    }  # fmt: skip
    dmeta.train(settings)
    learned = dmeta.load(run).meta_params
    factors = torch.cat([p.flatten() for n, p in learned.items() if n.startswith(FACTOR)])
    assert factors.numel() > 8
    assert (factors != 0.5).any()


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (["clp"], {}, r"algorithm\.inner_chain\[0\]: transform must be one of .*did you mean 'clip'"),
    ([{"name": "clip", "max_nrm": 1}], {}, r"unknown key 'algorithm\.inner_chain\[0\]\.max_nrm'"),
    (["rate", {"name": "clip", "max_norm": 0}], {}, r"inner_chain\[1\]\.max_norm must be > 0"),
    (["rate", 3], {}, r"inner_chain\[1\] must be the name of a transform, or its name and options"),
    ("clip", {}, r"inner_chain must be a list such as \[\.\.\.\] or null, got 'clip'"),
    (["rate"], {"inner_momentum": 0.9}, r"inner_momentum must be 0 with algorithm\.inner_chain"),
    (["rate"], {"inner_optimizer": "adam"}, r"inner_optimizer must be sgd with .*inner_chain"),
    (["rate"], {"inner_clip_norm": 1.0}, r"inner_clip_norm must be null with .*inner_chain"),
]


@pytest.mark.parametrize(("chain", "options", "message"), REFUSED)
def test_a_wrong_chain_is_refused(chain: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        problem("mlp", inner_chain=chain, **options)


def test_what_a_transform_learns_has_one_name_of_its_own() -> None:
    twice = (Gated(), Gated())
    with pytest.raises(ValueError, match=r"must learn each meta-parameter once, got 'inner_gated"):
        meta_parameters(twice, params(), 1)

    class Misnamed(Gated):
        def meta_parameters(self, params: Params, num_steps: int) -> dict[str, Tensor]:
            return {"factor": torch.ones(())}

    with pytest.raises(ValueError, match=r"of Misnamed must be called inner_WORD/NAME, got 'fac"):
        meta_parameters((Misnamed(),), params(), 1)


@pytest.mark.parametrize(
    "options",
    [
        {"learn_inner_lr": "per_tensor"},
        {"precondition": "curvature"},
        {"inner_chain": ["lstm", "rate"]},
        {"inner_chain": [{"name": "rate", "learn_inner_lr": "per_element"}]},
    ],
    ids=str,
)
def test_the_implicit_gradient_refuses_a_rule_that_learns(options: dict[str, Any]) -> None:
    at = problem("mlp", "regression", "imaml", **options)
    with pytest.raises(ValueError, match=r"gradient=implicit must .* got inner_\w+/"):
        Implicit()(at.algorithm, at.params, first_task(at), TRAINING)
