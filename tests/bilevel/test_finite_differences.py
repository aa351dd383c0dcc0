"""Meta-gradients against central finite differences, in float64.

Run with ``-s`` to see the table of relative errors. The meta-parameters are perturbed along random
directions: errors are relative to the whole gradient, and these find what every coordinate would.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from dmeta.bilevel.estimators import exact, first_order
from dmeta.bilevel.flat import Layout
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import unrolled
from tests.bilevel.problems import (
    TRAINING,
    Problem,
    flat,
    meta_loss_of,
    problem,
    relative_error,
    takes_inner_steps,
)

BOUND = 1e-6
H = 1e-6  # small enough that no ReLU or max-pool switches between theta - h v and theta + h v
NUM_DIRECTIONS = 12
STEPS = (1, 3, 5)
USUAL_STEPS = 3  # of the cases that have no other number of steps to themselves

# name -> (model, kind, seed, options of the algorithm, options of the model)
CASES = {
    "mlp, ANIL": ("mlp", "regression", 0, {"adapt": "head"}, {}),
    "mlp, body only": ("mlp", "regression", 0, {"adapt": "body"}, {}),
    "mlp, Meta-SGD": ("mlp", "regression", 0, {"learn_inner_lr": "per_element"}, {}),
    "mlp, Meta-Curvature": ("mlp", "regression", 0, {"precondition": "curvature"}, {}),
    "conv4, 2 blocks, Meta-Curvature": (
        "conv4", "classification", 0, {"precondition": "curvature"}, {},
    ),
    "mlp, learned optimiser": (
        "mlp", "regression", 0, {"algorithm": "learned_optimizer", "learn_initial_weights": True},
        {},
    ),
    "conv4_strided, 2 blocks, inner LSTM": (
        "conv4_strided", "classification", 0, {"inner_optimizer": "lstm"}, {},
    ),
    "mlp, a rate per tensor and step": (
        "mlp", "regression", 0, {"learn_inner_lr": "per_tensor_and_step"}, {},
    ),
    "mlp, iMAML's inner problem": ("mlp", "regression", 0, {"inner_proximal": 2.0}, {}),
    "mlp, CAVIA": ("mlp", "regression", 0, {"algorithm": "cavia"}, {}),
    "conv4, 2 blocks, CAVIA": ("conv4", "classification", 0, {"algorithm": "cavia"}, {}),
    "mlp, multi-step loss": ("mlp", "regression", 0, {"multi_step_loss_until": 4}, {}),
    "conv4, 2 blocks, MAML++": ("conv4", "classification", 0, {"algorithm": "maml_pp"}, {}),
    "mlp, ProtoMAML": ("mlp", "classification", 0, {"algorithm": "proto_maml"}, {}),
    "conv4, 2 blocks, ProtoMAML": (
        "conv4", "classification", 0, {"algorithm": "proto_maml"}, {},
    ),
    "mlp, momentum and clipping": (
        "mlp", "regression", 0, {"inner_momentum": 0.9, "inner_clip_norm": 0.5}, {},
    ),
    # Without the one penalty that has a stopgrad: differences do not see where it stands.
    "mlp, LEO": (
        "mlp", "classification", 0,
        {
            "algorithm": "leo", "num_latents": 4, "latent_lr": 0.3, "finetuning_lr": 0.1,
            "kl_weight": 0.1, "encoder_weight": 0.0, "l2_weight": 0.1, "orthogonality_weight": 0.1,
        },
        {},
    ),
    "mlp, ProtoNet": ("mlp", "classification", 0, {"algorithm": "protonet"}, {}),
    "conv4, 2 blocks, ProtoNet, cosine, learned scale": (
        "conv4", "classification", 0,
        {"algorithm": "protonet", "distance": "cosine", "scale": 5.0, "learn_scale": True}, {},
    ),
    "conv4, 2 blocks, matching": (
        "conv4", "classification", 0, {"algorithm": "matching", "scale": 5.0}, {},
    ),
    "mlp, matching with full context": (
        "mlp", "classification", 0, {"algorithm": "matching", "full_context": True}, {},
    ),
    "conv4, 2 blocks, FEAT": (
        "conv4", "classification", 0, {"algorithm": "feat", "temperature": 4.0}, {},
    ),
    "conv4, 2 blocks, Siamese": ("conv4", "classification", 0, {"algorithm": "siamese"}, {}),
    "conv4, 2 blocks, baseline": ("conv4", "classification", 0, {"algorithm": "baseline"}, {}),
    "conv4, 2 blocks, Baseline++": (
        "conv4", "classification", 0, {"algorithm": "baseline_pp"}, {},
    ),
    "mlp, RFS": ("mlp", "classification", 0, {"algorithm": "rfs"}, {}),
    "mlp, fine-tuning": ("mlp", "classification", 0, {"algorithm": "finetune"}, {}),
    # Without the centre, whose penalty has a stopgrad.
    "mlp, SimpleShot": (
        "mlp", "classification", 0, {"algorithm": "simpleshot", "features": "l2n"}, {},
    ),
    "mlp, chain of Nesterov and weight decay": (
        "mlp", "regression", 0, {"inner_chain": ["clip", "nesterov", "weight_decay", "rate"]}, {},
    ),
    "mlp, chain of Adam, learned rates": (
        "mlp", "regression", 0,
        {"inner_chain": ["adam", "rate"], "learn_inner_lr": "per_tensor"}, {},
    ),
    "mlp, chain of Adadelta": (
        "mlp", "regression", 0, {"inner_chain": [{"name": "adadelta", "eps": 1e-3}, "rate"]}, {},
    ),
    "mlp, chain of RMSprop": (
        "mlp", "regression", 0,
        {"inner_chain": ["rmsprop", {"name": "rate", "inner_lr": 0.02}]}, {},
    ),
    "mlp, chain of sign": ("mlp", "regression", 0, {"inner_chain": ["sign", "rate"]}, {}),
    "mlp, chain of curvature, LSTM, momentum": (
        "mlp", "regression", 0, {"inner_chain": ["curvature", "lstm", "momentum", "rate"]}, {},
    ),
    "conv4, 2 blocks, Relation": ("conv4", "classification", 0, {"algorithm": "relation"}, {}),
    "mlp, Relation, means": (
        "mlp", "classification", 0, {"algorithm": "relation", "combine_shots": "mean"}, {},
    ),
    "conv4, 2 blocks, CNAPs": ("conv4", "classification", 0, {"algorithm": "cnaps"}, {}),
    "conv4_strided, 2 blocks, Simple CNAPS": (
        "conv4_strided", "classification", 0, {"algorithm": "cnaps", "head": "mahalanobis"}, {},
    ),
    "conv4, 2 blocks, TSA": ("conv4", "classification", 0, {"algorithm": "tsa"}, {}),
    "conv4, 2 blocks, URL": ("conv4", "classification", 0, {"algorithm": "url"}, {}),
    "mlp": ("mlp", "regression", 0, {}, {}),
    "mlp, inner Adam": ("mlp", "regression", 0, {"inner_optimizer": "adam"}, {}),
    "mlp, mini-batches of 4": ("mlp", "regression", 0, {"inner_batch_size": 4}, {}),
    "mlp, inner Adam, mini-batches of 4": (
        "mlp", "regression", 0, {"inner_optimizer": "adam", "inner_batch_size": 4}, {},
    ),
    "mlp, cross-entropy": ("mlp", "classification", 0, {}, {}),
    "conv4, 2 blocks": ("conv4", "classification", 0, {}, {}),
    "conv4, 2 blocks, inner Adam": (
        "conv4", "classification", 0, {"inner_optimizer": "adam"}, {},
    ),
    "conv4, 2 blocks, mini-batches of 4": (
        "conv4", "classification", 0, {"inner_batch_size": 4}, {},
    ),
    "conv4": (
        "conv4", "classification", 0, {}, {"blocks": 4, "filters": 3, "input_shape": (1, 16, 16)},
    ),
    "ResNet-10": ("resnet10", "classification", 0, {}, {"stem": "small"}),
    "WRN-10-1": ("wide_resnet", "classification", 0, {}, {"widen": 1}),
    "ViT": ("vit", "classification", 0, {}, {}),
    "LSTM": ("lstm", "regression", 0, {}, {}),
    "GRU": ("gru", "classification", 0, {}, {}),
    "transformer": ("transformer", "regression", 0, {}, {}),
    "conv4, R2-D2's": (
        "conv4", "classification", 0, {}, {"filters": [2, 3], "slope": 0.1, "join_last_two": True},
    ),
    "conv4_strided, 2 blocks": ("conv4_strided", "classification", 0, {}, {}),
    "conv4_strided": (
        "conv4_strided", "classification", 0, {},
        {"blocks": 4, "filters": 3, "input_shape": (1, 16, 16)},
    ),
}  # fmt: skip


@functools.cache
def case(name: str, steps: int) -> Problem:
    model, kind, seed, options, model_options = CASES[name]
    lr = 0.02 if "inner_optimizer" in options else 0.1
    walk = {"inner_lr": lr, "inner_steps": steps}
    if not takes_inner_steps(options.get("algorithm", "maml")):
        walk = {}
    if options.get("algorithm") == "leo":
        walk = {"latent_steps": steps, "finetuning_steps": steps}
    return problem(model, kind, seed=seed, model_options=model_options, **walk, **options)


def directions(size: int) -> Tensor:
    """[NUM_DIRECTIONS, size]: random, of length 1."""
    rng = torch.Generator().manual_seed(7)
    rows = torch.randn(NUM_DIRECTIONS, size, generator=rng, dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


@functools.cache
def finite_differences(name: str, steps: int) -> Tensor:
    """[NUM_DIRECTIONS] derivatives of the summed query loss after adaptation along `directions`.

    Calls the algorithm itself, not a plan or an estimator.
    """
    at = case(name, steps)
    layout = Layout.of(at.params)
    theta = flat(at.params)

    def meta_loss(vector: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for i in range(at.tasks.support.x.shape[0]):
            support, query = (type(part)(*(t[i] for t in part)) for part in at.tasks)
            outcome = at.algorithm.adapt(layout.unflatten(vector), support, unrolled, TRAINING)
            total = total + meta_loss_of(at, outcome, query)
        return total

    rows = []
    with torch.no_grad():
        for v in directions(layout.size):
            rows.append((meta_loss(theta + H * v) - meta_loss(theta - H * v)) / (2 * H))
    return torch.stack(rows)


STEPS_AND_CASES = [
    *((USUAL_STEPS, name) for name in CASES),
    # One step has nothing to carry over; after five, as many are behind as a method's own loop has.
    *((steps, "mlp, inner Adam") for steps in (1, 5)),
    *((steps, "conv4, 2 blocks, MAML++") for steps in (1, 5)),
    *((steps, "conv4_strided") for steps in (1, 5)),
    (5, "mlp, multi-step loss"),
    (5, "mlp, momentum and clipping"),
    (5, "mlp, LEO"),
]


@pytest.fixture(scope="module")
def table() -> Iterator[list[tuple[str, int, str, float]]]:
    rows: list[tuple[str, int, str, float]] = []
    yield rows
    print("\n\n| model | inner steps | plan | relative error |")
    print("| --- | --- | --- | --- |")
    for name, steps, plan, error in rows:
        print(f"| {name} | {steps} | {plan} | {error:.1e} |")


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["loop", "vmap"])
@pytest.mark.parametrize(("steps", "name"), STEPS_AND_CASES)
def test_the_exact_meta_gradient_is_that_of_finite_differences(
    steps: int, name: str, plan: str, table: list[tuple[str, int, str, float]]
) -> None:
    at = case(name, steps)
    expected = finite_differences(name, steps)
    gradient = flat(
        block_gradient(plan, exact, at.algorithm, at.params, at.tasks, TRAINING).gradients
    )
    error = relative_error(directions(gradient.numel()) @ gradient, expected)
    table.append((name, steps, plan, error))
    assert expected.norm() > 0.01
    assert error <= BOUND


@pytest.mark.slow
@pytest.mark.parametrize("plan", ["loop", "vmap"])
@pytest.mark.parametrize("name", ["mlp", "mlp, cross-entropy", "conv4", "conv4_strided"])
def test_the_first_order_meta_gradient_is_another_one_from_the_first_step_on(
    name: str, plan: str
) -> None:
    """Finn et al. 2017, section 5.2: they agree with no inner step and with no other number."""
    distance = {}
    for steps in (0, *STEPS):
        at = case(name, steps)
        got = [
            flat(
                block_gradient(
                    plan, estimator, at.algorithm, at.params, at.tasks, TRAINING
                ).gradients
            )
            for estimator in (first_order, exact)
        ]
        distance[steps] = relative_error(*got)
    assert distance.pop(0) == 0
    assert min(distance.values()) > 1e-2


@pytest.mark.parametrize("plan", ["loop", "vmap"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_inner_adam_is_differentiable_where_a_weight_has_no_gradient(
    plan: str, dtype: torch.dtype
) -> None:
    """The root of a zero second moment has an infinite derivative; ours must not."""
    at = case("mlp, inner Adam", 3)
    params = {name: p.to(dtype).clone() for name, p in at.params.items()}
    first = next(name for name, p in params.items() if p.dim() == 2)
    params[first.replace("weight", "bias")][0] = -100.0  # unit 0 is never active: zero gradients
    tasks = type(at.tasks)(*(type(part)(*(t.to(dtype) for t in part)) for part in at.tasks))

    def support_loss(w: dict[str, Tensor]) -> Tensor:
        x, y = tasks.support.x[0], tasks.support.y[0]
        return at.algorithm.loss(at.algorithm.network.apply(w, x), y)

    assert not torch.func.grad(support_loss)(params)[first][0].any()
    gradients = block_gradient(plan, exact, at.algorithm, params, tasks, TRAINING).gradients
    assert all(g.isfinite().all() for g in gradients.values())
    assert flat(gradients).norm() > 0.01
    assert not gradients[first][0].any()
