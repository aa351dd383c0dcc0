"""LEO: its parts by hand, its penalties, its two inner loops, its noise."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from dmeta.algorithms import latent_codes
from dmeta.algorithms.latent_codes import DECODER, ENCODER, RELATION, Gaussian
from dmeta.bilevel import ESTIMATORS
from dmeta.bilevel.estimators import exact, first_order
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import recording, unrolled
from dmeta.bilevel.types import Adapted, Examples, Outcome, Stage
from dmeta.models.network import Network
from tests.bilevel.problems import (
    EVALUATION,
    TRAINING,
    draw_tasks,
    first_task,
    flat,
    make_algorithm,
    problem,
    relative_error,
)

S, D, L, W = 6, 5, 4, 3
PLAIN = dict.fromkeys(("kl_weight", "encoder_weight", "l2_weight", "orthogonality_weight"), 0.0)


def parts(seed: int = 0) -> dict[str, Tensor]:
    return latent_codes.init_parts(D, L, seed, torch.zeros((), dtype=torch.float64))


def features(rows: int = S) -> Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def unit(x: Tensor) -> Tensor:
    """Rows of length 1, if they were not much shorter than 1e-3."""
    return x / (x.square().sum(1, keepdim=True) + 1e-6).sqrt()


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_parts_start_glorot_uniform_from_their_own_seed() -> None:
    made, again, other = parts(0), parts(0), parts(1)
    assert [tuple(p.shape) for p in made.values()] == [(D, L), *3 * [(2 * L, 2 * L)], (L, 2 * D)]
    for name, p in made.items():
        assert torch.equal(p, again[name])
        assert not torch.equal(p, other[name])
        bound = math.sqrt(6 / sum(p.shape))
        assert 0.8 * bound < p.abs().max() <= bound


def test_a_code_is_a_mean_over_all_pairs_with_an_example_of_the_class() -> None:
    """Section 2.3.2, pair by pair."""
    x, labels, made = features(), torch.tensor([0, 0, 0, 1, 1, 0]), parts()
    code = latent_codes.encode(made, x, labels, W)
    assert code.mean.shape == code.std.shape == (W, L)
    for n in range(2):
        related = []
        for i in torch.nonzero(labels == n).flatten():
            for j in range(S):
                pair = torch.cat([x[i] @ made[ENCODER], x[j] @ made[ENCODER]])
                hidden = torch.relu(torch.relu(pair @ made[RELATION[0]]) @ made[RELATION[1]])
                related.append(hidden @ made[RELATION[2]])
        mean, before = torch.stack(related).mean(0).chunk(2)
        torch.testing.assert_close(code.mean[n], mean)
        torch.testing.assert_close(code.std[n], F.softplus(before) / math.log(2) + 1e-6)
    assert not code.mean[2].any(), "a class without examples has the prior"
    torch.testing.assert_close(code.std[2], torch.ones(L, dtype=torch.float64), rtol=0, atol=2e-6)


def test_weights_are_linear_in_the_code_and_start_with_glorots_deviation() -> None:
    codes, made = features()[:W, :L], parts()
    weights = latent_codes.decode(made, codes)
    assert weights.mean.shape == weights.std.shape == (W, D)
    both = codes @ made[DECODER]
    torch.testing.assert_close(weights.mean, both[:, :D])
    glorot = math.sqrt(2 / (D + W))
    want = glorot * softplus(float(both[1, D + 2])) / softplus(0.0) + 1e-6
    assert float(weights.std[1, 2]) == pytest.approx(want)


def test_the_divergence_is_torchs() -> None:
    code = Gaussian(features(W), features(W).abs() + 0.1)
    want = kl_divergence(Normal(code.mean, code.std), Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(latent_codes.divergence(code), want)
    prior = Gaussian(torch.zeros(W, L), torch.ones(W, L))
    assert latent_codes.divergence(prior) == 0


def test_an_orthogonal_decoder_has_no_correlation_whatever_its_lengths() -> None:
    rows = torch.diag(torch.tensor([1.0, 5.0, 0.1]))
    assert latent_codes.decoder_correlation({DECODER: rows}) < 1e-12
    rows[1] = rows[0]  # one pair of equal rows: two of nine cosines are 1, not 0
    assert float(latent_codes.decoder_correlation({DECODER: rows})) == pytest.approx(2 / 9)


def test_the_l2_term_is_of_all_parts() -> None:
    made = {**parts(), "network.weight": torch.ones(3)}
    want = 0.5 * sum(float(p.square().sum()) for p in parts().values())
    assert float(latent_codes.half_squares(made)) == pytest.approx(want)


def trained(**options: Any) -> tuple[Any, Outcome]:
    """The problem and what `adapt` returns in training."""
    at = problem("mlp", algorithm="leo", **{**PLAIN, **options})
    outcome = at.algorithm.adapt(at.params, first_task(at).support, unrolled, TRAINING)
    assert isinstance(outcome, Outcome)
    return at, outcome


def code_of(at: Any) -> Gaussian:
    """The Gaussian that `adapt` finds where nothing is dropped, in features of length 1."""
    support = first_task(at).support
    weights = {name: at.params[name] for name in at.algorithm.network.names}
    embedded = unit(at.algorithm.network.apply(weights, support.x))
    return latent_codes.encode(at.params, embedded, support.y, W)


def test_each_weight_scales_its_own_penalty() -> None:
    at, none = trained(dropout=0.0)
    assert float(none.penalty) == 0
    assert none.weights == (1.0,)
    wanted = {
        "kl_weight": latent_codes.divergence(code_of(at)),
        "l2_weight": latent_codes.half_squares(at.params),
        "orthogonality_weight": latent_codes.decoder_correlation(at.params),
    }
    for key, value in wanted.items():
        outcome = trained(dropout=0.0, **{key: 2.0})[1]
        torch.testing.assert_close(outcome.penalty, 2 * value, rtol=1e-5, atol=0)
    states: list[Adapted] = []
    support = first_task(at).support
    at.algorithm.adapt(at.params, support, recording(states.append), TRAINING)
    moved = states[-1]["codes"] - states[0]["codes"]
    outcome = trained(dropout=0.0, encoder_weight=2.0)[1]
    torch.testing.assert_close(outcome.penalty, 2 * moved.square().mean())


def test_the_encoder_is_drawn_to_where_the_inner_loop_went_and_not_the_reverse() -> None:
    """Stopgrad(z'): with no other term the rates, by which z' moves, have no gradient."""
    at = problem("mlp", algorithm="leo", dropout=0.0, **{**PLAIN, "encoder_weight": 1.0})
    leaves = {name: p.clone().requires_grad_() for name, p in at.params.items()}
    outcome = at.algorithm.adapt(leaves, first_task(at).support, unrolled, TRAINING)
    grads = torch.autograd.grad(outcome.penalty, list(leaves.values()), materialize_grads=True)
    of = dict(zip(leaves, grads, strict=True))
    assert of[ENCODER].any()
    assert not of["inner_lr/codes"].any()


def test_the_two_inner_loops_by_hand() -> None:
    """One latent step, one of fine-tuning, at evaluation, by autograd."""
    options = {"latent_steps": 1, "finetuning_steps": 1, "latent_lr": 0.5, "finetuning_lr": 0.2}
    identity = Network.of(nn.Flatten())
    learner = make_algorithm("leo", identity, F.cross_entropy, (D,), num_latents=L, **options)
    params = {name: p.double() for name, p in learner.init_meta_params().items()}
    x, y = features(), torch.arange(S) % W
    states: list[Adapted] = []
    learner.adapt(params, Examples(x, y), recording(states.append), EVALUATION)

    codes = latent_codes.encode(params, unit(x), y, W).mean.requires_grad_()
    weights = latent_codes.decode(params, codes).mean
    torch.testing.assert_close(states[0]["weights"], weights.detach())
    loss = W * F.cross_entropy(unit(x) @ weights.T, y)
    after = codes - 0.5 * torch.autograd.grad(loss, codes)[0]
    torch.testing.assert_close(states[1]["codes"], after.detach())
    weights = latent_codes.decode(params, after).mean.detach().requires_grad_()
    torch.testing.assert_close(states[1]["weights"], weights.detach())
    loss = W * F.cross_entropy(unit(x) @ weights.T, y)
    tuned = weights - 0.2 * torch.autograd.grad(loss, weights)[0]
    torch.testing.assert_close(states[2]["weights"], tuned.detach())
    assert torch.equal(states[2]["codes"], states[1]["codes"])
    torch.testing.assert_close(learner.predict(states[2], x), (unit(x) @ tuned.T).detach())


@pytest.mark.parametrize(("given", "shown"), [(None, 6), (0, 1), (1, 2), (3, 4), (9, 10)])
def test_inner_steps_are_counted_over_both_loops(given: int | None, shown: int) -> None:
    at = problem("mlp", algorithm="leo", latent_steps=2, finetuning_steps=3)
    states: list[Adapted] = []
    stage = Stage(training=False, ways=W, inner_steps=given)
    at.algorithm.adapt(at.params, first_task(at).support, recording(states.append), stage)
    assert len(states) == shown
    codes = [state["codes"] for state in states]
    assert all(torch.equal(z, codes[min(2, shown - 1)]) for z in codes[2:])


def test_training_samples_and_drops_and_evaluation_does_neither() -> None:
    at = problem("mlp", algorithm="leo")
    task = first_task(at)

    def logits(training: bool, seed: int, **changes: Any) -> Tensor:
        learner = problem("mlp", algorithm="leo", **changes).algorithm
        stage = Stage(training=training, ways=W, task_seed=seed)
        found = learner.adapt(at.params, task.support, unrolled, stage)
        state = found.states[-1] if isinstance(found, Outcome) else found
        out: Tensor = learner.predict(state, task.query.x)
        return out

    assert not torch.equal(logits(True, 0), logits(True, 1))
    assert not torch.equal(logits(True, 0), logits(True, 0, dropout=0.0))
    assert torch.equal(logits(False, 0), logits(False, 1))
    assert torch.equal(logits(False, 0), logits(False, 0, dropout=0.0))


@pytest.mark.parametrize("plan", ["loop", "vmap"])
def test_every_task_of_a_block_has_its_own_noise(plan: Any) -> None:
    at = problem("mlp", algorithm="leo")
    twice = type(at.tasks)(
        *(Examples(*(part[:1].expand(2, *part.shape[1:]) for part in p)) for p in at.tasks)
    )
    seeds = torch.tensor([4, 5])
    both = block_gradient(plan, exact, at.algorithm, at.params, twice, TRAINING, seeds)
    assert both.losses[0] != both.losses[1]
    alone = [
        block_gradient("loop", exact, at.algorithm, at.params, _one(twice), TRAINING, seeds[[i]])
        for i in range(2)
    ]
    together = flat(alone[0].gradients) + flat(alone[1].gradients)
    assert relative_error(flat(both.gradients), together) < 1e-10


def _one(tasks: Any) -> Any:
    return type(tasks)(*(Examples(*(t[:1] for t in part)) for part in tasks))


def test_everything_is_learned_and_first_order_is_another_gradient() -> None:
    at = problem("mlp", algorithm="leo")
    found = [
        block_gradient("vmap", estimator, at.algorithm, at.params, at.tasks, TRAINING).gradients
        for estimator in (exact, first_order)
    ]
    assert all(g.norm() > 1e-9 for gradients in found for g in gradients.values())
    assert relative_error(flat(found[1]), flat(found[0])) > 1e-2


@pytest.mark.parametrize("gradient", ["checkpointed", "truncated", "finite_difference", "implicit"])
def test_gradients_of_one_inner_loop_are_refused(gradient: str) -> None:
    at = problem("mlp", algorithm="leo")
    with pytest.raises(ValueError, match="one inner loop, got Leo with several"):
        ESTIMATORS[gradient].make()(at.algorithm, at.params, first_task(at), TRAINING)


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("num_latents", 0, ">= 1"),
        ("latent_lr", 0.0, "> 0"),
        ("finetuning_lr", float("nan"), "finite"),
        ("latent_steps", -1, ">= 0"),
        ("kl_weight", -0.1, ">= 0"),
        ("orthogonality_weight", float("nan"), "finite"),
        ("dropout", 1.0, ">= 0 and < 1"),
    ],
)
def test_impossible_settings_are_refused(key: str, value: float, rule: str) -> None:
    with pytest.raises(ValueError, match=f"algorithm.{key} must be {rule}, got {value}"):
        problem("mlp", algorithm="leo", **{key: value})


def test_tasks_may_have_any_number_of_ways() -> None:
    at = problem("mlp", algorithm="leo")
    task = draw_tasks("classification", (2,), seed=3, W=2)
    support = Examples(task.support.x[0], task.support.y[0])
    outcome = at.algorithm.adapt(at.params, support, unrolled, Stage(training=True, ways=2))
    assert at.algorithm.predict(outcome.states[-1], task.query.x[0]).shape == (5, 2)
