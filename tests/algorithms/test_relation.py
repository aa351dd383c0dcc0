"""Relation networks: scores pair by pair, maps of any size, the losses, batch statistics."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.algorithms.algorithm import with_network
from dmeta.algorithms.prediction import Predictor
from dmeta.algorithms.relation import ScoreLoss
from dmeta.algorithms.relation_scores import (
    HIDDEN,
    LAYERS,
    NORMS,
    SCORE,
    init_module,
    logits_of_pairs,
)
from dmeta.bilevel.solvers import stop_gradient
from dmeta.bilevel.types import Examples, Params, Stage
from dmeta.models.network import Network
from dmeta.models.norms import Statistics
from tests.bilevel.problems import EVALUATION, first_task, make_algorithm, network, problem

W, N, C = 3, 4, 2
LIKE = torch.zeros((), dtype=torch.float64)


def weights_of(shape: tuple[int, ...], *, norms: bool) -> dict[str, Tensor]:
    """None of them as at first, when biases are all the same."""
    rng = torch.Generator().manual_seed(1)
    made = init_module(shape, 5, 4, 0, LIKE, norms=norms)
    return {
        name: w + 0.3 * torch.randn(w.shape, generator=rng, dtype=w.dtype)
        for name, w in made.items()
    }


def features(rows: int, shape: tuple[int, ...], seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(rows, *shape, generator=rng, dtype=torch.float64)


def module_of(weights: Params, shape: tuple[int, ...], padding: int, pools: list[Any]) -> nn.Module:
    """Torch's layers, one after the other, of one pair a row."""
    layers: list[nn.Module] = []
    inputs = 2 * shape[0]
    for pool in pools:
        layers.append(
            nn.Conv2d(inputs, 5, 3, padding=padding) if len(shape) == 3 else nn.Linear(inputs, 5)
        )
        if f"{NORMS[0]}/weight" in weights:
            layers.append(nn.BatchNorm2d(5) if len(shape) == 3 else nn.BatchNorm1d(5))
        layers.append(nn.ReLU())
        if pool:
            layers.append(nn.MaxPool2d(pool))
        inputs = 5
    width = weights[f"{HIDDEN}/weight"].shape[1]
    layers += [nn.Flatten(), nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, 1)]
    made = nn.Sequential(*layers).double()
    names = [name for pair in zip(LAYERS, NORMS, strict=True) for name in pair]
    named = [name for name in (*names, HIDDEN, SCORE) if f"{name}/weight" in weights]
    values = [weights[f"{name}/{kind}"] for name in named for kind in ("weight", "bias")]
    with torch.no_grad():
        for parameter, value in zip(made.parameters(), values, strict=True):
            parameter.copy_(value)
    return made


SIZES: dict[str, tuple[tuple[int, ...], int, list[Any], int]] = {
    "as of Omniglot": ((C, 5, 5), 1, [2, 2], 5),
    "as of miniImageNet": ((C, 19, 19), 0, [2, 2], 5 * 9),
    "the smallest without padding": ((C, 10, 10), 0, [2, 2], 5),
    "of one row": ((C, 1, 7), 1, [(1, 2), (1, 2)], 5),
    "of one pixel": ((C, 1, 1), 1, [None, None], 5),
    "vectors": ((6,), 0, [None, None], 5),
}
"""What is embedded -> its shape, the padding, the pools, the inputs of the hidden layer."""


@pytest.mark.parametrize("norms", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_scores_are_those_of_torchs_layers_on_each_pair(size: str, norms: bool) -> None:
    shape, padding, pools, width = SIZES[size]
    weights = weights_of(shape, norms=norms)
    assert weights[f"{HIDDEN}/weight"].shape == (4, width)
    classes, examples = features(W, shape, 2), features(N, shape, 3)
    pairs = torch.stack([torch.cat([c, x]) for x in examples for c in classes])
    want = module_of(weights, shape, padding, pools)(pairs).view(N, W)
    got = logits_of_pairs(weights, classes, examples, Statistics())
    torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_initial_weights_are_those_of_the_authors_code_for_maps() -> None:
    made = init_module((64, 19, 19), 64, 8, 0, LIKE, norms=True)
    convolution = made[f"{LAYERS[0]}/weight"]
    assert convolution.shape == (64, 128, 3, 3)
    assert float(convolution.std()) == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.01)
    assert made[f"{HIDDEN}/weight"].shape == (8, 576)
    assert float(made[f"{HIDDEN}/weight"].std()) == pytest.approx(0.01, rel=0.05)
    assert {float(b) for b in made[f"{HIDDEN}/bias"]} == {1.0}
    of_vectors = init_module((640,), 64, 8, 0, LIKE, norms=False)
    first = of_vectors[f"{LAYERS[0]}/weight"]
    assert float(first.std()) == pytest.approx((2 / 1280) ** 0.5, rel=0.01)
    assert not of_vectors[f"{HIDDEN}/bias"].any()
    other = init_module((64, 19, 19), 64, 8, 1, LIKE, norms=True)
    assert not torch.equal(convolution, other[f"{LAYERS[0]}/weight"])


def test_maps_of_a_class_are_added_up() -> None:
    for combine, factor in (("sum", 1.0), ("mean", 0.5)):
        at = problem("conv4", algorithm="relation", combine_shots=combine)
        support = first_task(at).support
        adapted = at.algorithm.adapt(at.params, support, stop_gradient, EVALUATION)
        embedded = at.algorithm.network.apply(at.params, support.x)
        assert embedded.shape[1:] == (2, 2, 2)  # a map: the network's Flatten is left off
        for w in range(W):
            want = factor * embedded[support.y == w].sum(0)  # two shots
            torch.testing.assert_close(adapted["classes"][w], want)


def test_tasks_may_have_other_ways_and_shots_than_those_before() -> None:
    at = problem("conv4", algorithm="relation")
    x, query = first_task(at).support.x, first_task(at).query.x
    stage = Stage(training=False, ways=5)
    support = Examples(x, torch.tensor([4, 3, 2, 1, 0, 0]))
    adapted = at.algorithm.adapt(at.params, support, stop_gradient, stage)
    assert at.algorithm.predict(adapted, query).shape == (5, 5)


def test_the_mean_over_pixels_is_left_off_and_what_a_subclass_does_is_not() -> None:
    at = problem("conv4_strided", algorithm="relation")
    names = [name for name, _ in at.algorithm.network.module.named_children()]
    assert names == ["block1", "block2"]

    class Model(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = super().forward(x) + 1
            return out

    own = Network.of(Model(nn.Conv2d(1, 3, 3), nn.Flatten()).double())
    learner = make_algorithm("relation", own, F.cross_entropy, (1, 4, 4))
    assert learner.init_meta_params()[f"{LAYERS[0]}/weight"].shape == (64, 2 * 12)


def test_the_loss_is_the_squared_error_of_every_score() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.3], [0.5, 3.0, -2.0]])
    labels = torch.tensor([2, 1])
    target = torch.tensor([[0.0, 0, 1], [0, 1, 0]])
    want = F.mse_loss(logits.sigmoid(), target)
    at = problem("mlp", algorithm="relation")
    torch.testing.assert_close(at.algorithm.loss(logits, labels), want)
    assert ScoreLoss()(torch.tensor([[50.0, -50.0]]), torch.tensor([0])) < 1e-12


def test_another_loss_is_that_of_the_classes_or_refused() -> None:
    made, shape = network("mlp", None)

    def smoothed(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=0.2)

    learner = make_algorithm("relation", made, smoothed, shape, objective="cross_entropy")
    assert learner.loss is smoothed
    with pytest.raises(ValueError, match=r"algorithm\.objective must be cross_entropy for a loss"):
        make_algorithm("relation", made, smoothed, shape)
    of_five = nn.CrossEntropyLoss(weight=torch.ones(5))
    with pytest.raises(ValueError, match=r"algorithm\.objective must be cross_entropy for a loss"):
        make_algorithm("relation", made, of_five, shape)


def test_there_are_batch_norms_where_the_model_has_some() -> None:
    made = problem("conv4", algorithm="relation").params
    assert f"{NORMS[0]}/weight" in made
    without, shape = network("mlp", None)
    learner = make_algorithm("relation", without, F.cross_entropy, shape)
    assert f"{NORMS[0]}/weight" not in learner.init_meta_params()


def test_without_transduction_a_query_is_scored_as_if_it_were_alone() -> None:
    at = problem("conv4", algorithm="relation")
    params = {
        name: p if "relation" not in name else weights_like(p, seed)
        for seed, (name, p) in enumerate(at.params.items())
    }
    support, query = first_task(at)
    adapted = at.algorithm.adapt(params, support, stop_gradient, EVALUATION)
    predictor = Predictor(at.algorithm, adapted, support.x)
    apart = predictor.predict(query.x)
    for i in range(len(query.x)):
        alone = predictor.predict(query.x[i : i + 1])
        torch.testing.assert_close(alone, apart[i : i + 1], rtol=0, atol=1e-12)
    together = predictor.predict(query.x, transductive=True)
    assert (together - apart).abs().max() > 1e-3
    # What evaluation does: one batch, with the statistics of its first rows.
    rows = len(support.x)
    batch = with_network(at.algorithm, at.algorithm.network.with_statistics_of_first(rows))
    both = batch.predict(adapted, torch.cat([support.x, query.x]))
    torch.testing.assert_close(both[rows:], apart, rtol=0, atol=1e-12)
    # The support set's own scores, on its own statistics.
    scores = at.algorithm.predict(adapted, support.x)
    torch.testing.assert_close(predictor.predict(support.x), scores, rtol=0, atol=1e-12)


def weights_like(p: Tensor, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return p + 0.3 * torch.randn(p.shape, generator=rng, dtype=p.dtype)
