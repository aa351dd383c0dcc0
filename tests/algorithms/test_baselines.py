"""Methods that are pre-trained on mini-batches of all training classes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta import MetaLearner
from dmeta.algorithms import ALGORITHMS, base_classes, baseline_pp, simpleshot
from dmeta.algorithms.algorithm import moving_averages, trains_on_batches
from dmeta.algorithms.embeddings import embed_examples
from dmeta.algorithms.head_training import HeadTraining
from dmeta.algorithms.rfs import logistic_regression
from dmeta.bilevel.estimators import exact
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import recording, stop_gradient
from dmeta.bilevel.types import Examples, Params, Task
from dmeta.randomness import random_order
from tests.bilevel.problems import EVALUATION, TRAINING, first_task, predicting, problem

ON_BATCHES = [name for name in ALGORITHMS if trains_on_batches(ALGORITHMS[name].make)]


def base_logits(name: str, params: Params, z: Tensor) -> Tensor:
    if name != "baseline_pp":
        return F.linear(z, params[base_classes.WEIGHT], params[base_classes.BIAS])
    v, g = params[base_classes.WEIGHT], params[baseline_pp.NORM]
    return 2.0 * g * (F.normalize(z) @ F.normalize(v).T)


@pytest.mark.parametrize("name", ON_BATCHES)
def test_in_training_the_loss_is_that_of_a_classifier_of_all_classes(name: str) -> None:
    at = problem("mlp", algorithm=name)
    x, y = first_task(at).support
    adapted = predicting(at.algorithm.adapt(at.params, Examples(x, y), stop_gradient, TRAINING))
    z = embed_examples(at.algorithm.network, at.params, x)
    expected = base_logits(name, at.params, z)
    torch.testing.assert_close(at.algorithm.predict(adapted, x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ON_BATCHES)
def test_a_task_is_learnt_without_the_layer_of_the_training_classes(name: str) -> None:
    at = problem("mlp", algorithm=name)
    task = first_task(at)
    layer = (base_classes.WEIGHT, base_classes.BIAS, baseline_pp.NORM)
    other = {n: p + 1 if n in layer else p for n, p in at.params.items()}
    one, two = (
        at.algorithm.predict(
            at.algorithm.adapt(params, task.support, stop_gradient, EVALUATION), task.query.x
        )
        for params in (at.params, other)
    )
    assert torch.equal(one, two)


class CosineLayer(nn.Module):
    """The layer of the authors' code, with its old form of weight normalisation."""

    def __init__(self, start: Params) -> None:
        super().__init__()
        self.layer = nn.Linear(*reversed(start["direction"].shape), bias=False).double()
        self.layer = nn.utils.parametrizations.weight_norm(self.layer, dim=0)
        self.layer.weight = start["direction"].clone()

    def forward(self, z: Tensor) -> Tensor:
        return 2.0 * self.layer(z / z.norm(dim=1, keepdim=True))


def trained_by_torch(model: nn.Module, z: Tensor, y: Tensor, seed: int) -> None:
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, dampening=0.9, weight_decay=1e-3
    )
    for epoch in range(100):
        order = random_order(seed, f"epoch {epoch}", len(y), y.device)
        for rows in order.split(4):
            optimizer.zero_grad()
            F.cross_entropy(model(z[rows]), y[rows]).backward()
            optimizer.step()


def examples() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(3)
    y = torch.arange(10) % 5
    z = torch.randn(10, 7, generator=rng, dtype=torch.float64) + F.one_hot(y, 7)
    return z.abs(), y


def test_a_linear_layer_is_trained_as_by_torch() -> None:
    z, y = examples()
    model = nn.Linear(7, 5).double()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained_by_torch(model, z, y, seed=11)

    def loss(layer: Params, batch: Examples) -> Tensor:
        return F.cross_entropy(F.linear(batch.x, **layer), batch.y)

    got = HeadTraining().train(loss, start, Examples(z, y), seed=11)
    for name, p in model.named_parameters():
        assert (p - start[name]).abs().max() > 0.01
        torch.testing.assert_close(got[name], p.detach(), rtol=0, atol=1e-13)


def test_a_cosine_layer_is_trained_as_by_torch() -> None:
    z, y = examples()
    at = problem("mlp", algorithm="baseline_pp").algorithm
    rng = torch.Generator().manual_seed(4)
    direction = torch.randn(5, 7, generator=rng, dtype=torch.float64)
    start = {"direction": direction, "norm": direction.norm(dim=1)}
    model = CosineLayer(start)
    trained_by_torch(model, z, y, seed=11)

    def loss(layer: Params, batch: Examples) -> Tensor:
        return F.cross_entropy(at._logits(layer, batch.x), batch.y)

    got = HeadTraining().train(loss, start, Examples(z, y), seed=11)
    weight = (got["norm"] / got["direction"].norm(dim=1))[:, None] * got["direction"]
    assert (model.layer.weight - direction).abs().max() > 0.01
    torch.testing.assert_close(weight, model.layer.weight.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("num_classes", "scale"), [(200, 2.0), (201, 10.0)])
def test_the_scale_is_larger_where_there_are_many_classes(num_classes: int, scale: float) -> None:
    at = problem("mlp", algorithm="baseline_pp").algorithm
    same = torch.ones(num_classes, 4, dtype=torch.float64)
    logits = at._logits({"direction": same, "norm": same[:, 0]}, same[:1])
    torch.testing.assert_close(logits, torch.full_like(logits, scale))


@pytest.mark.parametrize("features", ["un", "l2n", "cl2n"])
def test_simpleshot_takes_the_nearest_mean_of_its_features(features: str) -> None:
    at = problem("mlp", algorithm="simpleshot", features=features)
    task, params = first_task(at), dict(at.params)
    assert (simpleshot.CENTER in params) == (features == "cl2n")
    center = torch.zeros(1)
    if features == "cl2n":
        center = params[simpleshot.CENTER] = torch.full_like(params[simpleshot.CENTER], 0.3)
    got = at.algorithm.predict(
        at.algorithm.adapt(params, task.support, stop_gradient, EVALUATION), task.query.x
    )
    z, zq = (
        embed_examples(at.algorithm.network, params, x) - center
        for x in (task.support.x, task.query.x)
    )
    if features != "un":
        z, zq = F.normalize(z), F.normalize(zq)
    means = torch.stack([z[task.support.y == w].mean(0) for w in range(3)])
    torch.testing.assert_close(got, -torch.cdist(zq, means).square(), rtol=0, atol=1e-10)


def test_the_gradient_of_the_centre_is_what_it_is_away_from_the_mean_of_the_batches() -> None:
    at = problem("mlp", algorithm="simpleshot")
    assert moving_averages(at.algorithm) == {simpleshot.CENTER: 0.1}
    params = {**at.params, simpleshot.CENTER: torch.ones_like(at.params[simpleshot.CENTER])}
    batches = Task(at.tasks.support, at.tasks.support)
    got = block_gradient("vmap", exact, at.algorithm, params, batches, TRAINING).gradients
    z = [embed_examples(at.algorithm.network, params, x) for x in at.tasks.support.x]
    expected = sum(params[simpleshot.CENTER] - each.mean(0) for each in z)
    torch.testing.assert_close(got[simpleshot.CENTER], expected)
    without = problem("mlp", algorithm="simpleshot", features="un")
    plain = block_gradient("vmap", exact, without.algorithm, params, batches, TRAINING).gradients
    for name in without.params:
        torch.testing.assert_close(got[name], plain[name])


@pytest.mark.parametrize(("S", "D"), [(5, 8), (25, 8), (25, 64)])
def test_logistic_regression_is_at_the_minimum(S: int, D: int) -> None:
    rng = torch.Generator().manual_seed(S)
    z = F.normalize(torch.randn(S, D, generator=rng, dtype=torch.float64).abs())
    labels = F.one_hot(torch.arange(S) % 5, 5).double()
    fitted = logistic_regression(z, labels, 1.0, 200)
    v, b = fitted.weight.requires_grad_(), fitted.bias.requires_grad_()
    objective = v.square().sum() / 2
    objective = objective - (F.linear(z, v, b).log_softmax(1) * labels).sum()
    for gradient in torch.autograd.grad(objective, (v, b)):
        assert gradient.abs().max() < 1e-8
    assert v.abs().max() > 0.1


def test_finetune_starts_at_the_directions_of_the_class_means() -> None:
    at = problem("mlp", algorithm="finetune", eval_inner_steps=3)
    task = first_task(at)
    states: list[Any] = []
    at.algorithm.adapt(at.params, task.support, recording(states.append), EVALUATION)
    assert len(states) == 4
    z, zq = (
        embed_examples(at.algorithm.network, at.params, x) for x in (task.support.x, task.query.x)
    )
    means = torch.stack([z[task.support.y == w].mean(0) for w in range(3)])
    torch.testing.assert_close(
        at.algorithm.predict(states[0], task.query.x), zq @ F.normalize(means).T
    )
    first, last = states[0], states[-1]
    assert all(not torch.equal(first[name], last[name]) for name in first)


def test_finetune_can_keep_the_embedding() -> None:
    at = problem("mlp", algorithm="finetune", eval_inner_steps=3, adapt="head")
    states: list[Any] = []
    at.algorithm.adapt(at.params, first_task(at).support, recording(states.append), EVALUATION)
    for name in at.algorithm.network.names:
        assert torch.equal(states[-1][name], at.params[name])


@pytest.mark.parametrize(
    "options",
    [
        {"inner_steps": 1},
        {"inner_steps_max": 3},
        {"learn_inner_lr": "per_tensor"},
        {"inner_optimizer": "lstm"},
        {"multi_step_loss_until": 5},
    ],
    ids=str,
)
def test_finetune_refuses_what_training_on_tasks_alone_could_do(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must be .* with algorithm=finetune, .*, got"):
        problem("mlp", algorithm="finetune", **options)


@pytest.mark.parametrize("number", [0, 1, -3, 2.5, "a"])
def test_another_number_of_training_classes_is_refused(number: Any) -> None:
    with pytest.raises(ValueError, match=r"num_base_classes must be .*, got"):
        MetaLearner(nn.Linear(4, 3), "baseline", example=torch.ones(2, 4), num_base_classes=number)
