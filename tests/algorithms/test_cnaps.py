"""CNAPs: what is modulated, what is learned, its set encoder, and Simple CNAPS against numpy."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.algorithms.feature_modulation import init_generators, modulated, modulated_layers
from dmeta.algorithms.mahalanobis import class_statistics, mahalanobis_distances
from dmeta.algorithms.set_encoder import encode_images, init_encoder, num_blocks
from dmeta.bilevel.estimators import exact
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import stop_gradient
from dmeta.bilevel.types import Examples, Outcome, Stage
from dmeta.models.network import Network
from tests.bilevel.problems import (
    EVALUATION,
    TRAINING,
    first_task,
    make_algorithm,
    network,
    predicting,
    problem,
)

LIKE = torch.zeros((), dtype=torch.float64)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# kind -> a layer, the shape of its input, the shape of a vector of its channels
LAYERS: dict[str, tuple[nn.Module, tuple[int, ...], tuple[int, ...]]] = {
    "batch-norm": (nn.BatchNorm2d(3), (4, 3, 5, 5), (-1, 1, 1)),
    "group-norm": (nn.GroupNorm(2, 4), (3, 4, 5), (-1, 1)),
    "layer-norm": (nn.LayerNorm(6), (3, 2, 6), (-1,)),
    "dense": (nn.Linear(3, 4), (5, 3), (-1,)),
    "dense without bias": (nn.Linear(3, 4, bias=False), (5, 3), (-1,)),
    "convolution": (nn.Conv2d(2, 3, 3), (4, 2, 6, 6), (-1, 1, 1)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_modulated_parameters_scale_and_shift_what_the_layer_puts_out(kind: str) -> None:
    layer, shape, of_channel = LAYERS[kind]
    network = Network.of(nn.Sequential(layer).double())
    layers = modulated_layers(network)
    weights = init_generators(layers, network.init_params(), 3, torch.Generator().manual_seed(1))
    weights = {name: p + 0.5 for name, p in weights.items()}
    params = {n: p + 0.3 * numbers(*p.shape, seed=2) for n, p in network.init_params().items()}
    code = numbers(3)
    neutral = {n: p * 0 + (1 if n == "0.weight" else 0) for n, p in params.items()}
    made = modulated(layers, weights, neutral, code)
    gamma = made["0.weight"].reshape(len(made["0.weight"]), -1)[:, 0]
    beta = made.get("0.bias", torch.zeros_like(gamma))
    assert (gamma - 1).abs().min() > 0.01
    x = numbers(*shape, seed=3)
    got = network.apply(modulated(layers, weights, params, code), x)
    plain = network.apply(params, x)
    expected = gamma.view(of_channel) * plain + beta.view(of_channel)
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)
    assert ("0.bias" in made) == (kind != "dense without bias")


def test_normalisation_layers_are_modulated_where_there_are_any() -> None:
    conv4 = problem("conv4", algorithm="cnaps").algorithm
    assert [each.name for each in conv4._layers] == ["block1.1", "block2.1"]
    mlp = problem("mlp", algorithm="cnaps").algorithm
    assert [each.name for each in mlp._layers] == ["1", "3"]


def test_a_model_without_such_layers_is_refused() -> None:
    with pytest.raises(ValueError, match="must have a model with normalisation layers"):
        make_algorithm("cnaps", Network.of(nn.Flatten()), F.cross_entropy, (2,))


def test_at_first_nearly_nothing_is_modulated() -> None:
    at = problem("conv4", algorithm="cnaps")
    state = at.algorithm.adapt(at.params, first_task(at).support, stop_gradient, EVALUATION)
    for name, p in state["weights"].items():
        difference = (p - at.params[name]).abs().max()
        assert (difference == 0) == (".1." not in name)
        assert difference < 0.05


def test_tasks_have_networks_of_their_own() -> None:
    at = problem("conv4", algorithm="cnaps")
    states = [
        at.algorithm.adapt(at.params, Examples(x, y), stop_gradient, EVALUATION)["weights"]
        for x, y in zip(*at.tasks.support, strict=True)
    ]
    assert not torch.equal(states[0]["block1.1.weight"], states[1]["block1.1.weight"])


@pytest.mark.parametrize("head", ["linear", "mahalanobis"])
def test_there_may_be_any_number_of_classes(head: str) -> None:
    at = problem("mlp", algorithm="cnaps", head=head)
    x, y = numbers(14, 2), torch.arange(14) % 7
    stage = Stage(training=False, ways=7)
    state = at.algorithm.adapt(at.params, Examples(x, y), stop_gradient, stage)
    assert at.algorithm.predict(state, x[:4]).shape == (4, 7)


@pytest.mark.parametrize("model", ["mlp", "conv4"])
def test_a_backbone_that_is_not_learned_has_no_meta_gradient(model: str) -> None:
    at = problem(model, algorithm="cnaps", learn_backbone=False)
    backbone = frozenset(at.algorithm.network.names)
    assert at.algorithm.constants == backbone
    assert problem(model, algorithm="cnaps").algorithm.constants == frozenset()
    found = block_gradient("vmap", exact, at.algorithm, at.params, at.tasks, TRAINING).gradients
    learned = {name for name, g in found.items() if g.any()}
    assert not learned & backbone
    assert {"cnaps/weight1/weight", "cnaps/bias1/weight"} <= learned
    assert any(name.endswith("/strength") for name in learned)


def test_the_penalty_is_the_squared_factors_and_in_training_alone() -> None:
    at = problem("mlp", algorithm="cnaps", l2_weight=2.0)
    support = first_task(at).support
    outcome = at.algorithm.adapt(at.params, support, stop_gradient, TRAINING)
    assert isinstance(outcome, Outcome)
    factors = [p for name, p in at.params.items() if name.endswith("/strength")]
    assert len(factors) == 4
    torch.testing.assert_close(outcome.penalty, 2 * torch.cat(factors).square().sum())
    without = problem("mlp", algorithm="cnaps", l2_weight=0.0).algorithm
    for learner, stage in ((at.algorithm, EVALUATION), (without, TRAINING)):
        state = learner.adapt(at.params, support, stop_gradient, stage)
        assert not isinstance(state, Outcome)


@pytest.mark.parametrize(
    ("shape", "blocks"),
    [
        ((3, 84, 84), 5), ((1, 28, 28), 3), ((3, 224, 224), 5), ((1, 4, 9), 1), ((1, 3, 9), 0),
        ((40,), 0), ((7, 64), 0),
    ],
)  # fmt: skip
def test_images_are_encoded_down_to_two_pixels_at_least(
    shape: tuple[int, ...], blocks: int
) -> None:
    assert num_blocks(shape) == blocks


def test_the_set_encoder_is_that_of_torchs_layers() -> None:
    weights = init_encoder((2, 9, 8), 0, 4, torch.Generator().manual_seed(0), LIKE)
    weights = {name: p + 0.1 * numbers(*p.shape) for name, p in weights.items()}
    layers: list[nn.Module] = []
    for i, channels in ((1, 2), (2, 4)):
        convolution, norm = nn.Conv2d(channels, 4, 3, padding=1), nn.BatchNorm2d(4)
        for name, layer in (("convolution", convolution), ("norm", norm)):
            layer.weight.data = weights[f"cnaps/encoder/{name}{i}/weight"]
            layer.bias.data = weights[f"cnaps/encoder/{name}{i}/bias"]
        layers += [convolution, norm, nn.ReLU(), nn.MaxPool2d(2)]
    x = numbers(5, 2, 9, 8)
    expected = nn.Sequential(*layers).double()(x).mean((2, 3)).mean(0)
    torch.testing.assert_close(encode_images(weights, x), expected.detach())


@pytest.mark.parametrize("D", [2, 5, 40])
@pytest.mark.parametrize("labels", [[0, 1, 2, 0, 1, 0], [2, 0, 2, 2], [0], [1, 1, 1]])
def test_distances_are_those_of_numpys_covariances(D: int, labels: list[int]) -> None:
    embedded, queries = 3 * numbers(len(labels), D) + 1, numbers(6, D, seed=1)
    found = mahalanobis_distances(queries, *class_statistics(embedded, torch.tensor(labels), 3))

    def covariance(rows: Any) -> Any:
        return np.cov(rows.T).reshape(D, D) if len(rows) > 1 else np.zeros((D, D))

    f = embedded.numpy()
    for w in range(3):
        rows = f[np.array(labels) == w]
        n, mean = len(rows), rows.mean(0) if len(rows) else np.zeros(D)
        mixed = n / (n + 1) * covariance(rows) + 1 / (n + 1) * covariance(f) + np.eye(D)
        apart = queries.numpy() - mean
        expected = np.einsum("nd,de,ne->n", apart, np.linalg.inv(mixed), apart)
        np.testing.assert_allclose(found[:, w].numpy(), expected, rtol=1e-10)


def test_the_classes_of_simple_cnaps_are_the_nearest_ones() -> None:
    at = problem("mlp", algorithm="cnaps", head="mahalanobis")
    support, query = first_task(at)
    state = predicting(at.algorithm.adapt(at.params, support, stop_gradient, TRAINING))
    embedded = at.algorithm.network.apply(state["weights"], support.x)
    at_queries = at.algorithm.network.apply(state["weights"], query.x)
    statistics = class_statistics(embedded, support.y, 3)
    torch.testing.assert_close(
        at.algorithm.predict(state, query.x), -mahalanobis_distances(at_queries, *statistics)
    )
    assert not any(name.startswith(("cnaps/weight", "cnaps/bias")) for name in at.params)


@pytest.mark.parametrize("batch_norm", ["task_norm", "task_norm_l"])
def test_what_task_norm_learns_for_a_whole_layer_is_not_modulated(batch_norm: Any) -> None:
    plain, shape = network("conv4", None)
    made = Network.of(copy.deepcopy(plain.module), batch_norm=batch_norm)
    learner = make_algorithm("cnaps", made, F.cross_entropy, shape)
    params = learner.init_meta_params()
    support = Examples(numbers(6, *shape), torch.arange(6) % 3)
    adapted = learner.adapt(params, support, stop_gradient, EVALUATION)
    assert learner.predict(adapted, numbers(6, *shape)).shape == (6, 3)
    assert any("alpha" in name for name in made.names)
    assert not any("alpha" in n for layer in modulated_layers(made) for n in layer.parameters)
