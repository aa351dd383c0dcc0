"""The learned optimiser: its LSTM against torch's, its meta-loss and meta-gradient by hand.

Letters: P coordinates, K inner steps.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from dmeta.bilevel.chain import Chain
from dmeta.bilevel.estimators import Checkpointed, Truncated, exact, first_order
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import recording, stop_gradient, unrolled
from dmeta.bilevel.transforms.lstm import (
    LSTM,
    NUM_UNITS,
    InnerLSTM,
    initial_lstm,
    lstm_cell,
    preprocessed,
)
from dmeta.bilevel.transforms.rate import Rate
from dmeta.bilevel.types import Adapted, Outcome, Params
from tests.bilevel.problems import (
    EVALUATION,
    TRAINING,
    Problem,
    first_task,
    flat,
    meta_loss_of,
    problem,
    relative_error,
)

K = 5
PLANS = ("loop", "vmap")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def learner(model: str = "mlp", **options: Any) -> Problem:
    kind = "regression" if model == "mlp" else "classification"
    return problem(model, kind, "learned_optimizer", **{"inner_steps": K, **options})


def meta_gradient(estimator: Any, at: Problem, plan: Any = "vmap") -> Params:
    return block_gradient(plan, estimator, at.algorithm, at.params, at.tasks, TRAINING).gradients


def stirred() -> dict[str, Tensor]:
    """LSTM weights among which no unit is special."""
    weights = initial_lstm({"w": normal(1)})
    return {n: w + 0.5 * normal(*w.shape, seed=i) for i, (n, w) in enumerate(weights.items())}


@pytest.mark.parametrize("order", [1, 2])
def test_the_cell_is_torchs_and_so_are_its_derivatives(order: int) -> None:
    P, X, H = 4, 3, 5
    cell = nn.LSTMCell(X, H).double()
    given = normal(P, X), normal(P, H, seed=1), normal(P, H, seed=2)
    weights = tuple(p.detach().requires_grad_() for p in (cell.weight_ih, cell.weight_hh))
    bias = (cell.bias_ih + cell.bias_hh).detach()
    x, h, c = (t.requires_grad_() for t in given)
    results = (lstm_cell((*weights, bias), x, (h, c)), cell(x, (h, c)))
    owners = ([*weights, x, h, c], [cell.weight_ih, cell.weight_hh, x, h, c])
    torch.testing.assert_close(results[0], tuple(results[1]))
    derivatives = []
    for (out, after), owner in zip(results, owners, strict=True):
        value = (out**3).sum() + (after**2).sum()
        for _ in range(order):
            grads = torch.autograd.grad(value, owner, create_graph=True)
            value = torch.stack([(g**2).sum() for g in grads]).sum()
        derivatives.append(grads)
    torch.testing.assert_close(*derivatives)


def test_gradients_are_heard_as_magnitude_and_direction() -> None:
    """Andrychowicz et al. 2016, appendix A, with p = 10."""
    g = torch.tensor([1.0, -1.0, 0.01, -1e-4, 1e-5, -2e-5, 0.0, 30.0], dtype=torch.float64)
    want = [
        (float(v.abs().log() / 10), float(v.sign())) if v.abs() >= torch.e**-10 else
        (-1.0, float(v * torch.e**10))
        for v in g
    ]  # fmt: skip
    torch.testing.assert_close(preprocessed(g), torch.tensor(want, dtype=torch.float64))
    nothing = torch.zeros(3, dtype=torch.float64)
    slope = torch.func.jacrev(preprocessed)(nothing)
    assert slope.isfinite().all()
    assert slope[0, 1, 0].item() == pytest.approx(torch.e**10)


def test_the_rule_is_torchs_two_layers_for_every_coordinate_on_its_own() -> None:
    weights, rate = stirred(), 0.1
    torchs = nn.LSTM(2, NUM_UNITS, num_layers=2, batch_first=True).double()
    output = nn.Linear(NUM_UNITS, 1).double()
    with torch.no_grad():
        for layer in (0, 1):
            for part, theirs in (("inputs", "weight_ih"), ("recurrent", "weight_hh")):
                getattr(torchs, f"{theirs}_l{layer}").copy_(weights[f"{LSTM}layer{layer}/{part}"])
            getattr(torchs, f"bias_ih_l{layer}").copy_(weights[f"{LSTM}layer{layer}/bias"])
            getattr(torchs, f"bias_hh_l{layer}").zero_()
        output.weight.copy_(weights[LSTM + "output/weight"][None])
        output.bias.copy_(weights[LSTM + "output/bias"][None])
    rule = Chain((InnerLSTM(), Rate(rate)), weights)
    params: Params = {"a": normal(2, 3), "b": normal(4, seed=1), "c": normal()}
    start, state = params, rule.init(params)
    heard: list[Tensor] = []
    for step in range(K):
        seeds = range(10 * step, 10 * step + len(params))
        gradients = {
            n: normal(*p.shape, seed=seed)
            for (n, p), seed in zip(params.items(), seeds, strict=True)
        }
        heard.append(preprocessed(flat(gradients)))
        params, state = rule.update(params, gradients, state, step)
    with torch.no_grad():
        said = output(torchs(torch.stack(heard, dim=1))[0]).sum(1)[:, 0]
    torch.testing.assert_close(flat(params), flat(start) + rate * said)
    assert [p.shape for p in params.values()] == [p.shape for p in start.values()]


def test_before_any_training_the_rule_goes_against_the_gradients_sign() -> None:
    params = {"w": normal(50)}
    rule = Chain((InnerLSTM(), Rate(0.1)), initial_lstm(params))
    gradients = {"w": normal(50, seed=1)}
    moved, state = rule.update(params, gradients, rule.init(params), 0)
    step = moved["w"] - params["w"]
    assert torch.equal(step.sign(), -gradients["w"].sign())
    assert 1e-4 < step.abs().min() < step.abs().max() < 1e-2
    further = rule.update(moved, gradients, state, 1)[0]["w"] - moved["w"]
    assert (further.abs() > step.abs()).all(), "it has momentum"


@pytest.mark.parametrize("steps", [1, 4])
def test_losses_after_every_step_enter_the_meta_loss_alike(steps: int) -> None:
    at = learner(inner_steps=steps)
    task = first_task(at)
    outcome = at.algorithm.adapt(at.params, task.support, unrolled, TRAINING)
    assert isinstance(outcome, Outcome)
    assert outcome.weights == (1.0,) * steps
    path: list[Adapted] = []
    at.algorithm.adapt(at.params, task.support, recording(path.append), TRAINING)
    assert len(path) == steps + 1
    for got, want in zip(outcome.states, path[1:], strict=True):
        assert all(torch.equal(got[name], p) for name, p in want.items())
    losses = [at.algorithm.loss(at.algorithm.predict(s, task.query.x), task.query.y) for s in path]
    surrogate = first_order(at.algorithm, at.params, task, TRAINING)
    torch.testing.assert_close(surrogate.scalar, torch.stack(losses[1:]).sum())
    assert torch.equal(surrogate.loss, losses[-1])
    last = learner(inner_steps=steps, sum_losses=False)
    for one, stage in ((last, TRAINING), (at, EVALUATION)):
        adapted = one.algorithm.adapt(at.params, task.support, unrolled, stage)
        assert not isinstance(adapted, Outcome)


def by_hand(at: Problem, window: int) -> Tensor:
    """Gradient of eq. 3 with inner gradients as constants, the chain cut every `window` steps."""
    theta = {name: p.clone().requires_grad_() for name, p in at.params.items()}
    lstm = {name: p for name, p in theta.items() if name.startswith(LSTM)}
    rule = Chain((InnerLSTM(), Rate(at.algorithm.inner.inner_lr)), lstm)
    network = at.algorithm.network
    total = torch.zeros((), dtype=torch.float64)
    for i in range(at.tasks.support.x.shape[0]):
        support, query = ([part.x[i], part.y[i]] for part in at.tasks)
        w: Params = {name: theta[name].detach() for name in network.names}
        state = rule.init(w)
        for step in range(K):
            if step % window == 0:
                w = {name: p.detach() for name, p in w.items()}
                state = pytree.tree_map(Tensor.detach, state)
            still = {name: p.detach().requires_grad_() for name, p in w.items()}
            loss = at.algorithm.loss(network.apply(still, support[0]), support[1])
            grads = dict(zip(still, torch.autograd.grad(loss, list(still.values())), strict=True))
            w, state = rule.update(w, grads, state, step)
            total = total + at.algorithm.loss(network.apply(dict(w), query[0]), query[1])
    rows = torch.autograd.grad(total, list(theta.values()), materialize_grads=True)
    return torch.cat([g.reshape(-1) for g in rows])


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("window", [1, 2, 3, K])
def test_the_meta_gradient_is_that_of_equation_3_through_windows(window: int, plan: Any) -> None:
    at = learner()
    expected = by_hand(at, window)
    got = flat(meta_gradient(Truncated(0, window), at, plan))
    assert relative_error(got, expected) < 1e-12
    whole = flat(meta_gradient(first_order, at, plan))
    assert (relative_error(whole, expected) < 1e-12) is (window == K)


@pytest.mark.slow
@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.parametrize("model", ["mlp", "conv4_strided"])
def test_sweeps_are_exact(model: str, learned: bool, plan: Any) -> None:
    at = learner(model, learn_initial_weights=learned)
    want = flat(meta_gradient(exact, at, plan))
    for estimator in (Checkpointed(), Truncated(K), Truncated(K, K)):
        assert relative_error(flat(meta_gradient(estimator, at, plan)), want) < 1e-10
    assert relative_error(flat(meta_gradient(first_order, at, plan)), want) > 1e-3


@pytest.mark.parametrize("estimator", [exact, first_order, Checkpointed(), Truncated(0, 2)])
@pytest.mark.parametrize("learned", [True, False])
def test_initial_weights_are_learned_or_constants(learned: bool, estimator: Any) -> None:
    at = learner(learn_initial_weights=learned)
    assert {n for n in at.params if not n.startswith(LSTM)} == set(at.algorithm.network.names)
    gradients = meta_gradient(estimator, at)
    assert all(gradients[name].any() for name in at.params if name.startswith(LSTM + "output"))
    assert any(gradients[name].any() for name in at.algorithm.network.names) is learned


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_differentiable_where_a_weight_has_no_gradient(plan: Any, dtype: torch.dtype) -> None:
    at = learner(learn_initial_weights=True)
    params = {name: p.to(dtype).clone() for name, p in at.params.items()}
    first = next(n for n in at.algorithm.network.names if params[n].dim() == 2)
    params[first.replace("weight", "bias")][0] = -100.0  # unit 0 is never active: zero gradients
    tasks = type(at.tasks)(*(type(part)(*(t.to(dtype) for t in part)) for part in at.tasks))
    gradients = block_gradient(plan, exact, at.algorithm, params, tasks, TRAINING).gradients
    assert all(g.isfinite().all() for g in gradients.values())
    assert flat(gradients).norm() > 0.01


@pytest.mark.slow
def test_the_rule_can_be_trained_and_leaves_the_constants_as_they_are() -> None:
    at = learner(inner_steps=8)
    task, params = first_task(at), {name: p.clone() for name, p in at.params.items()}
    outer = torch.optim.Adam(params.values(), lr=0.02)
    losses = []
    for _ in range(40):
        outcome = at.algorithm.adapt(params, task.support, stop_gradient, TRAINING)
        losses.append(float(meta_loss_of(at, outcome, task.query)))
        gradients = meta_gradient(first_order, Problem(at.algorithm, params, at.tasks))
        for name, p in params.items():
            p.grad = gradients[name]
        outer.step()
    assert losses[-1] < 0.7 * losses[0]
    assert all(torch.equal(params[name], at.params[name]) for name in at.algorithm.network.names)


@pytest.mark.parametrize("algorithm", ["maml", "anil", "cavia", "imaml"])
def test_other_methods_may_have_the_rule(algorithm: str) -> None:
    at = problem("mlp", algorithm=algorithm, inner_optimizer="lstm", inner_steps=3)
    gradients = meta_gradient(exact, at)
    assert all(gradients[n].any() for n in gradients if n.startswith(LSTM + "output"))
    assert any(g.any() for n, g in gradients.items() if not n.startswith(LSTM))
    again = meta_gradient(Checkpointed(), at)
    assert relative_error(flat(again), flat(gradients)) < 1e-10


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inner_optimizer": "sgd"}, r"inner_optimizer must be lstm .* got sgd; remove it"),
        ({"multi_step_loss_until": 3}, r"multi_step_loss_until must be 0 .* got 3; set .*sum_loss"),
        ({"inner_momentum": 0.9}, r"inner_momentum must be 0 with .*=lstm, got 0\.9; choose sgd"),
        ({"carry_moments": True}, r"carry_moments must be false with .*=lstm, got true; choose"),
        ({"adapt": ["haed.*"]}, r"got 'haed\.\*', which fits none"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        learner(**options)
