"""CNAPs and Simple CNAPS against modules of plain torch, in float64.

The reference changes no parameters: hooks scale and shift what batch-norms put out, its class means
are of indexed rows, and its precisions are inverses of covariances.

Letters: S support examples, N examples to predict, W ways, D dimensions of the embedding.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.bilevel.estimators import exact
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import stop_gradient
from dmeta.bilevel.types import Examples, Params, Stage, Task
from dmeta.models.network import Network
from tests.bilevel.problems import make_algorithm
from tests.peers.gratings import LABELS, SHAPE, draw, small_resnet

CODE_SIZE, L2_WEIGHT = 7, 0.3
WAYS = max(LABELS) + 1
BAR = 1e-11
HEADS = ("linear", "mahalanobis")


def skip_layers(width: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Linear(width, width) for _ in range(3))


class Generator(nn.Module):
    """Gammas and betas of one layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shared = nn.Linear(CODE_SIZE, channels)
        self.gamma, self.beta = skip_layers(channels), skip_layers(channels)
        self.gamma_strength = nn.Parameter(torch.zeros(channels))
        self.beta_strength = nn.Parameter(torch.zeros(channels))

    def forward(self, code: Tensor) -> tuple[Tensor, Tensor]:
        shared = F.relu(self.shared(code))
        outputs = []
        for layers in (self.gamma, self.beta):
            first, second, third = layers
            x = F.relu(shared + first(shared))
            x = F.relu(x + second(x))
            outputs.append(x + third(x))
        return 1 + self.gamma_strength * outputs[0], self.beta_strength * outputs[1]


class Reference(nn.Module):
    def __init__(self, backbone: nn.Module, num_blocks: int, width: int, head: str) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        blocks: list[nn.Module] = []
        for i in range(num_blocks):
            channels = SHAPE[0] if i == 0 else CODE_SIZE
            blocks += [nn.Conv2d(channels, CODE_SIZE, 3, padding=1), nn.BatchNorm2d(CODE_SIZE)]
            blocks += [nn.ReLU(), nn.MaxPool2d(2)]
        self.encoder = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        norms = {n: m for n, m in backbone.named_modules() if isinstance(m, nn.BatchNorm2d)}
        self.generators = {name: Generator(m.num_features) for name, m in norms.items()}
        self.film: dict[str, tuple[Tensor, Tensor]] = {}
        for name, norm in norms.items():
            norm.register_forward_hook(self._hook(name))
        self.of_weight = mlp(width, width)
        self.of_bias = mlp(width, 1)

    def _hook(self, name: str) -> Any:
        def scaled_and_shifted(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            gamma, beta = self.film[name]
            return gamma[None, :, None, None] * output + beta[None, :, None, None]

        return scaled_and_shifted

    def forward(self, x: Tensor, y: Tensor, queries: Tensor) -> Tensor:
        code = self.encoder(x).mean(0)
        self.film = {name: made(code) for name, made in self.generators.items()}
        features, of_queries = self.backbone(x), self.backbone(queries)
        rows = [features[y == w] for w in range(WAYS)]
        if self.head == "mahalanobis":
            return torch.stack([-self._distance(r, features, of_queries) for r in rows], 1)
        means = torch.stack([r.mean(0) for r in rows])
        weight = means + self.of_weight(means)
        return of_queries @ weight.T + self.of_bias(means).T

    def _distance(self, rows: Tensor, features: Tensor, queries: Tensor) -> Tensor:
        n, width = rows.shape
        own = rows.T.cov() if n > 1 else torch.zeros(width, width, dtype=rows.dtype)
        share = n / (n + 1)
        eye = torch.eye(width, dtype=rows.dtype)
        precision = (share * own + (1 - share) * features.T.cov() + eye).inverse()
        return torch.stack([(q - rows.mean(0)) @ precision @ (q - rows.mean(0)) for q in queries])

    def penalty(self) -> Tensor:
        found = [g.gamma_strength.norm() ** 2 for g in self.generators.values()]
        return sum(found, sum(g.beta_strength.norm() ** 2 for g in self.generators.values()))

    def dmeta_names(self) -> dict[str, nn.Parameter]:
        """The parameters by dmeta's names for them."""
        found = dict(self.backbone.named_parameters())
        for i in range((len(self.encoder) - 2) // 4):
            for layer, at in (("convolution", 4 * i), ("norm", 4 * i + 1)):
                found |= named(f"cnaps/encoder/{layer}{i + 1}", self.encoder[at])
        for name, generator in self.generators.items():
            film = f"cnaps/film/{name}"
            found |= named(f"{film}/shared", generator.shared)
            for output in ("gamma", "beta"):
                found[f"{film}/{output}/strength"] = getattr(generator, f"{output}_strength")
                for i, layer in enumerate(getattr(generator, output), start=1):
                    found |= named(f"{film}/{output}{i}", layer)
        if self.head == "linear":
            for name, layers in (("weight", self.of_weight), ("bias", self.of_bias)):
                for i in range(3):
                    found |= named(f"cnaps/{name}{i + 1}", layers[2 * i])
        return found


def mlp(width: int, outputs: int) -> nn.Sequential:
    layers = [nn.Linear(width, outputs), nn.ELU(), nn.Linear(outputs, outputs), nn.ELU()]
    return nn.Sequential(*layers, nn.Linear(outputs, outputs))


def named(name: str, layer: Any) -> dict[str, nn.Parameter]:
    return {f"{name}/weight": layer.weight, f"{name}/bias": layer.bias}


def pair(head: str, seed: int) -> tuple[Any, dict[str, Tensor], Reference]:
    """A learner, meta-parameters far from the initial ones, and a reference that has these."""
    backbone = small_resnet(seed)
    network = Network.of(backbone)
    learner = make_algorithm(
        "cnaps", network, F.cross_entropy, SHAPE,
        head=head, code_size=CODE_SIZE, l2_weight=L2_WEIGHT,
    )  # fmt: skip
    rng = torch.Generator().manual_seed(seed)
    params: Params = {
        name: p + 0.3 * torch.randn(p.shape, generator=rng, dtype=p.dtype)
        for name, p in learner.init_meta_params().items()
    }
    # 20 -> 10 -> 5 -> 2 pixels; the embedding has 6 channels of 2x2.
    reference = Reference(backbone, num_blocks=3, width=24, head=head)
    for generator in reference.generators.values():
        generator.double()
    reference.double()
    own = reference.dmeta_names()
    assert own.keys() == params.keys()
    with torch.no_grad():
        for name, p in params.items():
            own[name].copy_(p)
    return learner, dict(params), reference


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_logits_are_those_of_the_reference(head: str) -> None:
    worst = 0.0
    for seed in range(5):
        learner, params, reference = pair(head, seed)
        x, y, queries, _ = draw(seed)
        stage = Stage(training=False, ways=WAYS)
        state = learner.adapt(params, Examples(x, y), stop_gradient, stage)
        got, expected = learner.predict(state, queries), reference(x, y, queries)
        worst = max(worst, float((got - expected).abs().max() / expected.abs().max()))
    print(f"{head}: largest relative difference of logits {worst:.1e}")
    assert worst < BAR


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("plan", ["loop", "vmap"])
def test_meta_gradients_are_those_of_the_reference(head: str, plan: Any) -> None:
    learner, params, reference = pair(head, seed=3)
    drawn = [draw(seed) for seed in range(3)]
    x, y, queries, labels = (torch.stack(part) for part in zip(*drawn, strict=True))
    tasks = Task(Examples(x, y), Examples(queries, labels))
    stage = Stage(training=True, ways=WAYS)
    got = block_gradient(plan, exact, learner, params, tasks, stage).gradients
    total = 3 * L2_WEIGHT * reference.penalty()
    for task in drawn:
        total = total + F.cross_entropy(reference(*task[:3]), task[3])
    total.backward()
    expected = {name: p.grad for name, p in reference.dmeta_names().items()}
    largest = max(float(g.abs().max()) for g in expected.values() if g is not None)
    worst = max(float((got[n] - g).abs().max()) for n, g in expected.items() if g is not None)
    print(f"{head}, {plan}: largest difference of gradients {worst / largest:.1e} of the largest")
    assert all(g is not None for g in expected.values())
    assert worst / largest < BAR
