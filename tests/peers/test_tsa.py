"""TSA against torch.optim.Adadelta on convolutions of 1x1 in parallel, in float64.

The reference changes no kernels: hooks add the adapters' convolutions to what a layer puts out.

Letters: W ways, D dimensions of the embedding.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.algorithms.feature_map import MAP
from dmeta.algorithms.tsa import ADAPTER
from dmeta.bilevel.solvers import stop_gradient
from dmeta.bilevel.types import Examples, Stage
from dmeta.models.network import Network
from tests.bilevel.problems import make_algorithm
from tests.peers.gratings import LABELS, draw, small_resnet

WAYS = max(LABELS) + 1
BAR = 1e-9
EVALUATION = Stage(training=False, ways=WAYS)


def nearest_mean(rows: Tensor, x: Tensor, y: Tensor) -> Tensor:
    means = torch.stack([x[y == w].mean(0) for w in range(WAYS)])
    return 10 * F.cosine_similarity(rows[:, None], means[None], dim=-1)


def reference(
    backbone: nn.Module, x: Tensor, y: Tensor, queries: Tensor, steps: int, adapters: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits of the queries, and what was learned, by dmeta's names."""
    backbone.requires_grad_(False)
    learned: dict[str, Tensor] = {}
    for name, layer in backbone.named_modules():
        if adapters and isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
            outputs, inputs = layer.weight.shape[:2]
            adapter = (1e-4 * torch.eye(outputs, inputs).double()).requires_grad_()
            learned[f"{ADAPTER}{name}.weight"] = adapter

            def parallel(layer: Any, given: Any, out: Tensor, adapter: Tensor = adapter) -> Tensor:
                return out + F.conv2d(given[0], adapter[:, :, None, None], stride=layer.stride)

            layer.register_forward_hook(parallel)
    width = backbone(x[:2]).shape[1]
    learned[MAP] = torch.eye(width).double().requires_grad_()
    of_layers = [p for name, p in learned.items() if name != MAP]
    groups = [{"params": of_layers}] if of_layers else []
    optimizer = torch.optim.Adadelta([*groups, {"params": [learned[MAP]], "lr": 1.0}], lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        mapped = F.linear(backbone(x), learned[MAP])
        F.cross_entropy(nearest_mean(mapped, mapped, y), y).backward()
        optimizer.step()
    support, of_queries = (F.linear(backbone(each), learned[MAP]) for each in (x, queries))
    return nearest_mean(of_queries, support, y).detach(), learned


@pytest.mark.parametrize("adapters", [True, False])
def test_what_a_task_learns_is_that_of_the_reference(adapters: bool) -> None:
    worst = 0.0
    for seed in range(3):
        x, y, queries, _ = draw(seed)
        backbone = small_resnet(seed)
        learner = make_algorithm(
            "tsa", Network.of(backbone), F.cross_entropy, tuple(x.shape[1:]), adapters=adapters
        )
        params = learner.init_meta_params()
        state = learner.adapt(params, Examples(x, y), stop_gradient, EVALUATION)
        expected, learned = reference(backbone, x, y, queries, 40, adapters)
        got = learner.predict(state, queries)
        worst = max(worst, float((got - expected).abs().max()))
        moved = (learned[MAP].detach() - torch.eye(len(learned[MAP]))).abs().max()
        assert moved > 0.01
        for name, p in learned.items():
            if name == MAP:
                found = state["map"]
            else:
                own = name.removeprefix(ADAPTER)
                found = (state["weights"][own] - params[own])[:, :, 1, 1]
                assert p.abs().max() > 0.01
            worst = max(worst, float((found - p.detach()).abs().max()))
        unadapted, _ = reference(small_resnet(seed), x, y, queries, 0, adapters)
        assert (expected - unadapted).abs().max() > 0.1
    print(f"adapters={adapters}: largest difference after 40 steps {worst:.1e}")
    assert worst < BAR
