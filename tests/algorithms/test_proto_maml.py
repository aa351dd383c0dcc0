"""ProtoMAML."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dmeta.bilevel.estimators import Checkpointed, exact
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import recording, stop_gradient
from dmeta.bilevel.types import Adapted, Stage
from tests.bilevel.problems import (
    EVALUATION,
    TRAINING,
    first_task,
    flat,
    problem,
    relative_error,
)


@pytest.mark.parametrize("model", ["mlp", "conv4", "conv4_strided"])
def test_it_starts_as_the_prototypical_network(model: str) -> None:
    """Snell et al. 2017, eq. 8: the logits differ by the same number for every class."""
    at, proto = (problem(model, algorithm=a) for a in ("proto_maml", "protonet"))
    task = first_task(at)
    states: list[Adapted] = []
    at.algorithm.adapt(at.params, task.support, recording(states.append), EVALUATION)
    means = proto.algorithm.adapt(at.params, task.support, stop_gradient, EVALUATION)
    got, want = (
        learner.predict(state, task.query.x).log_softmax(1)
        for learner, state in ((at.algorithm, states[0]), (proto.algorithm, means))
    )
    torch.testing.assert_close(got, want)
    moved = at.algorithm.predict(states[1], task.query.x).log_softmax(1)
    assert (moved - want).abs().max() > 1e-6


@pytest.mark.parametrize(
    ("adapt", "same"), [("all", False), ("head", True), ("body", False), (("*.bias",), False)]
)
def test_the_last_layer_is_the_head(adapt: Any, same: bool) -> None:
    at = problem("mlp", algorithm="proto_maml", adapt=adapt)
    states: list[Adapted] = []
    at.algorithm.adapt(at.params, first_task(at).support, recording(states.append), TRAINING)
    assert all(torch.equal(states[-1][n], p) for n, p in at.params.items()) == same
    weight = "prototypes.weight"
    left = adapt == "body" or isinstance(adapt, tuple)
    assert torch.equal(states[-1][weight], states[0][weight]) == left


@pytest.mark.parametrize("learned", ["per_tensor", "per_tensor_and_step"])
def test_tasks_may_have_any_number_of_ways(learned: str) -> None:
    at = problem("mlp", algorithm="proto_maml", learn_inner_lr=learned)
    assert "inner_lr/prototypes.bias" in at.params
    task = first_task(at)
    for ways in (3, 7):
        stage = Stage(training=True, ways=ways)
        adapted = at.algorithm.adapt(at.params, task.support, stop_gradient, stage)
        assert at.algorithm.predict(adapted, task.query.x).shape == (5, ways)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"learn_inner_lr": "per_element"}, r"learn_inner_lr must be per_tensor or"),
        ({"precondition": "curvature"}, r"precondition must be null"),
        ({"inner_chain": ["curvature", "rate"]}, r"inner_chain must learn nothing of the last"),
    ],
)
def test_what_is_learned_for_each_weight_of_the_last_layer_is_refused(
    options: dict[str, Any], rule: str
) -> None:
    with pytest.raises(ValueError, match=rf"algorithm\.{rule}"):
        problem("mlp", algorithm="proto_maml", **options)
    problem("mlp", algorithm="proto_maml", adapt="body", **options)


def test_the_sweep_goes_back_through_the_prototypes() -> None:
    at = problem("mlp", algorithm="proto_maml", inner_steps=4, inner_lr=0.1)
    got, want = (
        flat(block_gradient("vmap", e, at.algorithm, at.params, at.tasks, TRAINING).gradients)
        for e in (Checkpointed(), exact)
    )
    assert relative_error(got, want) < 1e-12
