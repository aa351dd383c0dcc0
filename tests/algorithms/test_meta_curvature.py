"""Meta-Curvature: the transform by hand, and MAML where every matrix is the identity.

Letters: O outputs, I inputs, F positions of a filter.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dmeta.bilevel.estimators import Checkpointed, exact, first_order
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.solvers import unrolled
from dmeta.bilevel.transforms.curvature import identities, matrices_of, transformed
from dmeta.bilevel.types import Params
from tests.bilevel.problems import TRAINING, Problem, first_task, flat, problem, relative_error

CURVATURE = "inner_curvature/"


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def stirred(params: Params) -> dict[str, Tensor]:
    """The same with matrices that are neither symmetric nor the identity."""
    return {
        name: p + 0.3 * normal(*p.shape, seed=i) if name.startswith(CURVATURE) else p
        for i, (name, p) in enumerate(params.items())
    }


def test_the_gradient_of_a_convolution_is_transformed_as_by_hand() -> None:
    """G x_3 M_f x_2 M_i x_1 M_o (Park & Oliva 2019), element by element."""
    O, I, H, W = 3, 2, 2, 3  # noqa: E741 - the paper's letters
    F = H * W
    g, out, inp, fil = normal(O, I, H, W), normal(O, O), normal(I, I, seed=1), normal(F, F, seed=2)
    got = transformed(g, (out, inp, fil)).reshape(O, I, F)
    for o in range(O):
        for i in range(I):
            for f in range(F):
                want = sum(
                    out[o, a] * inp[i, b] * fil[f, c] * g[a, b, c // W, c % W]
                    for a in range(O)
                    for b in range(I)
                    for c in range(F)
                )
                assert torch.isclose(got[o, i, f], torch.as_tensor(want), rtol=1e-12)


def test_gradients_of_linear_layers_and_biases_are_matrix_products() -> None:
    g, out, inp = normal(3, 4), normal(3, 3, seed=1), normal(4, 4, seed=2)
    torch.testing.assert_close(transformed(g, (out, inp)), out @ g @ inp.T)
    torch.testing.assert_close(transformed(g[:, 0], (out,)), out @ g[:, 0])
    torch.testing.assert_close(transformed(g[0, 0], (out[:1, :1],)), out[0, 0] * g[0, 0])


def test_a_parameter_has_a_matrix_for_each_mode() -> None:
    params = {"w": normal(3, 2, 2, 5), "fc": normal(4, 3), "b": normal(4), "scale": normal()}
    made = identities(params)
    assert {name: tuple(m.shape) for name, m in made.items()} == {
        CURVATURE + "output/w": (3, 3),
        CURVATURE + "input/w": (2, 2),
        CURVATURE + "filter/w": (10, 10),
        CURVATURE + "output/fc": (4, 4),
        CURVATURE + "input/fc": (3, 3),
        CURVATURE + "output/b": (4, 4),
        CURVATURE + "output/scale": (1, 1),
    }
    for name, matrices in matrices_of(params, made).items():
        assert torch.equal(transformed(params[name], matrices), params[name])


@pytest.mark.parametrize("learned", [None, "per_element", "per_tensor_and_step"])
@pytest.mark.parametrize("model", ["mlp", "conv4"])
def test_at_the_identity_it_is_exactly_maml(model: str, learned: str | None) -> None:
    options: dict[str, Any] = {"inner_steps": 3, "inner_lr": 0.1, "learn_inner_lr": learned}
    at, plain = (problem(model, algorithm=a, **options) for a in ("meta_curvature", "maml"))
    support = first_task(at).support
    got, want = (p.algorithm.adapt(p.params, support, unrolled, TRAINING) for p in (at, plain))
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], p) for name, p in want.items())
    for estimator in (exact, first_order):
        gradients, others = (
            block_gradient("vmap", estimator, p.algorithm, p.params, p.tasks, TRAINING).gradients
            for p in (at, plain)
        )
        assert all(torch.allclose(gradients[n], g, rtol=1e-9) for n, g in others.items())
        assert any(g.any() for n, g in gradients.items() if n.startswith(CURVATURE))


def test_a_step_is_the_transformed_gradient_times_the_rate() -> None:
    at = problem("conv4", algorithm="meta_curvature", inner_steps=1, inner_lr=0.1)
    params, support = stirred(at.params), first_task(at).support
    weights = {n: params[n] for n in at.algorithm.network.names}
    gradients = torch.func.grad(
        lambda w: at.algorithm.loss(at.algorithm.network.apply(w, support.x), support.y)
    )(weights)
    adapted = at.algorithm.adapt(params, support, unrolled, TRAINING)
    for name, w in weights.items():
        (out, *others) = (
            params[f"{CURVATURE}{mode}/{name}"]
            for mode in ("output", "input", "filter")[: min(w.dim(), 3)]
        )
        step = torch.einsum("op,p...->o...", out, gradients[name])
        if others:
            step = torch.einsum("ij,oj...->oi...", others[0], step)
        if len(others) == 2:
            step = torch.einsum("fg,oig->oif", others[1], step.flatten(2)).reshape(w.shape)
        torch.testing.assert_close(adapted[name], w - 0.1 * step)


def test_the_gradient_is_clipped_before_it_is_transformed() -> None:
    """So that the bound is on what the task says, not on what was learned to make of it."""
    bound = {"inner_steps": 1, "inner_lr": 1.0, "inner_clip_norm": 1e-3}
    at = problem("mlp", algorithm="meta_curvature", **bound)
    doubled = {n: 2 * p if n.startswith(CURVATURE + "output/") else p for n, p in at.params.items()}
    weights = {name: at.params[name] for name in at.algorithm.network.names}
    adapted = at.algorithm.adapt(doubled, first_task(at).support, unrolled, TRAINING)
    assert (flat(adapted) - flat(weights)).norm().item() == pytest.approx(2e-3)


@pytest.mark.parametrize("algorithm", ["anil", "cavia", "meta_sgd", "reptile"])
def test_every_inner_loop_may_have_it(algorithm: str) -> None:
    options = {"precondition": "curvature", "carry_moments": False}
    at = problem("mlp", algorithm=algorithm, inner_steps=2, **options)
    at = Problem(at.algorithm, stirred(at.params), at.tasks)
    matrices = [name for name in at.params if name.startswith(CURVATURE)]
    tensors = {"anil": 2, "cavia": 1, "meta_sgd": 6, "reptile": 6}[algorithm]
    assert len({name.split("/", 2)[2] for name in matrices}) == tensors
    gradients, again = (
        block_gradient("vmap", e, at.algorithm, at.params, at.tasks, TRAINING).gradients
        for e in (exact, Checkpointed())
    )
    assert all(gradients[name].any() for name in matrices)
    assert relative_error(flat(again), flat(gradients)) < 1e-10
