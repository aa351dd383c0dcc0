"""URL: what a mini-batch of one of several data sets costs, and what is learned from a teacher."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dmeta.algorithms.base_classes import BIAS, WEIGHT
from dmeta.algorithms.kernel_alignment import kernel_alignment
from dmeta.algorithms.url import ADAPTORS, TEACHER
from dmeta.bilevel.estimators import exact
from dmeta.bilevel.flat import Layout
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import stop_gradient
from dmeta.bilevel.types import Examples, Params, Stage, Task
from tests.bilevel.problems import EVALUATION, first_task, flat, problem, relative_error

SIZES = (3, 4, 2)
STAGE = Stage(training=True, ways=sum(SIZES))
FIRST = (0, 3, 7)  # label of each data set
N = 7


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def centred_alignment(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> float:
    """Kornblith et al. 2019, with the matrix H."""
    n = len(one)
    H = np.eye(n) - 1 / n

    def product(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
        return float(np.trace(H @ a @ H @ H @ b @ H))

    return product(one, other) / math.sqrt(product(one, one) * product(other, other))


def rbf(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    squared = np.array([[((a - b) ** 2).sum() for b in rows] for a in rows])
    median = np.median(squared[np.triu_indices(len(rows), 1)])  # of 21 numbers
    out: npt.NDArray[Any] = np.exp(-squared / (2 * median))
    return out


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_the_alignment_is_that_of_its_formula(kernel: Any) -> None:
    x, y = numbers(N, 4), numbers(N, 3, seed=1)
    matrix = rbf if kernel == "rbf" else lambda rows: rows @ rows.T
    expected = centred_alignment(matrix(x.numpy()), matrix(y.numpy()))
    assert float(kernel_alignment(x, y, kernel)) == pytest.approx(expected, rel=1e-12)
    assert 0 < expected < 0.9
    turned, _ = torch.linalg.qr(numbers(4, 4, seed=2))
    assert float(kernel_alignment(x, 3 * x @ turned, kernel)) == pytest.approx(1, rel=1e-12)
    assert float(kernel_alignment(x[:1], y[:1], kernel)) == 1


def learner_of(teachers: bool, **options: Any) -> tuple[Any, dict[str, Tensor]]:
    """The method on three data sets, and meta-parameters that are nowhere at their beginning."""
    plain = problem("mlp", algorithm="url").algorithm
    learner = dataclasses.replace(
        plain, base_class_sizes=SIZES, teachers=("a", "b", "c") if teachers else (), **options
    )
    params: dict[str, Tensor] = learner.init_meta_params()
    for seed, (name, p) in enumerate(params.items()):
        noise = numbers(*p.shape, seed=seed)
        is_bias = name.endswith("bias")  # no feature is 0 for all examples
        params[name] = p + 0.5 * (noise.abs() if is_bias else noise)
    return learner, params


def batches() -> Task:
    """[T=3] mini-batches, one of each data set."""
    x = numbers(3, N, 2, seed=9)
    y = torch.stack([first + torch.arange(N) % n for first, n in zip(FIRST, SIZES, strict=True)])
    return Task(Examples(x, y), Examples(x, y))


def one(place: int) -> Task:
    part = Examples(batches().support.x[place], batches().support.y[place])
    return Task(part, part)


def reference(learner: Any, params: Params, place: int) -> Tensor:
    """The loss of a mini-batch, with the classes of its data set alone."""
    x, y = one(place).support
    first, size, T = FIRST[place], SIZES[place], learner.temperature
    names = learner.network.names
    student = learner.network.apply({n: params[n] for n in names}, x)
    teacher = learner.network.apply({n: params[TEACHER + n][place] for n in names}, x)

    def logits(features: Tensor, prefix: str = "") -> Tensor:
        rows = slice(first, first + size)
        return features @ params[prefix + WEIGHT][rows].T + params[prefix + BIAS][rows]

    own, goal = logits(student), logits(teacher, TEACHER)
    divergence = F.kl_div(
        (own / T).log_softmax(1), (goal / T).softmax(1), reduction="batchmean"
    ) * T**2  # fmt: skip
    mapped = F.normalize(student @ params[ADAPTORS][place].T)
    alike = centred_alignment(
        rbf(mapped.detach().numpy()), rbf(F.normalize(teacher).detach().numpy())
    )
    distance = learner.feature_weight * (1 - alike) + learner.logit_weight * divergence
    return F.cross_entropy(own, y - first) + distance


@pytest.mark.parametrize("place", range(3))
@pytest.mark.parametrize(
    "options", [{}, {"temperature": 1.0, "feature_weight": 4.0, "logit_weight": 0.5}]
)
def test_the_loss_is_on_the_classes_of_the_data_set_of_the_mini_batch(
    place: int, options: dict[str, Any]
) -> None:
    learner, params = learner_of(teachers=True, **options)
    got = exact(learner, params, one(place), STAGE)
    torch.testing.assert_close(got.scalar, reference(learner, params, place), rtol=1e-9, atol=0)
    first = FIRST[place]
    best = got.prediction.argmax(1)
    assert ((best >= first) & (best < first + SIZES[place])).all()


def gradients(plan: Any, learner: Any, params: Params, tasks: Task) -> dict[str, Tensor]:
    return block_gradient(plan, exact, learner, params, tasks, STAGE).gradients


def test_a_mini_batch_teaches_nothing_about_other_data_sets_and_nothing_to_teachers() -> None:
    learner, params = learner_of(teachers=True)
    task = Task(*(Examples(part.x[1:2], part.y[1:2]) for part in batches()))
    found = gradients("loop", learner, params, task)
    own = slice(FIRST[1], FIRST[1] + SIZES[1])
    for name, rows in ((WEIGHT, own), (BIAS, own), (ADAPTORS, slice(1, 2))):
        assert found[name][rows].abs().max() > 1e-3
        found[name][rows] = 0
        assert not found[name].any(), name
    assert learner.constants == {name for name in params if name.startswith(TEACHER)}
    assert all(not found[name].any() for name in learner.constants)


@pytest.mark.parametrize("teachers", [True, False])
def test_all_mini_batches_at_once_are_those_one_by_one(teachers: bool) -> None:
    learner, params = learner_of(teachers)
    looped, mapped = (gradients(plan, learner, params, batches()) for plan in ("loop", "vmap"))
    assert relative_error(flat(mapped), flat(looped)) < 1e-13


def test_the_gradient_is_that_of_finite_differences() -> None:
    """Where the median's place is: it has no gradient, so it is held by a linear kernel."""
    learner, params = learner_of(teachers=True, kernel="linear")
    layout = Layout.of(params)
    theta, learned = flat(params), flat({n: torch.full_like(p, n not in learner.constants)
                                         for n, p in params.items()})  # fmt: skip
    gradient = flat(gradients("vmap", learner, params, batches()))

    def loss(vector: Tensor) -> float:
        at = layout.unflatten(vector)
        return sum(float(exact(learner, at, one(place), STAGE).scalar) for place in range(3))

    for seed in range(4):
        v = learned * numbers(layout.size, seed=seed)
        v /= v.norm()
        expected = (loss(theta + 1e-5 * v) - loss(theta - 1e-5 * v)) / 2e-5
        assert float(gradient @ v) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("step", "share"), [(0, 1.0), (5, 0.5), (10, 0.0), (20, 0.0)])
def test_the_teacher_counts_less_and_less(step: int, share: float) -> None:
    learner, params = learner_of(teachers=True, anneal_steps=10)
    alone = float(exact(learner, params, one(0), dataclasses.replace(STAGE, step=10)).scalar)
    whole = float(reference(learner, params, 0))
    got = float(exact(learner, params, one(0), dataclasses.replace(STAGE, step=step)).scalar)
    assert got == pytest.approx(alone + share * (whole - alone), rel=1e-9)
    assert whole > 1.01 * alone


def test_one_data_set_without_teachers_is_a_classifier_of_its_classes() -> None:
    one_set, baseline = (problem("mlp", algorithm=name) for name in ("url", "baseline"))
    losses = [exact(at.algorithm, at.params, first_task(at), Stage(training=True, ways=3)).scalar
              for at in (one_set, baseline)]  # fmt: skip
    assert torch.equal(*losses)
    assert one_set.algorithm.constants == frozenset()


def test_a_task_is_learned_as_by_tsa_without_adapters() -> None:
    url = problem("conv4", algorithm="url")
    tsa = problem("conv4", algorithm="tsa", adapters=False, map_lr=0.1)
    support, query = first_task(url)
    got, expected = (
        at.algorithm.predict(
            at.algorithm.adapt(at.params, support, stop_gradient, EVALUATION), query.x
        )
        for at in (url, tsa)
    )
    assert torch.equal(got, expected)


def test_adaptors_are_the_identity_at_first_and_teachers_wait_for_their_values() -> None:
    learner, _ = learner_of(teachers=True)
    params = learner.init_meta_params()
    width = params[WEIGHT].shape[1]
    assert torch.equal(params[ADAPTORS], torch.eye(width).double().expand(3, -1, -1))
    assert all(not params[name].any() for name in learner.constants)


def teacher(learner: Any, size: int) -> dict[str, Tensor]:
    weights = {n: numbers(*learner.network.shape_of(n)) for n in learner.network.names}
    width = learner.init_meta_params()[WEIGHT].shape[1]
    return {**weights, WEIGHT: numbers(size, width), BIAS: numbers(size), "own/part": numbers(2)}


def test_the_teachers_are_stacked_and_their_classes_follow_each_other() -> None:
    learner, params = learner_of(teachers=True)
    given = [teacher(learner, size) for size in SIZES]
    found = learner.teacher_constants(given)
    assert set(found) == learner.constants
    for name, value in found.items():
        assert value.shape == params[name].shape
    assert torch.equal(found[TEACHER + BIAS][3:7], given[1][BIAS])
    name = learner.network.names[0]
    assert torch.equal(found[TEACHER + name][2], given[2][name])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({WEIGHT: numbers(5, 5)}, r"got b \(base_classes/weight \[5, 5\] instead of \[4, 5\]\)"),
        ({BIAS: None}, r"base_classes/bias none instead of \[4\]"),
        ({"another.weight": numbers(3)}, "got b .more parameters"),
    ],
)
def test_a_teacher_that_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    learner, _ = learner_of(teachers=True)
    given = [teacher(learner, size) for size in SIZES]
    given[1] = {name: p for name, p in {**given[1], **change}.items() if p is not None}
    with pytest.raises(ValueError, match=message):
        learner.teacher_constants(given)


def test_what_makes_no_sense_is_refused() -> None:
    learner, _ = learner_of(teachers=False)
    with pytest.raises(ValueError, match=r"one run for each of 3 data sets.*got 1"):
        dataclasses.replace(learner, teachers=("a",))
    smoothed = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    with pytest.raises(ValueError, match="set loss=cross_entropy"):
        dataclasses.replace(learner, loss=smoothed)
    assert dataclasses.replace(learner, loss=smoothed, base_class_sizes=(9,)).loss is smoothed
