"""What an own source returns is converted or refused before anything is started or written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

import dmeta
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.types import Kind
from dmeta.models.embeddings import check_ids
from dmeta.runtime.messages import Block
from dmeta.tasks.source import DrawnTask, EpisodeSize, Split
from dmeta.training.autotune.memory_budget import first_block_inputs
from dmeta.training.setup import Run, prepare
from tests.conftest import TINY, tiny_config

WAYS = {"task.ways": 3, "task.shots": 2, "task.queries": 2, "steps": 1, "eval.every": 0}

Change = Callable[[DrawnTask, np.random.Generator], Any]


@dataclass(frozen=True)
class Source:
    """Classes of points in 4 dimensions, or a line; `change` spoils what is drawn."""

    change: Change = lambda task, _: task
    kind: Kind = "classification"
    outputs: int | None = None
    prepared: Callable[[Tensor], Tensor] = lambda x: x

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (4,)

    def num_outputs(self, ways: int) -> int:
        return self.outputs or (ways if self.kind == "classification" else 1)

    def check(self, split: Split, size: EpisodeSize) -> None:
        pass

    def draw(self, split: Split, size: EpisodeSize, rng: np.random.Generator) -> DrawnTask:
        def part(count: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
            labels = np.repeat(np.arange(size.ways), count)
            x = rng.normal(size=(len(labels), 4)) + labels[:, None]
            y = labels if self.kind == "classification" else x[:, :1].astype(np.float32)
            return x.astype(np.float32), y

        return self.change(DrawnTask(*part(size.shots), *part(size.queries)), rng)

    def preprocess(self, x: Tensor) -> Tensor:
        return self.prepared(x)


def network(outputs: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs))


def labels(change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Change:
    return lambda task, _: task._replace(
        support_y=change(task.support_y), query_y=change(task.query_y)
    )


def inputs(change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Change:
    return lambda task, _: task._replace(
        support_x=change(task.support_x), query_x=change(task.query_x)
    )


def only_query_y(change: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Change:
    return lambda task, _: task._replace(query_y=change(task.query_y))


def with_nan(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    x[0, 0] = np.nan
    return x


def varying(task: DrawnTask, rng: np.random.Generator) -> DrawnTask:
    more = int(rng.integers(1, 6))
    return task._replace(support_x=task.support_x[:more], support_y=task.support_y[:more])


REFUSED: dict[str, tuple[Source, str]] = {
    "labels 1..W": (
        Source(labels(lambda y: y + 1)),
        r"support_y must be labels 0\.\.2 .* got labels 1\.\.3; number",
    ),
    "labels of the queries": (
        Source(only_query_y(lambda y: y + 1)),
        r"query_y must be labels 0\.\.2",
    ),
    "labels from -1": (Source(labels(lambda y: y - 1)), r"got labels -1\.\.1; number the classes"),
    "all labels -100": (Source(labels(lambda y: 0 * y - 100)), r"got labels -100\.\.-100"),
    "float labels": (
        Source(labels(lambda y: y.astype(np.float32))),
        r"whole numbers .* got float32",
    ),
    "one-hot labels": (
        Source(labels(lambda y: np.eye(3, dtype=np.int64)[y])),
        r"of shape \[6, 3\]; correct",
    ),
    "too few outputs": (
        Source(outputs=2),
        r"at least one output for each of 3 ways, got 2; correct",
    ),
    "NaN": (Source(inputs(with_nan)), r"support set of split 'train' must have finite x"),
    "1e300": (
        Source(inputs(lambda x: x.astype(float) * 1e300)),
        r"finite x, got NaN or infinity \(in float32\)",
    ),
    "another shape": (
        Source(inputs(lambda x: x[:, :3])),
        r"x of shape \[6, 4\] .* got \[6, 3\]; correct",
    ),
    "too few examples": (
        Source(lambda t, _: DrawnTask(*(a[:4] for a in t))),
        r"\(ways 3 x 2 examples.*got \[4, 4\]",
    ),
    "sizes that vary": (
        Source(varying),
        r"all tasks of a split must be of one size.*got support_x of shapes",
    ),
    "texts": (Source(inputs(lambda x: x.astype(str))), r"support_x must be numbers, got <U"),
    "complex numbers": (
        Source(inputs(lambda x: x * 1j)),
        r"support_x must be numbers, got complex64",
    ),
    "three arrays": (
        Source(lambda t, _: t[:3]),
        r"draw must return support_x, .* got tuple; correct",
    ),
    "whole numbers for a linear layer": (
        Source(inputs(lambda x: x.astype(np.int64))),
        r"inputs of shape \(4,\) and type int64, .* got: ",
    ),
    "a preprocess for one task": (
        Source(prepared=lambda x: x.permute(1, 0).T),
        r"preprocess must take .* any dimensions in front, got \[4, 6, 4\]",
    ),
    "targets [n] of a regression": (
        Source(labels(lambda y: y[:, 0]), "regression"),
        r"y of shape \[2, 1\], .* got \[2\]; .*y\[:, None\]",
    ),
    "targets [n, 2] of a regression": (
        Source(labels(lambda y: np.hstack([y, y])), "regression"),
        r"got \[2, 2\]; correct the source's draw$",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_can_not_be_right_is_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    source, message = REFUSED[name]
    ways = WAYS if source.kind == "classification" else WAYS | {"task.ways": 1}
    model = network(3 if source.kind == "classification" else 1)
    with pytest.raises(ValueError, match=message):
        dmeta.train(TINY | ways | {"run_dir": str(tmp_path / "run")}, source=source, model=model)
    assert not (tmp_path / "run").exists()


def prepared(tmp_path: Path, source: Any, **own: Any) -> Run:
    changes = {key.replace(".", "__"): value for key, value in WAYS.items()}
    if source.kind == "regression":
        changes["task__ways"] = 1
    model = own.pop("model", network(3 if source.kind == "classification" else 1))
    return prepare(tiny_config(tmp_path, **changes), source=source, model=model, **own)


def first_gradient(run: Run) -> Tensor:
    found = block_gradient("loop", run.work.estimator, *first_block_inputs(run))
    return run.work.layout.flatten(found.gradients)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        *(labels(lambda y, t=t: y.astype(t)) for t in ("int32", "uint8", "int16", ">i8", "uint32")),
        *(inputs(lambda x, t=t: x.astype(t)) for t in ("float64", ">f4")),
    ],
)
def test_other_types_are_converted_to_the_same_numbers(tmp_path: Path, change: Change) -> None:
    expected = first_gradient(prepared(tmp_path, Source()))
    assert torch.equal(first_gradient(prepared(tmp_path, Source(change))), expected)


@pytest.mark.parametrize("target", ["float64", "float16", "int64"])
def test_targets_of_a_regression_become_float32(tmp_path: Path, target: str) -> None:
    """Whatever their type, they are compared in that of the predictions."""
    whole = labels(lambda y: np.round(4 * y))
    expected = first_gradient(prepared(tmp_path, Source(whole, "regression")))
    other = labels(lambda y: np.round(4 * y).astype(target))
    assert torch.equal(first_gradient(prepared(tmp_path, Source(other, "regression"))), expected)


def test_float16_inputs_become_float32(tmp_path: Path) -> None:
    rounded = Source(inputs(lambda x: x.astype(np.float16).astype(np.float32)))
    half = Source(inputs(lambda x: x.astype(np.float16)))
    expected = first_gradient(prepared(tmp_path, rounded))
    assert torch.equal(first_gradient(prepared(tmp_path, half)), expected)


class Words(nn.Module):
    """Averages the embeddings of token ids."""

    def __init__(self, outputs: int | None = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(30, 8)
        self.head = nn.Linear(8, outputs) if outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.words(x).mean(1))
        return out


def as_tokens(x: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.clip(np.round(5 * x) + 15, 0, 29).astype(np.int32)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algorithm", "plan"),
    [
        ("maml", "loop"),
        ("maml", "vmap"),
        ("protonet", "vmap"),
        ("imaml", "loop"),
        ("reptile", "vmap"),
    ],
)
def test_whole_numbers_reach_an_embedding_as_they_are(
    tmp_path: Path, algorithm: str, plan: Literal["loop", "vmap"]
) -> None:
    settings = {"run_dir": str(tmp_path), "algorithm": algorithm, "compute.plan": plan}
    model = Words(None if algorithm == "protonet" else 3)
    result = dmeta.train(TINY | WAYS | settings, source=Source(inputs(as_tokens)), model=model)
    assert result.test.num_non_finite == 0
    loaded = dmeta.load(tmp_path, model=model)
    assert set(loaded.meta_params) >= {"words.weight"}


def beyond(task: DrawnTask, rng: np.random.Generator) -> DrawnTask:
    """Now and then a task has an id that `Words` lacks."""
    x = as_tokens(task.support_x)
    x[0, 0] = 30 if rng.random() < 0.03 else 0
    return task._replace(support_x=x, query_x=as_tokens(task.query_x))


@pytest.mark.parametrize("plan", ["loop", "vmap"])
def test_a_token_id_that_the_embedding_lacks_is_named(
    tmp_path: Path, plan: Literal["loop", "vmap"]
) -> None:
    settings = {"run_dir": str(tmp_path), "compute.plan": plan, "steps": 40}
    words = r"token ids must be those of .* \(words: 0 to 29\), got ids from \d+ to 30; raise"
    with pytest.raises(ValueError, match=words):
        dmeta.train(TINY | WAYS | settings, source=Source(beyond), model=Words())
    assert (tmp_path / "config.json").exists()  # not among the tasks that are tried before


def test_an_index_error_of_something_else_is_left_alone() -> None:
    ids = torch.zeros(2, 4, dtype=torch.int64)
    check_ids(Words(), ids)
    check_ids(nn.Linear(4, 3), ids + 30)
    check_ids(Words(), ids.float() + 30)
    with pytest.raises(ValueError, match="from -1 to 29"):
        check_ids(Words(), torch.tensor([[29, -1]]))


def test_logits_of_whole_numbers_are_no_whole_numbers_in_a_coarser_precision(
    tmp_path: Path,
) -> None:
    config = tiny_config(tmp_path, task__ways=3, compute__precision="bfloat16")
    network = prepare(config, source=Source(inputs(as_tokens)), model=Words()).algorithm.network
    out = network.apply(network.init_params(), torch.ones(2, 4, dtype=torch.int64))
    assert out.dtype == torch.float32
    assert not torch.equal(out, out.round())


class _FailsInEvaluation(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            raise RuntimeError("only for training")
        return super().forward(x)


def test_a_model_that_fails_in_evaluation_or_returns_no_tensor_is_refused(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, task__ways=3)
    with pytest.raises(ValueError, match=r"training and in evaluation mode.*only for training"):
        prepare(config, source=Source(), model=_FailsInEvaluation(4, 3))
    with pytest.raises(ValueError, match="must return one tensor, got tuple"):
        prepare(config, source=Source(), model=nn.LSTM(4, 3))


def test_an_operation_without_second_derivative_is_refused_where_one_is_needed(
    tmp_path: Path,
) -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Hardsigmoid(), nn.Linear(5, 3))
    exact, first_order = (
        tiny_config(tmp_path, task__ways=3, gradient=gradient)
        for gradient in ("exact", "first_order")
    )
    with pytest.raises(ValueError, match=r"gradient=exact .*hardsigmoid_backward.*first_order"):
        prepare(exact, source=Source(), model=model)
    prepare(first_order, source=Source(), model=model)


def _frozen() -> nn.Module:
    return network().requires_grad_(False)


def _hooked(hook: Callable[[nn.Module], Any]) -> nn.Module:
    model = network()
    hook(model[0])  # type: ignore[index]
    return model


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:Converting a tensor")
@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"model": _frozen}, r"a parameter to learn, got model=Sequential with 4 .*all frozen"),
        (
            {"model": lambda: _hooked(nn.utils.weight_norm)},
            r"deepcopy can copy, got 0\.weight, which a hook computes; use .*parametriza",
        ),
        ({"loss": lambda: _each}, r"must return a scalar tensor, .* got shape \[3\]; end it"),
        ({"loss": lambda: _number}, r"must return a scalar tensor, .* got float; end it"),
        ({"loss": lambda: _constant}, r"differentiable operations, got a constant"),
        ({"loss": lambda: _only_prediction}, r"must take a prediction \[3, 3\] and a target \[3\]"),
    ],
)
def test_a_model_or_loss_that_can_not_be_learned_with_is_refused(
    tmp_path: Path, own: dict[str, Callable[[], Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        prepared(tmp_path, Source(), **{key: make() for key, make in own.items()})


def _each(prediction: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(prediction, target, reduction="none")


def _number(prediction: Tensor, target: Tensor) -> float:
    return float(nn.functional.cross_entropy(prediction, target))


def _constant(prediction: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(prediction.detach(), target)


def _only_prediction(prediction: Tensor) -> Tensor:
    return prediction.mean()


def test_sizes_that_begin_to_vary_later_are_named_as_well(tmp_path: Path) -> None:
    """The first tasks are alike, so that nothing can be seen at the start."""
    run = prepared(tmp_path, Source(lambda t, _: t))
    late = Source(varying)
    work = run.work.build("cpu")
    work._supply._source = late
    block = Block("train", 50, 0, 0, 4)
    with pytest.raises(ValueError, match="all tasks of a split must be of one size"):
        work.gradient(run.outer.initial, block)
