"""Random numbers of a task: functions of its seed and a name, the same under every plan."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dmeta.bilevel.noise import Noise
from dmeta.bilevel.plans import for_each_task
from dmeta.bilevel.types import Stage

SEEDS = torch.tensor([0, 1, 2**32 - 1])


def noise(seed: int) -> Noise:
    return Noise.of(Stage(training=True, ways=3, task_seed=seed))


def test_evaluation_is_silent() -> None:
    silent = Noise.of(Stage(training=False, ways=3, task_seed=5))
    mean, std = torch.randn(4, 3), torch.ones(4, 3)
    assert silent.sample(mean, std, "z") is mean
    assert silent.dropout(mean, 0.5, "x") is mean


def test_a_name_and_a_seed_say_which_numbers() -> None:
    zeros, ones = torch.zeros(50), torch.ones(50)

    def draw(seed: int, name: str) -> Tensor:
        return noise(seed).sample(zeros, ones, name)

    assert torch.equal(draw(1, "weights 0"), draw(1, "weights 0"))
    others = [draw(2, "weights 0"), draw(1, "weights 1"), draw(1, "codes")]
    assert not any(torch.equal(draw(1, "weights 0"), other) for other in others)


def test_draws_have_the_moments_that_they_should() -> None:
    mean, std = torch.tensor(3.0, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    drawn = noise(0).sample(mean.expand(20_000), std.expand(20_000), "z")
    assert drawn.dtype == torch.float64
    assert abs(drawn.mean() - 3) < 4 * 0.5 / 20_000**0.5
    assert abs(drawn.std() - 0.5) < 0.01


@pytest.mark.parametrize("rate", [0.2, 0.7])
def test_dropout_scales_what_it_leaves(rate: float) -> None:
    dropped = noise(0).dropout(torch.ones(20_000), rate, "x")
    kept = dropped[dropped != 0]
    assert torch.allclose(kept, torch.tensor(1 / (1 - rate)))
    assert abs(len(kept) / 20_000 - (1 - rate)) < 0.02
    x = torch.ones(3)
    assert noise(0).dropout(x, 0.0, "x") is x


def test_plans_draw_the_same_numbers_and_differentiate_through_them() -> None:
    """Also within torch.func.grad, where an inner loop's objective draws."""
    start = torch.ones(3, requires_grad=True)

    def adapted(seed: Tensor) -> Tensor:
        drawn = Noise(seed)

        def objective(w: Tensor) -> Tensor:
            value: Tensor = drawn.dropout(drawn.sample(w, w, "w"), 0.5, "x").square().sum()
            return value

        return start - 0.1 * torch.func.grad(objective)(start)

    loop, vmap = (for_each_task(plan, adapted, SEEDS) for plan in ("loop", "vmap"))  # type: ignore[arg-type]
    assert torch.equal(loop, vmap)
    assert len({tuple(row) for row in loop.tolist()}) == len(SEEDS)
    loop_gradient, vmap_gradient = (torch.autograd.grad(o.sum(), start) for o in (loop, vmap))
    assert torch.allclose(loop_gradient[0], vmap_gradient[0])


def test_torchs_own_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    noise(3).dropout(torch.ones(5), 0.5, "x")
    assert torch.equal(torch.random.get_rng_state(), before)
