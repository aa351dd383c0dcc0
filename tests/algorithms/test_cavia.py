"""CAVIA."""

from __future__ import annotations

import pytest
import torch

from dmeta.bilevel.estimators import exact
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import recording
from dmeta.bilevel.types import Adapted
from tests.bilevel.problems import (
    TRAINING,
    first_task,
    problem,
)


@pytest.mark.parametrize("model", ["mlp", "conv4", "conv4_strided"])
def test_cavia_moves_the_context_from_zero_and_learns_the_rest(model: str) -> None:
    at = problem(model, algorithm="cavia", inner_steps=2)
    contexts = [n for n in at.algorithm.network.names if n.split(".")[-1] == "context"]
    assert len(contexts) == 1
    assert contexts[0] not in at.params
    states: list[Adapted] = []
    at.algorithm.adapt(at.params, first_task(at).support, recording(states.append), TRAINING)
    assert not states[0][contexts[0]].any()
    assert states[1][contexts[0]].any()
    for state in states:
        assert all(torch.equal(state[name], p) for name, p in at.params.items())
    gradients = block_gradient("vmap", exact, at.algorithm, at.params, at.tasks, TRAINING).gradients
    # A convolution's bias before batch-norm has no effect, hence no gradient.
    assert sum(float(g.norm()) > 1e-9 for g in gradients.values()) >= len(gradients) - 4
