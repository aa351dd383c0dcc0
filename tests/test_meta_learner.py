"""`dmeta.MetaLearner`: every method as a torch module."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import dmeta
from dmeta.algorithms import ALGORITHMS
from dmeta.algorithms.algorithm import embeds, trains_on_batches
from dmeta.bilevel.types import Kind, Stage, Task
from dmeta.runtime.messages import Block
from dmeta.training.setup import prepare
from dmeta.training.work.predictions import predict_task
from tests.bilevel.problems import ON_MODELS, ONCE, draw_tasks, network
from tests.conftest import tiny_config
from tests.test_functional import by_autograd, mlp, tuple_of

WAYS = 3


def module_of(algorithm: str, model: str = "mlp") -> nn.Module:
    outputs = None if embeds(ALGORITHMS[algorithm].make) else WAYS
    options = {"context": 4} if algorithm == "cavia" else {}
    return network(model, outputs, **options)[0].module


def needed_by(algorithm: str) -> dict[str, Any]:
    return {"num_base_classes": WAYS} if trains_on_batches(ALGORITHMS[algorithm].make) else {}


def learner_of(algorithm: str, model: str = "mlp", **options: Any) -> dmeta.MetaLearner:
    options |= needed_by(algorithm)
    example = draw_tasks("regression", (2,) if model == "mlp" else (1, 8, 8), 0).support.x[0]
    return dmeta.MetaLearner(module_of(algorithm, model), algorithm, example=example, **options)


def tasks_of(kind: Kind, model: str = "mlp", T: int = 2, seed: int = 1) -> Task:
    return draw_tasks(kind, (2,) if model == "mlp" else (1, 8, 8), seed, T=T)


def one_of(tasks: Task, t: int = 0) -> tuple[Tensor, ...]:
    return tuple(part[t] for part in tuple_of(tasks))


def gradients_of(learner: dmeta.MetaLearner) -> dict[str, Tensor]:
    return {n: p.grad for n, p in learner.meta_params.items() if p.grad is not None}


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "kind"), ONCE)
def test_backward_adds_the_methods_own_meta_gradient(algorithm: str, kind: Kind) -> None:
    learner, tasks = learner_of(algorithm), tasks_of(kind)
    params = {n: p.detach().clone() for n, p in learner.meta_params.items()}
    report = learner.backward(*tuple_of(tasks))
    expected, other = dmeta.meta_gradient(
        algorithm,
        params,
        tasks,
        network=module_of(algorithm),
        ways=WAYS,
        **needed_by(algorithm),
    )
    assert torch.equal(report.losses, other.losses)
    assert report.metrics.keys() >= {"accuracy" if kind == "classification" else "mse"}
    got = gradients_of(learner)
    assert sum(float(g.norm()) for g in got.values()) > 1e-12
    for name, p in learner.meta_params.items():
        assert torch.equal(p, params[name]), "backward moves nothing"
        if p.requires_grad:
            torch.testing.assert_close(got[name], expected[name], rtol=1e-12, atol=1e-14)
        else:
            assert not expected[name].any()


DRAWS = ("leo", "feat")
"""Methods that draw for each task of a call: its numbers differ from those of calls one by one."""


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "kind"), [each for each in ONCE if each[0] not in DRAWS])
def test_several_calls_add_up(algorithm: str, kind: Kind) -> None:
    together, apart, tasks = learner_of(algorithm), learner_of(algorithm), tasks_of(kind)
    together.backward(*tuple_of(tasks), reduction="sum", step=0)
    for t in range(2):
        apart.backward(*one_of(tasks, t), step=0)
    for name, gradient in gradients_of(together).items():
        torch.testing.assert_close(gradients_of(apart)[name], gradient, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize(("algorithm", "kind", "model"), ON_MODELS)
def test_adapt_and_predict_are_those_of_a_runs_evaluation(
    algorithm: str, kind: Kind, model: str
) -> None:
    learner, tasks = learner_of(algorithm, model), tasks_of(kind, model)
    support_x, support_y, query_x, _ = one_of(tasks)
    made = learner._algorithm
    params = {n: p.detach() for n, p in learner.meta_params.items()}
    task: Task = Task(*(type(part)(part.x[0], part.y[0]) for part in tasks))
    with torch.no_grad():
        expected = predict_task(made, params, task, Stage(training=False, ways=WAYS))
    predictor = learner.adapt(support_x, support_y)
    for mode in (True, False):
        got = predictor.predict(query_x, transductive=mode)
        key = "transductive_prediction" if mode else "non_transductive_prediction"
        torch.testing.assert_close(got, expected[key][-1], rtol=1e-10, atol=1e-12)
        assert not got.requires_grad
    assert repr(predictor).startswith("Predictor(")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_any_optimiser_learns_what_the_method_learns(algorithm: str) -> None:
    """And a copy, and what is saved and loaded, go on to the same bits."""
    tasks = tuple_of(tasks_of("classification"))
    learner = learner_of(algorithm)
    optimizer = torch.optim.AdamW(learner.parameters(), lr=0.01, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)

    def step(of: dmeta.MetaLearner, by: torch.optim.Optimizer) -> None:
        by.zero_grad()
        of.backward(*tasks)
        by.step()

    before = {n: p.detach().clone() for n, p in learner.meta_params.items()}
    for _ in range(2):
        step(learner, optimizer)
        schedule.step()
    for name, p in learner.meta_params.items():
        assert torch.equal(p, before[name]) != p.requires_grad, name
    copied = copy.deepcopy(learner)
    loaded = learner_of(algorithm)
    file = io.BytesIO()
    torch.save(learner.state_dict(), file)
    file.seek(0)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    for one in (learner, copied, loaded):
        step(one, torch.optim.SGD(one.parameters(), lr=0.1))
    for name, p in learner.meta_params.items():
        assert torch.equal(copied.meta_params[name], p)
        assert torch.equal(loaded.meta_params[name], p)
        assert copied.meta_params[name].data_ptr() != p.data_ptr()


def test_parameters_are_named_as_in_a_run_and_shared_with_the_module() -> None:
    module = mlp()
    learner = dmeta.MetaLearner(module, "meta_sgd")
    assert dict(learner.named_parameters()).keys() == {f"params.{n}" for n in learner.meta_params}
    assert "params.inner_lr/0.weight" in learner.state_dict()
    for name, p in module.named_parameters():
        assert learner.meta_params[name] is p
    assert list(learner.meta_params) == list(learner._algorithm.init_meta_params())


def test_a_constant_is_no_ones_to_learn() -> None:
    learner = learner_of("learned_optimizer")
    still = {n for n, p in learner.meta_params.items() if not p.requires_grad}
    assert still == {name for name, _ in module_of("learned_optimizer").named_parameters()}
    learned = learner_of("learned_optimizer", learn_initial_weights=True)
    assert all(p.requires_grad for p in learned.parameters())


def test_the_type_of_all_numbers_can_be_changed() -> None:
    module = nn.Sequential(nn.Linear(2, 4), nn.Linear(4, WAYS))
    module[0].requires_grad_(False)
    module.register_buffer("unused", torch.ones(3))
    learner = dmeta.MetaLearner(module, "meta_sgd").double()
    assert {p.dtype for p in learner.state_dict().values()} == {torch.float64, torch.int64}
    tasks = tuple_of(tasks_of("regression"))
    learner.backward(*tasks)
    assert learner.adapt(*one_of(tasks_of("regression"))[:2]).predict(tasks[0][0]).dtype == (
        torch.float64
    )
    learner.zero_grad()
    report = learner.float().backward(*(part.numpy() for part in tasks))
    assert report.losses.dtype == torch.float32


def test_frozen_weights_and_buffers_are_part_of_the_state() -> None:
    def made(seed: int) -> dmeta.MetaLearner:
        torch.manual_seed(seed)
        module = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, WAYS)).double()
        module[0].requires_grad_(False)
        return dmeta.MetaLearner(module)

    one, other = made(0), made(1)
    assert [n for n, _ in one.named_parameters()] == ["params.2.weight", "params.2.bias"]
    support_x, support_y, query_x, _ = one_of(tasks_of("classification"))
    expected = one.adapt(support_x, support_y).predict(query_x)
    assert not torch.equal(other.adapt(support_x, support_y).predict(query_x), expected)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.adapt(support_x, support_y).predict(query_x), expected)
    other.double()
    assert torch.equal(other.adapt(support_x, support_y).predict(query_x), expected)


def test_a_predictor_stays_as_it_is_when_training_goes_on() -> None:
    learner, tasks = learner_of("anil"), tasks_of("classification")
    support_x, support_y, query_x, _ = one_of(tasks)
    predictor = learner.adapt(support_x, support_y)
    before = predictor.predict(query_x)
    learner.backward(*tuple_of(tasks))
    torch.optim.SGD(learner.parameters(), lr=1.0).step()
    assert torch.equal(predictor.predict(query_x), before)
    assert not torch.equal(learner.adapt(support_x, support_y).predict(query_x), before)


def test_random_numbers_are_others_at_every_call_and_follow_from_the_state() -> None:
    module = nn.Sequential(nn.Linear(2, 30), nn.Dropout(0.5), nn.Linear(30, WAYS)).double()
    tasks = tuple_of(tasks_of("classification"))
    learner = dmeta.MetaLearner(module.eval())  # the mode is no matter
    saved = copy.deepcopy(learner.state_dict())
    losses = [learner.backward(*tasks).losses for _ in range(3)]
    assert not torch.equal(losses[0], losses[1])
    learner.load_state_dict(saved)
    assert torch.equal(learner.backward(*tasks).losses, losses[0])
    assert torch.equal(learner.backward(*tasks, step=0).losses, losses[0])
    support_x, support_y, query_x, _ = one_of(tasks_of("classification"))
    one, same = (learner.adapt(support_x, support_y).predict(query_x) for _ in range(2))
    assert torch.equal(one, same)


def test_the_step_decides_what_changes_with_it() -> None:
    tasks = tuple_of(tasks_of("classification"))

    def gradient(step: int) -> Tensor:
        learner = learner_of("maml_pp", gradient="exact", inner_steps=3)
        learner.backward(*tasks, step=step)
        return torch.cat([g.flatten() for g in gradients_of(learner).values()])

    assert not torch.allclose(gradient(0), gradient(5000))
    assert torch.equal(gradient(5000), gradient(6000))


def test_how_many_tasks_there_are_follows_from_the_targets_or_is_said() -> None:
    learner = learner_of("maml")
    for kind in ("classification", "regression"):
        tasks = tasks_of(kind)
        assert len(learner.backward(*tuple_of(tasks)).losses) == 2
        assert len(learner.backward(*one_of(tasks)).losses) == 1
        assert len(learner.backward(*one_of(tasks), batched=False).losses) == 1
    pixels = [torch.randn(4, 6, 2, dtype=torch.float64), torch.randn(4, 6, 1, WAYS).double()] * 2
    with pytest.raises(ValueError, match="say with batched=True or False"):
        learner.backward(*pixels)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((torch.zeros(3, 2), torch.zeros(2, dtype=torch.int64)), "as many examples, at least one"),
        ((torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64)), "got 0 and 0"),
        ((torch.zeros(2, 2), torch.tensor([0, -1])), "labels must be 0..W-1, got -1"),
        ((torch.zeros(2, 2), torch.zeros(2, 1)), "y must be of classification"),
    ],
)
def test_examples_that_do_not_fit_are_refused(given: Any, message: str) -> None:
    learner = learner_of("protonet")
    with pytest.raises(ValueError, match=message):
        learner.adapt(*given)


def test_there_must_be_something_to_learn() -> None:
    module = mlp().requires_grad_(False)
    for algorithm in ("maml", "protonet"):
        with pytest.raises(ValueError, match="the module must have a parameter to learn"):
            dmeta.MetaLearner(module, algorithm)
    maml = dmeta.make_algorithm("maml", mlp())
    with pytest.raises(ValueError, match="meta_params must have at least one tensor"):
        dmeta.meta_gradient(maml, {}, tasks_of("regression"))


def test_a_refused_batch_leaves_no_trace() -> None:
    learner = learner_of("maml")
    support_x, support_y, query_x, query_y = tuple_of(tasks_of("regression"))
    with pytest.raises(ValueError, match="shape of the predictions"):
        learner.backward(support_x, support_y[..., :1], query_x, query_y[..., :1])
    assert gradients_of(learner) == {}
    assert int(learner.get_extra_state()) == 0


class Residual(nn.Module):
    """A convolutional residual network with group norm, and a strided shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm1, self.norm2 = nn.GroupNorm(2, 4), nn.GroupNorm(2, 6)
        self.conv1 = nn.Conv2d(4, 6, 3, stride=2, padding=1, bias=False)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(4, 6, 1, stride=2)
        self.fc = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm1(self.stem(x)))
        h = self.conv2(F.silu(self.norm2(self.conv1(x)))) + self.shortcut(x)
        return self.fc(F.silu(h).mean((2, 3)))


class Attending(nn.Module):
    """A transformer over rows of an image: a class token, learned positions, two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 8) * 0.1)
        self.position = nn.Parameter(torch.randn(1, 9, 8) * 0.1)
        layer = nn.TransformerEncoderLayer(
            8, 2, 12, 0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.fc = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.embed(x[:, 0])
        tokens = torch.cat([self.token.expand(len(x), -1, -1), rows], 1) + self.position
        return self.fc(self.encoder(tokens)[:, 0])


@pytest.mark.parametrize("plan", ["vmap", "loop"])
@pytest.mark.parametrize("kind", [Residual, Attending])
def test_any_module_has_the_meta_gradient_of_plain_autograd(
    kind: type[nn.Module], plan: Any
) -> None:
    torch.manual_seed(0)
    module = kind().double()
    tasks = draw_tasks("classification", (1, 8, 8), 1, T=2, S=5, Q=10, W=5)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = by_autograd(module, tasks, 0.1, 3)
    learner = dmeta.MetaLearner(module, inner_lr=0.1, inner_steps=3, plan=plan)
    learner.backward(*tuple_of(tasks))
    for name, p in module.named_parameters():
        torch.testing.assert_close(p.grad, expected[name], rtol=1e-10, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["maml", "meta_sgd"])
def test_an_own_loop_learns_what_a_run_learns(tmp_path: Path, algorithm: str) -> None:
    """From a run's initial weights and tasks, with torch's Adam: the run's meta-parameters."""
    changes = {"compute__block_size": 5, "outer__schedule": "constant"}
    config = tiny_config(tmp_path / "run", algorithm=algorithm, **changes)
    run = prepare(config)
    work, vector = run.work.build("cpu"), run.outer.initial
    learner = dmeta.MetaLearner(run.algorithm.network.module, algorithm)
    optimizer = torch.optim.Adam(learner.parameters(), lr=config.outer.lr)
    for step in range(config.steps):
        block = Block("train", step, 0, 0, config.meta_batch_size)
        (inputs,) = work.block_inputs(vector, block)
        optimizer.zero_grad()
        learner.backward(*tuple_of(inputs.tasks))
        optimizer.step()
    trained = dmeta.load(dmeta.train(config).run_dir).meta_params
    assert trained.keys() == learner.meta_params.keys()
    for name, p in learner.meta_params.items():
        torch.testing.assert_close(p.detach(), trained[name], rtol=1e-6, atol=1e-7)
        assert not torch.equal(p, inputs.meta_params[name])
