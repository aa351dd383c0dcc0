"""The contract of every registered algorithm, and what MAML's settings mean."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.algorithm import kinds
from dmeta.algorithms.maml import Maml
from dmeta.bilevel.estimators import ESTIMATORS, displacement, exact, first_order
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import recording, stop_gradient, unrolled
from dmeta.bilevel.types import Adapted, Examples, Kind, Params, Stage, Task
from dmeta.models.network import Network
from tests.bilevel.problems import (
    EVALUATION,
    LEARNS,
    TRAINING,
    draw_tasks,
    first_task,
    flat,
    has_option,
    make_algorithm,
    network,
    problem,
    sensible,
)

SMALLEST = 1e-12


@pytest.mark.parametrize("model", ["mlp", "conv4_strided"])
@pytest.mark.parametrize(("algorithm", "kind"), LEARNS)
def test_adapt_and_predict_are_pure(algorithm: str, model: str, kind: Kind) -> None:
    at = problem(model, kind, algorithm)
    task = first_task(at)
    given = [*at.params.values(), *task.support, *task.query]
    given += list(at.algorithm.network.module.state_dict().values())
    before = [t.clone() for t in given]
    random_state = torch.random.get_rng_state()

    def predict() -> Tensor:
        adapted = at.algorithm.adapt(at.params, task.support, unrolled, TRAINING)
        out: Tensor = at.algorithm.predict(adapted, task.query.x)
        return out

    one, same = predict(), predict()
    assert torch.equal(one, same)
    assert one.shape == (5, 3)
    assert all(torch.equal(t, was) for t, was in zip(given, before, strict=True))
    assert torch.equal(torch.random.get_rng_state(), random_state)
    assert dataclasses.is_dataclass(at.algorithm)
    with pytest.raises(dataclasses.FrozenInstanceError):
        at.algorithm.network = None


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_initial_meta_parameters_are_new_float_tensors_each_time(algorithm: str) -> None:
    at = problem("mlp", kinds(ALGORITHMS[algorithm].make)[0], algorithm)
    again = at.algorithm.init_meta_params()
    assert list(again) == list(at.params)
    for name, p in at.params.items():
        assert p.is_floating_point()
        assert torch.equal(p, again[name])
        assert p.data_ptr() != again[name].data_ptr()


@pytest.mark.parametrize("stage", [TRAINING, EVALUATION])
@pytest.mark.parametrize("model", ["mlp", "conv4_strided"])
@pytest.mark.parametrize(("algorithm", "kind"), LEARNS)
def test_it_adapts_from_a_single_support_example(
    algorithm: str, model: str, kind: Kind, stage: Stage
) -> None:
    at = problem(model, kind, algorithm)
    task = first_task(at)
    alone = Examples(task.support.x[:1], task.support.y[:1])
    adapted = at.algorithm.adapt(at.params, alone, unrolled, stage)
    out = at.algorithm.predict(adapted, task.query.x)
    assert out.shape == (5, 3)
    assert out.isfinite().all()


@pytest.mark.parametrize(("algorithm", "kind"), LEARNS)
def test_evaluation_learns_from_the_support_set(algorithm: str, kind: Kind) -> None:
    """The support loss falls, whatever the method: else it does not adapt."""
    at = problem("mlp", kind, algorithm)
    support = first_task(at).support
    path: list[Adapted] = []
    final = at.algorithm.adapt(at.params, support, recording(path.append), EVALUATION)
    states = path or [final]
    losses = [
        float(at.algorithm.loss(at.algorithm.predict(s, support.x), support.y)) for s in states
    ]
    if path:
        assert losses[-1] < losses[0]
    else:
        ignorant = math.log(3) if kind == "classification" else float(support.y.square().mean())
        assert losses[-1] < ignorant


@pytest.mark.parametrize("plan", ["loop", "vmap"])
@pytest.mark.parametrize(
    ("algorithm", "kind", "gradient"), [(a, k, g) for a, k in LEARNS for g in sensible(a)]
)
def test_meta_gradients_are_finite_and_not_all_zero(
    algorithm: str, kind: Kind, gradient: str, plan: Any
) -> None:
    at = problem("conv4_strided", kind, algorithm)
    estimator = ESTIMATORS[gradient].make()
    result = block_gradient(plan, estimator, at.algorithm, at.params, at.tasks, TRAINING)
    assert all(g.isfinite().all() for g in result.gradients.values())
    assert flat(result.gradients).norm() > SMALLEST
    assert result.losses.isfinite().all()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_has_an_estimator(algorithm: str) -> None:
    assert sensible(algorithm)


@dataclasses.dataclass(frozen=True)
class HeadOnly:
    """Adapts one tensor of several: theta - theta' does not exist for the rest."""

    maml: Maml

    @property
    def loss(self) -> Any:
        return self.maml.loss

    def adapt(self, meta_params: Params, support: Examples, solve: Any, stage: Stage) -> Any:
        adapted = self.maml.adapt(meta_params, support, solve, stage)
        last = list(adapted)[-1]
        return {last: adapted[last]}

    def predict(self, adapted: Adapted, x: Tensor) -> Tensor:
        raise AssertionError("must be refused before it predicts")


def test_displacement_is_refused_for_what_adapts_something_else() -> None:
    at = problem("mlp")
    message = (
        "gradient=displacement must have an algorithm that adapts exactly its meta-parameters, "
        "got HeadOnly; choose gradient=exact or first_order"
    )
    with pytest.raises(ValueError, match=message):
        displacement(HeadOnly(at.algorithm), at.params, first_task(at), TRAINING)


IMPOSSIBLE = [
    ("inner_lr", 0.0, "must be > 0"),
    ("inner_lr", -0.1, "must be > 0"),
    ("inner_lr", float("nan"), "must be > 0"),
    ("inner_steps", -1, "must be >= 0"),
    ("eval_inner_steps", -1, "must be >= 0"),
    ("inner_momentum", 1.0, "must be >= 0 and < 1"),
    ("inner_momentum", -0.5, "must be >= 0 and < 1"),
    ("inner_clip_norm", 0.0, "must be > 0 or null"),
    ("inner_batch_size", 0, "must be >= 1 or null"),
    ("eval_inner_batch_size", 0, "must be >= 1 or null"),
]


@pytest.mark.parametrize(
    ("algorithm", "key", "value", "rule"),
    [(a, *setting) for a in ALGORITHMS for setting in IMPOSSIBLE if has_option(a, setting[0])],
)
def test_impossible_settings_are_refused(algorithm: str, key: str, value: float, rule: str) -> None:
    with pytest.raises(ValueError, match=f"algorithm.{key} {rule}, got {value}"):
        problem("mlp", algorithm=algorithm, **{key: value})


@pytest.mark.parametrize("steps", [0, 1, 4])
@pytest.mark.parametrize("algorithm", [a for a in ALGORITHMS if has_option(a, "inner_steps")])
def test_evaluation_shows_a_state_before_and_after_every_inner_step(
    algorithm: str, steps: int
) -> None:
    at = problem("mlp", algorithm=algorithm, eval_inner_steps=steps, inner_steps=2)
    support = first_task(at).support
    states: list[Adapted] = []
    at.algorithm.adapt(at.params, support, recording(states.append), EVALUATION)
    assert len(states) == steps + 1
    trained: list[Adapted] = []
    at.algorithm.adapt(at.params, support, recording(trained.append), TRAINING)
    assert len(trained) == 3
    begun = {name: p for name, p in states[0].items() if name in at.params}
    assert begun
    assert all(torch.equal(p, at.params[name]) for name, p in begun.items())


@dataclasses.dataclass
class Watching:
    """A loss that remembers which rows it was shown (regression targets are row numbers)."""

    rows: list[list[int]]

    def __call__(self, prediction: Tensor, target: Tensor) -> Tensor:
        self.rows.append([int(row) for row in target[:, 0]])
        return F.mse_loss(prediction, target)


def rows_used(num_rows: int, stage: Stage, **options: Any) -> list[list[int]]:
    made, shape = network("mlp", 1)
    watch = Watching([])
    learner = make_algorithm("maml", made, watch, **options)
    x = torch.ones(num_rows, *shape, dtype=torch.float64)
    y = torch.arange(num_rows, dtype=torch.float64)[:, None]
    learner.adapt(learner.init_meta_params(), Examples(x, y), stop_gradient, stage)
    return watch.rows


def test_mini_batches_are_consecutive_slices_that_go_round() -> None:
    used = rows_used(5, TRAINING, inner_batch_size=2, inner_steps=6)
    assert used == [[0, 1], [2, 3], [4, 0], [1, 2], [3, 4], [0, 1]]


@pytest.mark.parametrize("size", [None, 5, 7])
def test_without_mini_batches_every_step_takes_all_rows(size: int | None) -> None:
    assert rows_used(5, TRAINING, inner_batch_size=size, inner_steps=2) == 2 * [[0, 1, 2, 3, 4]]


def test_training_and_evaluation_have_their_own_mini_batches() -> None:
    options = {"inner_batch_size": 1, "eval_inner_batch_size": 3, "inner_steps": 1}
    assert rows_used(4, TRAINING, **options) == [[0]]
    assert rows_used(4, EVALUATION, eval_inner_steps=2, **options) == [[0, 1, 2], [3, 0, 1]]


@pytest.mark.parametrize("plan", ["loop", "vmap"])
@pytest.mark.parametrize("estimator", [exact, first_order])
def test_without_inner_steps_the_meta_loss_is_the_plain_query_loss(
    estimator: Any, plan: Any
) -> None:
    """Joint pre-training: the gradient is that of the loss over all query examples."""
    at = problem("conv4_strided", inner_steps=0)
    result = block_gradient(plan, estimator, at.algorithm, at.params, at.tasks, TRAINING)
    leaves = {name: p.clone().requires_grad_() for name, p in at.params.items()}
    losses = torch.stack(
        [
            F.cross_entropy(at.algorithm.network.apply(leaves, x), y)
            for x, y in zip(at.tasks.query.x, at.tasks.query.y, strict=True)
        ]
    )
    losses.sum().backward()
    torch.testing.assert_close(result.losses, losses.detach())
    for name, leaf in leaves.items():
        torch.testing.assert_close(result.gradients[name], leaf.grad)


def test_two_steps_of_maml_are_two_steps_of_gradient_descent() -> None:
    at = problem("conv4", inner_steps=2, inner_lr=0.3)
    task = first_task(at)
    weights = {name: p.clone().requires_grad_() for name, p in at.params.items()}
    for _ in range(2):
        loss = F.cross_entropy(at.algorithm.network.apply(weights, task.support.x), task.support.y)
        grads = torch.autograd.grad(loss, list(weights.values()))
        weights = {
            name: (w - 0.3 * g).detach().requires_grad_()
            for (name, w), g in zip(weights.items(), grads, strict=True)
        }
    adapted = at.algorithm.adapt(at.params, task.support, unrolled, TRAINING)
    for name, w in weights.items():
        torch.testing.assert_close(adapted[name], w.detach())


def test_the_maml_family_differs_in_its_settings_only() -> None:
    """One class: what tells them apart is the estimator and the defaults in their configs."""
    one, *others = (problem("mlp", algorithm=a) for a in ("maml", "fomaml", "reptile", "joint"))
    for other in others:
        assert type(one.algorithm) is type(other.algorithm) is Maml
        assert torch.equal(flat(one.params), flat(other.params))


def test_tasks_of_the_contract_differ_from_each_other() -> None:
    tasks = draw_tasks("regression", (2,), seed=0)
    assert not torch.equal(tasks.support.y[0], tasks.support.y[1])
    assert not torch.equal(tasks.support.x[0], tasks.query.x[0, :1].expand_as(tasks.support.x[0]))


MOVED = [
    ("all", ["1.weight", "1.bias", "3.weight", "3.bias", "5.weight", "5.bias"]),
    ("head", ["5.weight", "5.bias"]),
    ("body", ["1.weight", "1.bias", "3.weight", "3.bias"]),
    (("*.bias", "3.*"), ["1.bias", "3.weight", "3.bias", "5.bias"]),
]


@pytest.mark.parametrize(("adapt", "moved"), MOVED)
def test_the_inner_loop_moves_what_it_is_told_to(adapt: Any, moved: list[str]) -> None:
    at = problem("mlp", adapt=adapt)
    adapted = at.algorithm.adapt(at.params, first_task(at).support, stop_gradient, TRAINING)
    assert [n for n, p in at.params.items() if not torch.equal(adapted[n], p)] == moved


@pytest.mark.parametrize("algorithm", ["anil", "body_only"])
def test_what_the_inner_loop_leaves_is_still_meta_learned(algorithm: str) -> None:
    at = problem("mlp", algorithm=algorithm)
    for estimator in (exact, first_order):
        result = block_gradient("loop", estimator, at.algorithm, at.params, at.tasks, TRAINING)
        assert all(g.norm() > SMALLEST for g in result.gradients.values())


@pytest.mark.parametrize("algorithm", ["anil", "body_only", "meta_sgd"])
def test_displacement_is_refused_where_a_part_would_never_be_learned(algorithm: str) -> None:
    assert "displacement" not in sensible(algorithm)


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match=r"algorithm\.adapt must be .*1\.weight.*, got 'haed\.\*'"):
        problem("mlp", adapt=["haed.*"])
    with pytest.raises(ValueError, match=r"algorithm\.adapt=body must leave a parameter to adapt"):
        problem("mlp", adapt="body", model_options={"num_layers": 0})


RATES = [("per_tensor", [()] * 6), ("per_tensor_and_step", [(3,)] * 6), ("per_element", None)]


@pytest.mark.parametrize(("learned", "shapes"), RATES)
def test_learned_rates_start_as_the_inner_lr_and_do_what_it_does(learned: str, shapes: Any) -> None:
    fixed = problem("mlp", inner_lr=0.05, inner_steps=3, eval_inner_steps=5)
    at = problem("mlp", inner_lr=0.05, inner_steps=3, eval_inner_steps=5, learn_inner_lr=learned)
    rates = {n: p for n, p in at.params.items() if n.startswith("inner_lr/")}
    assert [n.removeprefix("inner_lr/") for n in rates] == list(fixed.params)
    assert [tuple(p.shape) for p in rates.values()] == (
        shapes or [tuple(p.shape) for p in fixed.params.values()]
    )
    for stage in (TRAINING, EVALUATION):
        support = first_task(at).support
        want = fixed.algorithm.adapt(fixed.params, support, stop_gradient, stage)
        got = at.algorithm.adapt(at.params, support, stop_gradient, stage)
        assert all(torch.allclose(got[n], p, rtol=1e-14) for n, p in want.items())


def test_a_step_may_be_clipped_and_have_momentum() -> None:
    at = problem("mlp", inner_lr=1.0, inner_clip_norm=1e-3, inner_steps=1)
    support = first_task(at).support
    adapted = at.algorithm.adapt(at.params, support, stop_gradient, TRAINING)
    assert torch.isclose((flat(adapted) - flat(at.params)).norm(), torch.tensor(1e-3).double())
    loose = problem("mlp", inner_lr=1.0, inner_clip_norm=1e3, inner_steps=1)
    plain = problem("mlp", inner_lr=1.0, inner_steps=1)
    pair = [p.algorithm.adapt(p.params, support, stop_gradient, TRAINING) for p in (loose, plain)]
    assert torch.allclose(flat(pair[0]), flat(pair[1]), rtol=1e-14)
    heavy = problem("mlp", inner_momentum=0.9, inner_steps=3)
    light = problem("mlp", inner_steps=3)
    moves = [
        (
            flat(p.algorithm.adapt(p.params, support, stop_gradient, TRAINING)) - flat(p.params)
        ).norm()
        for p in (heavy, light)
    ]
    assert moves[0] > 1.5 * moves[1]


def test_prototypes_are_class_means_and_the_nearest_one_wins() -> None:
    """Snell et al. 2017, eq. 1 and 2, by hand, in an embedding that is the input itself."""
    identity = Network.of(nn.Flatten())
    learner = make_algorithm("protonet", identity, F.cross_entropy)
    x = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 1.0]])
    support = Examples(x, torch.tensor([1, 1, 0]))
    adapted = learner.adapt({}, support, stop_gradient, Stage(training=True, ways=3))
    prototypes = torch.tensor([[5.0, 1.0], [1.0, 0.0], [0.0, 0.0]])  # class 2 has no example
    assert torch.equal(adapted["prototypes"], prototypes)
    queries = torch.tensor([[4.0, 1.0], [1.0, 3.0]])
    logits = learner.predict(adapted, queries)
    assert torch.equal(logits, -((queries[:, None] - prototypes) ** 2).sum(-1))
    assert logits.argmax(1).tolist() == [0, 1]


CARRIED: dict[str, Any] = {"inner_optimizer": "adam", "carry_moments": True, "inner_steps": 3}


def test_carried_moments_start_as_none() -> None:
    fresh = problem("mlp", inner_optimizer="adam", inner_steps=3)
    carried = problem("mlp", **CARRIED)
    support = first_task(fresh).support
    want = fresh.algorithm.adapt(fresh.params, support, stop_gradient, TRAINING)
    got = carried.algorithm.adapt(carried.params, support, stop_gradient, TRAINING)
    assert got.keys() == carried.params.keys()
    assert got.keys() > want.keys()
    for name, p in want.items():
        torch.testing.assert_close(got[name], p, rtol=1e-12, atol=1e-12)


def test_carried_moments_are_one_adam_for_all_tasks() -> None:
    """Reptile with an outer rate of 1 and one task a step is Adam, step after step, over all."""
    at = problem("mlp", "regression", "reptile", inner_batch_size=None, **CARRIED)
    params = at.params
    leaves = {n: params[n].clone().requires_grad_() for n in at.algorithm.network.names}
    adam = torch.optim.Adam(leaves.values(), lr=at.algorithm.inner.inner_lr, betas=(0.0, 0.999))
    for step in range(4):
        support = Examples(*(part[step % 2] for part in at.tasks.support))
        task = Task(Examples(*(p[None] for p in support)), Examples(*(p[None] for p in support)))
        result = block_gradient("loop", displacement, at.algorithm, params, task, TRAINING)
        params = {name: p - result.gradients[name] for name, p in params.items()}
        for _ in range(3):
            adam.zero_grad()
            at.algorithm.loss(at.algorithm.network.apply(leaves, support.x), support.y).backward()
            adam.step()
        for name, p in leaves.items():
            torch.testing.assert_close(params[name], p.detach(), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("estimator", [exact, first_order])
def test_moments_stay_none_unless_displaced(estimator: Any) -> None:
    at = problem("mlp", **CARRIED)
    gradients = block_gradient("vmap", estimator, at.algorithm, at.params, at.tasks, TRAINING)
    moments = [g for n, g in gradients.gradients.items() if n.startswith("inner_moment")]
    assert len(moments) == 7
    assert not any(g.any() for g in moments)


def test_carried_moments_are_adams() -> None:
    with pytest.raises(ValueError, match=r"algorithm\.carry_moments must be false .* choose adam"):
        problem("mlp", carry_moments=True)


@pytest.mark.parametrize("model", ["mlp", "conv4", "conv4_strided"])
def test_cavia_moves_the_context_from_zero_and_learns_the_rest(model: str) -> None:
    at = problem(model, algorithm="cavia", inner_steps=2)
    contexts = [n for n in at.algorithm.network.names if n.split(".")[-1] == "context"]
    assert len(contexts) == 1
    assert contexts[0] not in at.params
    states: list[Adapted] = []
    at.algorithm.adapt(at.params, first_task(at).support, recording(states.append), TRAINING)
    assert not states[0][contexts[0]].any()
    assert states[1][contexts[0]].any()
    for state in states:
        assert all(torch.equal(state[name], p) for name, p in at.params.items())
    gradients = block_gradient("vmap", exact, at.algorithm, at.params, at.tasks, TRAINING).gradients
    # A convolution's bias before batch-norm has no effect, hence no gradient.
    assert sum(float(g.norm()) > 1e-9 for g in gradients.values()) >= len(gradients) - 4
