"""Operations of the meta-gradients of all methods, which a run counts to choose its plan."""

from __future__ import annotations

import pytest
from torch.utils.flop_counter import FlopCounterMode

from dmeta.algorithms import ALGORITHMS
from dmeta.bilevel import ESTIMATORS
from dmeta.bilevel.plans import block_gradient
from dmeta.training.autotune.operations import operations_of
from tests.bilevel.problems import TRAINING, problem


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_they_are_those_that_torch_counts(algorithm: str) -> None:
    at = problem("conv4_strided", algorithm=algorithm)
    estimator = ESTIMATORS[ALGORITHMS[algorithm].gradient].make()

    def compute() -> None:
        block_gradient("loop", estimator, at.algorithm, at.params, at.tasks, TRAINING)

    found = operations_of(compute)
    if algorithm == "cavia":  # torch's own counter cannot
        assert found > 0
        return
    with FlopCounterMode(display=False) as counter:
        compute()
    assert found == counter.get_total_flops() > 0
