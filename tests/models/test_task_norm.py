"""TaskNorm against its equations written down again, and queries that do not see each other.

Letters: S support examples, Q query examples, C channels.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.prediction import Predictor
from dmeta.bilevel.estimators import FiniteDifference, exact
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import recording, unrolled
from dmeta.bilevel.types import Examples, Task
from dmeta.cli.evaluate import evaluate
from dmeta.models import MODELS
from dmeta.models.network import Network
from dmeta.runtime.local import LocalRuntime
from dmeta.training.run import run_session
from dmeta.training.session import Session
from dmeta.training.setup import prepare
from dmeta.training.work.predictions import predict_task
from tests.bilevel.problems import (
    EVALUATION,
    TRAINING,
    draw_tasks,
    flat,
    make_algorithm,
    relative_error,
)
from tests.conftest import tiny_config

S, Q, C = 6, 5, 3
KINDS = ("task_norm", "task_norm_l")


def numbers(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return 1 + 2 * torch.randn(*shape, generator=rng, dtype=torch.float64)


def network(kind: Any, num_outputs: int | None = 3) -> Network:
    """In float64, its learned blends all different."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        module = MODELS["conv4"].make((1, 8, 8), num_outputs, filters=4, blocks=2)
    made = Network.of(module.double(), batch_norm=kind)
    with torch.no_grad():
        for i, (name, p) in enumerate(made.module.named_parameters()):
            if "alpha_" in name:
                p.fill_(0.1 * i if name.endswith("scale") else 0.3 * i - 1)
    return made


def by_the_paper(norm: nn.Module, x: Tensor, rows: int, over_channels: bool) -> Tensor:
    """TaskNorm, one example and channel after the other, in plain numbers.

    The moments of a mixture of two sets with weights alpha and 1 - alpha.
    """
    scale, offset = norm.alpha_scale.item(), norm.alpha_offset.item()
    alpha = 1 / (1 + math.exp(-(scale * rows + offset)))
    out = torch.empty_like(x)
    for n in range(len(x)):
        for c in range(x.shape[1]):
            support = x[:rows, c].flatten()
            own = x[n].flatten() if over_channels else x[n, c].flatten()
            mean = alpha * support.mean() + (1 - alpha) * own.mean()
            second = alpha * (support**2).mean() + (1 - alpha) * (own**2).mean()
            scaled = (x[n, c] - mean) / torch.sqrt(second - mean**2 + norm.eps)
            out[n, c] = scaled * norm.weight[c] + norm.bias[c]
    return out.detach()


def single(kind: Any, dimensions: int = 2) -> Network:
    norm = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d}[dimensions](C, eps=1e-3).double()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -2.0, 1.0]))
        norm.bias.copy_(torch.tensor([1.0, 3.0, 0.0]))
    made = Network.of(norm, batch_norm=kind)
    with torch.no_grad():
        made.module.get_parameter("alpha_scale").fill_(0.2)
        made.module.get_parameter("alpha_offset").fill_(-0.7)
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dimensions", [1, 2])
def test_it_is_that_of_the_paper(kind: Any, dimensions: int) -> None:
    made, x = single(kind, dimensions), numbers(S + Q, C, *[4, 5][: 2 * (dimensions - 1)])
    got = made.with_statistics_of_first(S).apply(made.init_params(), x)
    expected = by_the_paper(made.module, x, S, kind == "task_norm_l")
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_its_blend_goes_from_the_example_alone_to_the_support_set_alone(kind: Any) -> None:
    made, x = single(kind), numbers(S + Q, C, 4, 4)
    params = made.init_params()

    def at(offset: float) -> Tensor:
        blend = {"alpha_scale": torch.zeros(()).double(), "alpha_offset": torch.tensor(offset)}
        return made.with_statistics_of_first(S).apply(params | blend, x)

    plain = Network.of(nn.BatchNorm2d(C, eps=1e-3).double())
    weights = {name: params[name] for name in plain.names}
    support = plain.with_statistics_of_first(S).apply(weights, x)
    torch.testing.assert_close(at(40.0), support, rtol=1e-10, atol=1e-11)
    groups = 1 if kind == "task_norm_l" else C
    alone = F.group_norm(x, groups, params["weight"], params["bias"], eps=1e-3)
    torch.testing.assert_close(at(-40.0), alone, rtol=1e-10, atol=1e-11)


def learner(algorithm: str, kind: Any) -> Any:
    outputs = None if getattr(ALGORITHMS[algorithm].make, "embeds", False) else 3
    return make_algorithm(algorithm, network(kind, outputs), F.cross_entropy, (1, 8, 8))


QUERIES_APART = ("support", *KINDS)


@pytest.mark.parametrize("kind", QUERIES_APART)
@pytest.mark.parametrize("algorithm", ["maml", "protonet", "anil", "maml_pp"])
def test_a_query_does_not_change_with_the_others(kind: Any, algorithm: str) -> None:
    at = learner(algorithm, kind)
    params, tasks = at.init_meta_params(), draw_tasks("classification", (1, 8, 8), 1, T=1)
    task = Task(*(Examples(part.x[0], part.y[0]) for part in tasks))
    others = torch.cat([task.query.x[:1], 5 * numbers(4, 1, 8, 8, seed=7)])
    changed = task._replace(query=task.query._replace(x=others))
    got = [predict_task(at, params, each, EVALUATION) for each in (task, changed)]
    for mode in ("transductive", "non_transductive"):
        one, same = (predictions[f"{mode}_prediction"][:, 0] for predictions in got)
        torch.testing.assert_close(one, same, rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(one, got[0]["transductive_prediction"][:, 0])
    plain = learner(algorithm, "transductive")
    start = plain.init_meta_params()
    one, other = (
        predict_task(plain, start, each, EVALUATION)["transductive_prediction"][:, 0]
        for each in (task, changed)
    )
    assert (one - other).norm() > 1e-2


@pytest.mark.parametrize("kind", QUERIES_APART)
def test_in_training_too_and_the_meta_gradient_goes_through_the_support_set(kind: Any) -> None:
    at = learner("maml", kind)
    params, tasks = at.init_meta_params(), draw_tasks("classification", (1, 8, 8), 1)
    got = block_gradient("loop", exact, at, params, tasks, TRAINING)
    for plan in ("vmap", "loop_mixed"):
        other = block_gradient(plan, exact, at, params, tasks, TRAINING)
        assert relative_error(flat(other.gradients), flat(got.gradients)) < 1e-10
    differences = block_gradient("loop", FiniteDifference(1e-6), at, params, tasks, TRAINING)
    assert relative_error(flat(differences.gradients), flat(got.gradients)) < 1e-6
    if kind != "support":
        assert all(g.any() for n, g in got.gradients.items() if "alpha_" in n)
    query = tasks.query._replace(x=torch.cat([tasks.query.x[:, :1], 3 * tasks.query.x[:, 1:]], 1))
    changed = block_gradient("loop", exact, at, params, Task(tasks.support, query), TRAINING)
    first = [result.predictions[:, 0] for result in (got, changed)]
    torch.testing.assert_close(*first, rtol=1e-10, atol=1e-11)


def test_the_meta_gradient_is_that_of_plain_autograd() -> None:
    """Without inner steps, against differences of the loss of a single support and query batch."""
    at = make_algorithm("maml", network("task_norm"), F.cross_entropy, (1, 8, 8), inner_steps=1)
    params, tasks = at.init_meta_params(), draw_tasks("classification", (1, 8, 8), 1, T=1)
    got = block_gradient("loop", exact, at, params, tasks, TRAINING).gradients

    def loss(weights: dict[str, Tensor]) -> Tensor:
        support, query = (Examples(part.x[0], part.y[0]) for part in tasks)
        adapted = at.adapt(weights, support, unrolled, TRAINING)
        both = torch.cat([support.x, query.x])
        out = at.network.with_statistics_of_first(len(support.x)).apply(adapted, both)
        return F.cross_entropy(out[len(support.x) :], query.y)

    for name in ("block1.1.alpha_offset", "block2.1.alpha_scale"):
        ends = [{**params, name: params[name] + step} for step in (1e-5, -1e-5)]
        slope = (loss(ends[0]) - loss(ends[1])) / 2e-5
        torch.testing.assert_close(got[name], slope, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("kind", QUERIES_APART)
def test_a_learner_predicts_as_its_evaluation_does(kind: Any) -> None:
    at = learner("maml", kind)
    params, tasks = at.init_meta_params(), draw_tasks("classification", (1, 8, 8), 1, T=1)
    task = Task(*(Examples(part.x[0], part.y[0]) for part in tasks))
    expected = predict_task(at, params, task, EVALUATION)["transductive_prediction"][-1]
    adapted = at.adapt(params, task.support, recording(lambda _: None), EVALUATION)
    predictor = Predictor(at, adapted, task.support.x)
    for transductive in (True, False):
        got = predictor.predict(task.query.x, transductive=transductive)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("model", ["conv4", "resnet12", "resnet10", "wide_resnet", "torchvision"])
def test_any_network_with_batch_norms_has_it(model: str) -> None:
    sizes: dict[str, dict[str, Any]] = {"resnet12": {"widths": (2, 2)}, "wide_resnet": {"depth": 10,
        "widen": 1}, "resnet10": {"width": 2, "stem": "small"}}  # fmt: skip
    with torch.random.fork_rng(devices=()):
        module = MODELS[model].make((3, 16, 16), 3, **sizes.get(model, {})).double()
    count = sum(isinstance(m, nn.BatchNorm2d) for m in module.modules())
    made = Network.of(module, batch_norm="task_norm")
    assert len(made.names) == len(Network.of(module).names) + 2 * count
    x = numbers(S + Q, 3, 16, 16)
    out = made.with_statistics_of_first(S).apply(made.init_params(), x)
    one = made.with_statistics_of_first(S).apply(made.init_params(), x[: S + 1])
    torch.testing.assert_close(out[S], one[S], rtol=1e-9, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", QUERIES_APART)
def test_a_run_trains_with_it(tmp_path: Path, kind: str) -> None:
    images = {"task": "glyphs", "task__num_classes": 50, "model": "conv4", "model__filters": 2}
    config = tiny_config(tmp_path, batch_norm=kind, **images)
    run = prepare(config)
    assert config.fingerprint() != tiny_config(tmp_path, **images).fingerprint()
    result = run_session(Session(run, tmp_path, lambda r: LocalRuntime(r.work, r.outer, "cpu", 1)))
    found = evaluate(tmp_path, num_tasks=3)
    assert found.transductive == found.non_transductive
    assert result.meta_params_sha256
    if kind != "support":
        names = [n for n in run.algorithm.init_meta_params() if "alpha_" in n]
        assert len(names) == 2 * 4


def test_a_network_without_batch_norms_has_nothing_to_choose(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"batch_norm must be transductive with a model that has"):
        prepare(tiny_config(tmp_path, batch_norm="task_norm"))
