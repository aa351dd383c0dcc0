"""Random numbers of a task: functions of its seed and a name, the same under every plan."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy.stats import kstest
from torch import Tensor

from dmeta.bilevel.plans import for_each_task
from dmeta.randomness import (
    Noise,
    numbers_for,
    random_bits,
    random_normal,
    random_order,
    random_uniform,
    seeded_generator,
    task_numbers,
)

SEEDS = torch.tensor([0, 1, 2**32 - 1])


def noise(seed: int) -> Noise:
    return Noise(torch.tensor(seed))


def test_without_a_seed_everything_is_its_expectation() -> None:
    silent = Noise(None)
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

    loop, vmap = (for_each_task(plan, adapted, SEEDS, SEEDS) for plan in ("loop", "vmap"))  # type: ignore[arg-type]
    assert torch.equal(loop, vmap)
    assert len({tuple(row) for row in loop.tolist()}) == len(SEEDS)
    loop_gradient, vmap_gradient = (torch.autograd.grad(o.sum(), start) for o in (loop, vmap))
    assert torch.allclose(loop_gradient[0], vmap_gradient[0])


def test_torchs_own_random_state_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    noise(3).dropout(torch.ones(5), 0.5, "x")
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("seeds", [(0, 1), (5, 5 + 2**31), (7, 7 + 2**32)])
def test_draws_of_neighbouring_seeds_and_names_are_independent(seeds: tuple[int, int]) -> None:
    """Correlations of 100,000 draws: 5 standard deviations is 0.016."""
    device = torch.device("cpu")
    rows = [random_uniform(seed, name, (100_000,), device) for seed in seeds for name in "ab"]
    correlations = torch.corrcoef(torch.stack([*rows, rows[0].roll(1), rows[0].roll(64)]))
    correlations.fill_diagonal_(0)
    assert correlations.abs().max() < 0.016


def test_draws_are_uniform() -> None:
    """Chi-squared of 256 equal bins: its mean is 255, 5 standard deviations are 113."""
    for seed in (0, 1, 12_345, 2**32 - 1):
        drawn = random_bits(seed, "x", (512, 256), torch.device("cpu"))
        for byte in range(4):
            counts = torch.bincount(((drawn >> (8 * byte)) & 255).flatten(), minlength=256)
            expected = drawn.numel() / 256
            assert abs(float(((counts - expected) ** 2 / expected).sum()) - 255) < 113


def test_a_draw_is_the_same_on_every_machine() -> None:
    drawn = random_bits(2**32 - 1, "step 3/1", (4,), torch.device("cpu"))
    assert drawn.tolist() == [1201501848, 1575067908, 3126686201, 590289774]


def test_every_order_is_equally_likely() -> None:
    orders = [
        tuple(random_order(seed, "x", 3, torch.device("cpu")).tolist()) for seed in range(600)
    ]
    counts = {order: orders.count(order) for order in set(orders)}
    assert sorted(counts) == sorted(itertools.permutations(range(3)))
    assert all(abs(count - 100) < 4 * 100**0.5 for count in counts.values())


def test_normal_draws_are_normal() -> None:
    drawn = random_normal(3, "z", (100_000,), torch.device("cpu")).double()
    assert kstest(drawn.numpy(), "norm").pvalue > 1e-3


def test_torchs_generator_is_seeded_by_task_place_and_part_and_restored() -> None:
    before = torch.get_rng_state()

    def draw(seed: int, place: str, part: str) -> float:
        with task_numbers(seed), numbers_for(place), seeded_generator(part, torch.device("cpu")):
            return float(torch.rand(()))

    one = draw(1, "step 0", "a")
    assert draw(1, "step 0", "a") == one
    others = draw(2, "step 0", "a"), draw(1, "step 1", "a"), draw(1, "step 0", "b")
    assert one not in others
    assert torch.equal(torch.get_rng_state(), before)
