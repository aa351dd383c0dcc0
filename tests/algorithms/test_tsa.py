"""TSA: where adapters go, what they do there, and what a task learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.algorithms.tsa import ADAPTER, adapted_convolutions, with_adapters
from dmeta.bilevel.solvers import stop_gradient
from dmeta.bilevel.types import Examples, Stage
from dmeta.models.network import Network
from tests.bilevel.problems import EVALUATION, first_task, make_algorithm, problem


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


CONVOLUTIONS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "3x3": (nn.Conv2d(2, 3, 3, padding=1), (2, 7, 6)),
    "3x3, stride 2": (nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 7, 6)),
    "5x3": (nn.Conv2d(2, 3, (5, 3), padding=(2, 1), bias=False), (2, 7, 6)),
    "dilated": (nn.Conv2d(2, 3, 3, padding=2, dilation=2, stride=3), (2, 9, 8)),
    "same": (nn.Conv2d(2, 3, 3, padding="same"), (2, 5, 5)),
    "of one axis": (nn.Conv1d(2, 3, 7, padding=3, stride=2), (2, 12)),
    "of three axes": (nn.Conv3d(2, 3, 3, padding=1), (2, 3, 4, 3)),
    "reflecting": (nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (2, 6, 5)),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_an_adapter_is_a_convolution_of_one_pixel_in_parallel(kind: str) -> None:
    layer, shape = CONVOLUTIONS[kind]
    network = Network.of(nn.Sequential(layer).double())
    assert adapted_convolutions(network) == ("0.weight",)
    params, x, adapter = network.init_params(), numbers(4, *shape), numbers(3, 2, seed=1)
    got = network.apply(with_adapters(params, {f"{ADAPTER}0.weight": adapter}), x)
    pixels: Any = x[(..., *(slice(None, None, s) for s in layer.stride))]
    expected = network.apply(params, x) + torch.einsum("fc,nc...->nf...", adapter, pixels)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


WITHOUT: dict[str, nn.Module] = {
    "1x1": nn.Conv2d(2, 3, 1),
    "even": nn.Conv2d(2, 3, 4, padding=2),
    "unpadded": nn.Conv2d(2, 3, 3),
    "grouped": nn.Conv2d(2, 2, 3, padding=1, groups=2),
    "transposed": nn.ConvTranspose2d(2, 3, 3, padding=1),
    "frozen": nn.Conv2d(2, 3, 3, padding=1).requires_grad_(False),
}


@pytest.mark.parametrize("kind", WITHOUT)
def test_other_convolutions_have_no_adapter(kind: str) -> None:
    assert adapted_convolutions(Network.of(nn.Sequential(WITHOUT[kind]))) == ()


def adapted(at: Any, stage: Stage, **options: Any) -> Any:
    learner = problem("conv4", algorithm="tsa", **options).algorithm
    return learner.adapt(at.params, first_task(at).support, stop_gradient, stage)


@pytest.mark.parametrize("adapters", [True, False])
def test_a_task_moves_kernels_in_their_middle_alone(adapters: bool) -> None:
    at = problem("conv4", algorithm="tsa")
    state = adapted(at, EVALUATION, adapters=adapters)
    assert (state["map"] - torch.eye(len(state["map"]))).abs().max() > 0.01
    for name, p in state["weights"].items():
        moved = p != at.params[name]
        middle = torch.zeros_like(moved)
        if adapters and name.endswith(".0.weight"):
            middle[:, :, 1, 1] = True
            assert moved.any()
        assert not (moved & ~middle).any()


def test_the_support_loss_falls() -> None:
    at = problem("conv4", algorithm="tsa")
    x, y = first_task(at).support
    losses = [
        F.cross_entropy(at.algorithm.predict(adapted(at, EVALUATION, eval_inner_steps=k), x), y)
        for k in (0, 10, 40)
    ]
    assert losses[1] < 0.8 * losses[0]
    assert losses[2] < 0.8 * losses[1]


def test_there_may_be_any_number_of_classes() -> None:
    learner = make_algorithm("tsa", Network.of(nn.Flatten()), F.cross_entropy, (3,))
    support = Examples(numbers(14, 3), torch.arange(14) % 7)
    state = learner.adapt({}, support, stop_gradient, Stage(training=False, ways=7))
    assert learner.predict(state, numbers(4, 3)).shape == (4, 7)
