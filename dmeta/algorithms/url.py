"""URL: one network distilled from several, each trained on a data set of its own.

Li, Liu & Bilen 2021, "Universal Representation Learning from Multiple Domains for Few-shot
Classification" (arXiv:2103.13841), section 3. In training a mini-batch x, y is of one of D data
sets, d (``task=mixture``). The network f and a layer of all training classes h, of which those of d
count, learn from the labels and from a frozen teacher of d: a network f*_d with its layer h*_d,

    L(h_d(f(x)), y) + feature_weight (1 - CKA(A_d f(x), f*_d(x)))
      + logit_weight T^2 KL(softmax(h*_d(f*_d(x)) / T) || softmax(h_d(f(x)) / T))

with an adaptor A_d [F, F] for each d, learned with the rest, CKA as `dmeta.algorithms.
kernel_alignment` of features of length 1, and the temperature T. Both weights fall linearly to 0
over ``anneal_steps``, if given. For a task f is frozen and a map of its features is learned
(`dmeta.algorithms.feature_map`); this is also what ``algorithm=tsa algorithm.adapters=false`` does.

Teachers are runs of methods that are trained on mini-batches with the same kind of layer
(``baseline``, ``simpleshot``, ``rfs``, ``finetune``, ``tsa``), one for each data set, in the order
of ``task.sources``, with the same model. Their weights are read when training begins, and are kept
with the run's own as constants: a run is resumed and replayed with the same teachers, and evaluated
and loaded without them. If there are no teachers, the network learns from the labels alone, which
the paper calls multi-domain learning (MDL).

Differs from the paper: an outer step sees mini-batches of the data sets that were drawn for it,
there one of each; the weights are the same for all data sets, there 4 for ImageNet and 1 for
others; batch-norms, the teachers' too, take the statistics of the mini-batch, and for a task those
of the support set. Adaptors begin as the identity and have the outer optimiser's learning rate; in
the authors' code (github.com/VICO-UoE/URL) they are drawn at random and have Adam with a rate of
0.1. The temperature of 4, the kernel, and features of length 1 are those of that code. A mini-batch
goes through f twice, for the features and for the logits.

Letters: N examples, F dimensions of the features, C classes of all data sets, D data sets.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from dmeta.algorithms.base_classes import BIAS, WEIGHT, base_classifier, with_base_classifier
from dmeta.algorithms.embeddings import EMPTY, embed_examples, num_features, unit_rows
from dmeta.algorithms.feature_map import MAP, FeatureMap
from dmeta.algorithms.kernel_alignment import Kernel, kernel_alignment
from dmeta.bilevel.solvers import Solver
from dmeta.bilevel.types import Adapted, Examples, Kind, Loss, Outcome, Params, Stage
from dmeta.declared import PROVIDED
from dmeta.models.network import Network
from dmeta.options import check_fields

ADAPTORS = "url/adaptors"
"""A of all data sets [D, F, F]."""

TEACHER = "url/teacher/"
"""Begins the names of the teachers' parts: those of a network, [D, ...] each; their layers of
training classes are one layer of all classes."""

_LAYER = (WEIGHT, BIAS)


@dataclass(frozen=True)
class Url:
    """A classifier of the training classes of several data sets, distilled from one of each.

    Attributes:
        network: the embedding, [N, *input_shape] -> [N, F].
        loss: of the mini-batches in training, and of a task's support set.
        input_shape: of one example.
        base_class_sizes: classes of the training split of each data set.
        teachers: folders (or addresses) of runs, one for each data set in order; none: labels alone
            are learned from.
        teachers_sha256: of their weights; None: any. A run notes it.
        feature_weight: weight of the features' distance from the teacher's.
        logit_weight: weight of the divergence of the predictions from the teacher's.
        temperature: that both predictions are softened with.
        kernel: of the features' alignment: ``rbf`` or ``linear``.
        anneal_steps: outer steps over which both weights fall to 0; 0: they stay.
        features: how the map of a task's features is learned.
        init_seed: of the initial layer of the training classes.
    """

    network: Network
    loss: Loss
    input_shape: tuple[int, ...]
    base_class_sizes: tuple[int, ...]
    teachers: tuple[str, ...] = ()
    teachers_sha256: str | None = None
    feature_weight: NonNegativeFloat = 1.0
    logit_weight: NonNegativeFloat = 1.0
    temperature: PositiveFloat = 4.0
    kernel: Kernel = "rbf"
    anneal_steps: NonNegativeInt = 0
    features: FeatureMap = FeatureMap(map_lr=0.1)
    init_seed: int = 0

    embeds: ClassVar[bool] = True
    kinds: ClassVar[tuple[Kind, ...]] = ("classification",)
    trains_on_batches: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "algorithm", but=PROVIDED)
        num_sets = len(self.base_class_sizes)
        if self.teachers and len(self.teachers) != num_sets:
            raise ValueError(
                f"algorithm.teachers must be one run for each of {num_sets} data sets, or none, "
                f"got {len(self.teachers)}; correct it, or task.sources of task=mixture"
            )
        if num_sets > 1:
            _check_loss(self.loss)

    @property
    def constants(self) -> frozenset[str]:
        """The teachers."""
        return frozenset(self._teacher_shapes())

    def init_meta_params(self) -> Params:
        """The network's initial weights, the layer of all classes, and the adaptors.

        The teachers are 0; `teacher_constants` makes their values.
        """
        network, shape = self.network, self.input_shape
        params = with_base_classifier(network, shape, sum(self.base_class_sizes), self.init_seed)
        if not self.teachers:
            return params
        like = params[WEIGHT]
        identity = torch.eye(like.shape[1], dtype=like.dtype)
        params[ADAPTORS] = identity.repeat(len(self.teachers), 1, 1)
        return params | {n: like.new_zeros(s) for n, s in self._teacher_shapes().items()}

    def teacher_constants(self, teachers: Sequence[Params]) -> dict[str, Tensor]:
        """Values of the constants, from the meta-parameters of the teachers.

        Raises:
            ValueError: one is of another network, or of other classes.
        """
        parts = (*self.network.names, *_LAYER)
        for place, (found, size) in enumerate(zip(teachers, self.base_class_sizes, strict=True)):
            shapes = self._shapes_of_parts(size)
            got = {name: found[name].shape if name in found else None for name in parts}
            wrong = [name for name in parts if got[name] != shapes[name]]
            if wrong or any("/" not in name and name not in parts for name in found):
                raise ValueError(_mismatch(self.teachers[place], wrong, shapes, got))
        values = {
            TEACHER + name: torch.stack([each[name] for each in teachers])
            for name in self.network.names
        }
        return values | {TEACHER + name: torch.cat([each[name] for each in teachers])
                         for name in _LAYER}  # fmt: skip

    def adapt(
        self,
        meta_params: Params,
        support: Examples,
        solve: Solver,  # noqa: ARG002 - see `FeatureMap.learn`
        stage: Stage,
    ) -> Adapted | Outcome:
        """``means`` [W, F] and the ``map`` [F, F] of a task.

        In training the layer of all classes, ``ruled_out`` [C] of which are not of the data set;
        with teachers and what it has to learn from them.
        """
        weights = {name: meta_params[name] for name in self.network.names}
        if not stage.training:
            embedded = embed_examples(self.network, weights, support.x)
            learned = self.features.learn(self.loss, embedded, support.y, stage)
            return {"weights": weights, "map": learned["iterate"][MAP], "means": learned["means"]}
        adapted = {"weights": weights, **base_classifier(meta_params)}
        place = self._set_of(support.y[:1])
        if len(self.base_class_sizes) > 1:
            classes = torch.arange(sum(self.base_class_sizes), device=support.y.device)
            adapted["ruled_out"] = self._set_of(classes) != place
        share = max(0.0, 1 - stage.step / self.anneal_steps) if self.anneal_steps else 1.0
        if not self.teachers or share == 0:
            return adapted
        distance = self._distance_from_teacher(meta_params, adapted, support.x, place)
        return Outcome((adapted,), (1.0,), share * distance)

    def predict(self, adapted: dict[str, Any], x: Tensor) -> Tensor:
        """[N, *input_shape] -> logits [N, W], or those of all classes in training."""
        embedded = embed_examples(self.network, adapted["weights"], x)
        if "map" in adapted:
            return self.features.predict(embedded, adapted["map"], adapted["means"])
        return _logits(adapted, embedded)

    def _distance_from_teacher(
        self, meta_params: Params, student: dict[str, Any], x: Tensor, place: Tensor
    ) -> Tensor:
        teacher = {
            name.removeprefix(TEACHER): p.detach()
            for name, p in meta_params.items()
            if name.startswith(TEACHER)
        }
        # Not p[place], which looks at the value of `place` under vmap.
        frozen = {name: teacher[name].index_select(0, place)[0] for name in self.network.names}
        goal = embed_examples(self.network, frozen, x)
        embedded = embed_examples(self.network, student["weights"], x)
        adaptor = meta_params[ADAPTORS].index_select(0, place)[0]
        alike = kernel_alignment(unit_rows(embedded @ adaptor.T), unit_rows(goal), self.kernel)
        layer = {**student, **base_classifier(teacher)}
        soft, hard = (
            (_logits(each, rows) / self.temperature).log_softmax(1)
            for each, rows in ((layer, goal), (student, embedded))
        )
        divergence = (soft.exp() * (soft - hard)).sum(1).mean() * self.temperature**2
        return self.feature_weight * (1 - alike) + self.logit_weight * divergence

    def _set_of(self, labels: Tensor) -> Tensor:
        """[n] labels among all classes -> [n] places of their data sets."""
        ends = list(itertools.accumulate(self.base_class_sizes))[:-1]
        return (labels[:, None] >= torch.tensor(ends, device=labels.device)).sum(1)

    def _shapes_of_parts(self, num_classes: int) -> dict[str, tuple[int, ...]]:
        """Of a network, and of its layer of so many training classes."""
        shapes = {name: tuple(self.network.shape_of(name)) for name in self.network.names}
        width = num_features(self.network, self.input_shape)
        return shapes | {WEIGHT: (num_classes, width), BIAS: (num_classes,)}

    def _teacher_shapes(self) -> dict[str, tuple[int, ...]]:
        if not self.teachers:
            return {}
        shapes = self._shapes_of_parts(sum(self.base_class_sizes))
        num = len(self.teachers)
        return {
            TEACHER + name: shape if name in _LAYER else (num, *shape)
            for name, shape in shapes.items()
        }


def _logits(layer: dict[str, Any], embedded: Tensor) -> Tensor:
    """[N, F] -> [N, C]; a class that is ruled out has a probability of 0."""
    logits = F.linear(embedded, layer["weight"], layer["bias"])
    return logits.masked_fill(layer["ruled_out"], EMPTY) if "ruled_out" in layer else logits


def _check_loss(loss: Loss) -> None:
    """Refuses a loss to which classes that are ruled out matter."""
    value = float(loss(torch.tensor([[0.0, EMPTY]]), torch.tensor([0])))
    if not abs(value) < 1:
        raise ValueError(
            "the loss must not depend on classes of probability 0, which those of the other data "
            f"sets have in a mini-batch, for algorithm=url, got one that is {value:.3g} for a "
            "certain and right prediction; set loss=cross_entropy"
        )


def _mismatch(where: str, wrong: Sequence[str], shapes: Any, got: Any) -> str:
    lines = [
        f"{n} {list(got[n]) if got[n] else 'none'} instead of {list(shapes[n])}" for n in wrong
    ]
    problem = "; ".join(lines[:3]) + (f" and {len(lines) - 3} more" if len(lines) > 3 else "")
    return (
        "each of algorithm.teachers must be a run on mini-batches of one data set, in the order of "
        f"task.sources, with this run's model and a linear layer of the classes, got {where} "
        f"({problem or 'more parameters'}); give another run, or the same model"
    )
