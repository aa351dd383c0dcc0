"""A learner takes labels of any kind and gives them back; what it prints is short."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from dmeta.algorithms.algorithm import with_network
from dmeta.algorithms.maml import Maml
from dmeta.algorithms.protonet import ProtoNet
from dmeta.algorithms.relation import Relation
from dmeta.inference import Learner
from dmeta.models.conv4 import conv4
from dmeta.models.mlp import mlp
from dmeta.models.network import Network
from dmeta.training.work.input_format import InputFormat

SHAPE = (1, 28, 28)


def images(n: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).random((n, *SHAPE), dtype=np.float32)


def maml(ways: int = 5) -> Learner:
    torch.manual_seed(0)
    network = Network.of(conv4(SHAPE, ways, filters=4)).to("cpu", training=False)
    algorithm = Maml(network, F.cross_entropy)
    params = algorithm.init_meta_params()
    return Learner(algorithm, params, "classification", InputFormat(SHAPE, "images"), 7, ways)


def protonet() -> Learner:
    return embedding_learner(ProtoNet)


def relation() -> Learner:
    return embedding_learner(functools.partial(Relation, input_shape=SHAPE))


def embedding_learner(make: Any) -> Learner:
    torch.manual_seed(0)
    network = Network.of(conv4(SHAPE, None, filters=4)).to("cpu", training=False)
    algorithm = make(network, F.cross_entropy)
    params = algorithm.init_meta_params()
    return Learner(algorithm, params, "classification", InputFormat(SHAPE, "images"), 7)


def regression() -> Learner:
    torch.manual_seed(0)
    algorithm = Maml(Network.of(mlp((1,), 1)).to("cpu", training=False), F.mse_loss)
    inputs = InputFormat((1,), target_shape=(1,))
    return Learner(algorithm, algorithm.init_meta_params(), "regression", inputs, 7)


def test_names_give_the_logits_of_their_columns() -> None:
    x, learner = images(10), maml()
    names = np.array(["ape", "bee", "cat", "dog", "eel"])
    columns = np.arange(10) % 5
    by_column, by_name = learner.adapt(x, columns), learner.adapt(x, names[columns])
    assert by_column.classes == (0, 1, 2, 3, 4)
    assert by_name.classes == tuple(names)
    logits = by_name.predict(images(6, 1))
    np.testing.assert_array_equal(logits, by_column.predict(images(6, 1)))
    assert by_name.predict_labels(images(6, 1)) == names[logits.argmax(1)].tolist()
    shifted = learner.adapt(x, columns + 1)
    assert shifted.classes == (1, 2, 3, 4, 5)
    np.testing.assert_array_equal(shifted.predict(images(6, 1)), logits)


def test_a_learner_names_what_it_was_shown() -> None:
    rng = np.random.default_rng(0)
    shapes = {name: rng.random(SHAPE) > 0.5 for name in ("up", "down", "left")}
    x = np.stack([shape * np.float32(0.9) for shape in shapes.values()])
    adapted = protonet().adapt(x, list(shapes))
    again = np.stack([shape * np.float32(0.8) for shape in shapes.values()])
    assert adapted.predict_labels(again) == ["up", "down", "left"]


def test_fewer_classes_than_the_network_has_outputs_are_all_that_is_predicted() -> None:
    adapted = maml(ways=5).adapt(images(6), [0, 1, 2] * 2)
    assert adapted.predict(images(4, 1)).shape == (4, 3)
    assert set(adapted.predict_labels(images(40, 1))) <= {0, 1, 2}


def test_no_prototype_stands_for_a_number_that_is_no_label() -> None:
    adapted = protonet().adapt(images(4), [3, 7, 3, 7])
    assert adapted.classes == (3, 7)
    assert adapted.predict(images(2, 1)).shape == (2, 2)


@pytest.mark.parametrize("learner", [maml(), protonet()], ids=["maml", "protonet"])
def test_probabilities_are_the_softmax_and_of_the_kind_that_is_given(learner: Learner) -> None:
    adapted = learner.adapt(images(5), ["a", "b", "c", "d", "e"])
    probabilities = adapted.predict_probabilities(images(3, 1))
    assert isinstance(probabilities, np.ndarray)
    np.testing.assert_allclose(probabilities.sum(1), 1, rtol=1e-6)
    given = torch.from_numpy(images(3, 1))
    as_tensor = adapted.predict_probabilities(given)
    assert isinstance(as_tensor, torch.Tensor)
    torch.testing.assert_close(as_tensor, adapted.predict(given).softmax(-1))


def forward_rows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of rows that networks are run on from now on."""
    rows: list[int] = []
    apply = Network.apply

    def counted(self: Network, params: Any, x: torch.Tensor) -> torch.Tensor:
        rows.append(len(x))
        return apply(self, params, x)

    monkeypatch.setattr(Network, "apply", counted)
    return rows


@pytest.mark.parametrize("learner", [maml, protonet, relation])
def test_the_support_set_is_run_once_for_all_predictions(
    monkeypatch: pytest.MonkeyPatch, learner: Callable[[], Learner]
) -> None:
    adapted = learner().adapt(images(10), np.arange(10) % 5)
    x = images(4, 1)
    network = adapted.algorithm.network.with_statistics_of_first(10)
    both = torch.from_numpy(np.concatenate([images(10), x]))
    expected = with_network(adapted.algorithm, network).predict(adapted.adapted, both)[10:]
    rows = forward_rows(monkeypatch)
    np.testing.assert_allclose(adapted.predict(x), expected.detach(), rtol=1e-4, atol=1e-5)
    for row in x:
        adapted.predict(row[None])
    adapted.predict_labels(x)
    assert rows == [10, 4, 1, 1, 1, 1, 4]
    adapted.predict(x, transductive=True)
    assert rows[-1] == 4


@pytest.mark.slow
def test_threads_adapt_and_predict_as_one_alone_does() -> None:
    learner, x = maml(), images(10)
    labels = [np.random.default_rng(i).permutation(10) % 5 for i in range(16)]
    expected = [learner.adapt(x, y).predict(x[:3]) for y in labels]
    shared = learner.adapt(x, labels[0])
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda y: learner.adapt(x, y).predict(x[:3]), labels))
        again = list(pool.map(lambda _: shared.predict(x[:3]), labels))
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(again, [expected[0]] * 16)


@dataclass(frozen=True)
class Twice(Maml):
    """Applies its network two times, so that batch statistics differ between them."""

    def predict(self, adapted: Any, x: torch.Tensor) -> torch.Tensor:
        return super().predict(adapted, x) + super().predict(adapted, x.flip(-1))


def test_a_method_that_applies_its_network_several_times_predicts_apart_as_well() -> None:
    learner = maml()
    twice = Twice(learner.algorithm.network, F.cross_entropy)
    adapted = dataclasses.replace(learner, algorithm=twice).adapt(images(10), np.arange(10) % 5)
    together = adapted.predict(images(4, 1))
    alone = np.concatenate([adapted.predict(row[None]) for row in images(4, 1)])
    np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)


def test_bytes_predict_as_the_floats_that_training_makes_of_them() -> None:
    stored = (images(5) * 255).astype(np.uint8)
    from_bytes = maml().adapt(stored, range(5)).predict(stored[:, 0])
    scaled = stored.astype(np.float32) / 255
    np.testing.assert_array_equal(from_bytes, maml().adapt(scaled, range(5)).predict(scaled))


def test_who_resizes_the_support_set_resizes_the_rest() -> None:
    large = np.kron(images(5), np.ones((1, 1, 2, 2), np.float32))
    adapted = maml().adapt(large, range(5), resize=True)
    assert adapted.predict(large[:2]).shape == (2, 5)
    with pytest.raises(ValueError, match=r"support_x must have shape .* pass resize=True"):
        maml().adapt(large, range(5))


def test_a_regression_has_neither_labels_nor_probabilities() -> None:
    x = np.linspace(-1, 1, 6, dtype=np.float32)[:, None]
    adapted = regression().adapt(x, x)
    assert adapted.classes is None
    for method in (adapted.predict_labels, adapted.predict_probabilities):
        with pytest.raises(ValueError, match="must be of a classification, got a regression"):
            method(x)
    with pytest.raises(ValueError, match=r"support_y must have shape \[6, 1\], got \[6\]"):
        regression().adapt(x, x[:, 0])


@pytest.mark.parametrize("inner_steps", [-1, 1.5, "3"])
def test_impossible_inner_steps_are_refused(inner_steps: Any) -> None:
    with pytest.raises(ValueError, match="inner_steps must be a whole number >= 0 or None"):
        maml().adapt(images(5), range(5), inner_steps=inner_steps)


def test_a_diverged_adaptation_names_no_class() -> None:
    learner = maml()
    broken = {name: p * float("inf") for name, p in learner.meta_params.items()}
    adapted = Learner(learner.algorithm, broken, "classification", learner.inputs, 7, 5).adapt(
        images(5), range(5)
    )
    with pytest.raises(ValueError, match="got NaN or infinity for 3 of 3 examples"):
        adapted.predict_labels(images(3))


def test_what_is_printed_is_short_and_says_what_it_is() -> None:
    learner = maml()
    size = sum(p.numel() for p in learner.meta_params.values())
    assert repr(learner) == (
        f"Learner(Maml, classification of 5 ways, {size:,} meta-parameters, "
        "input_shape=(1, 28, 28), step=7)"
    )
    assert "any number of ways" in repr(protonet())
    assert "Learner(Maml, regression, 1,761" in repr(regression())
    adapted = learner.adapt(images(5), list("abcde"))
    assert repr(adapted).startswith("AdaptedLearner(Maml, classes=('a', 'b',")
    assert "support examples=5" in repr(adapted)
    many = protonet().adapt(images(60), [f"class number {i}" for i in range(60)])
    assert len(repr(many)) < 250
