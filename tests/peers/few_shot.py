"""Metric-based methods against easyfsl, on the same weights and tasks, in float64.

    python -m tests.peers.few_shot [--easyfsl PATH]

Prints a table of the largest differences over tasks of unequal classes. Not collected by pytest:
easyfsl is no dependency of dmeta. It is imported from the environment or from PATH, the folder that
its package lies in. Exit code: 0; 1: a difference is above `BAR`; 3: easyfsl is not there.

Where easyfsl computes something else by definition it is brought to dmeta's: its ProtoNet's scores
are distances and not their squares; its matching network divides support embeddings alone by their
length, has no scale, and adds 1e-6 to what it takes the logarithm of; its relation network takes
means of maps where the paper adds them up.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.algorithms.full_context import BACKWARD, FORWARD, QUERY
from dmeta.algorithms.relation_scores import HIDDEN, LAYERS, SCORE
from dmeta.algorithms.relation_scores import NORMS as LAYER_NORMS
from dmeta.algorithms.set_attention import KEY as KEYS
from dmeta.algorithms.set_attention import NORM, NORM_BIAS, OUTPUT, OUTPUT_BIAS
from dmeta.algorithms.set_attention import QUERY as QUERIES
from dmeta.algorithms.set_attention import VALUE as VALUES
from dmeta.algorithms.simpleshot import CENTER
from dmeta.bilevel.solvers import stop_gradient
from dmeta.bilevel.types import Examples, Params, Stage, Task
from dmeta.models.network import Network
from dmeta.randomness import random_order
from dmeta.torchvision_compat import import_datasets
from tests.bilevel.problems import make_algorithm, network
from tests.peers.packages import import_peer

BAR = 1e-10
MISSING = 3
NUM_TASKS = 20
SHAPE = (1, 16, 16)
CLASSES = (0, 3, 1, 1, 2, 0, 1, 4, 0, 3, 2, 1)  # of the support examples

OfPeer = Callable[[nn.Module, Params, Examples, Tensor, int], Tensor]
"""(embedding, meta-parameters, support, queries, task's seed) -> what is compared [N, W]."""


def draw(seed: int) -> Task:
    """A task of blurred noise."""
    rng = torch.Generator().manual_seed(20_260 + seed)

    def images(count: int) -> Tensor:
        noise = torch.rand(count, *SHAPE, generator=rng, dtype=torch.float64)
        return F.avg_pool2d(noise, 3, stride=1, padding=1)

    return Task(
        Examples(images(len(CLASSES)), torch.tensor(CLASSES)),
        Examples(images(7), torch.zeros(7, dtype=torch.int64)),
    )


def squared_distances(
    embedding: nn.Module, params: Params, support: Examples, x: Tensor, seed: int
) -> Tensor:
    from easyfsl.methods import PrototypicalNetworks

    peer = PrototypicalNetworks(embedding)
    peer.process_support_set(*support)
    return -peer(x).square()


def cosines(
    embedding: nn.Module, params: Params, support: Examples, x: Tensor, seed: int
) -> Tensor:
    from easyfsl.methods import PrototypicalNetworks

    peer = PrototypicalNetworks(embedding)
    peer.process_support_set(*support)
    return peer.cosine_distance_to_prototypes(peer.compute_features(x))


def attention(
    embedding: nn.Module, params: Params, support: Examples, x: Tensor, seed: int
) -> Tensor:
    """Of a matching network whose LSTMs, if there are any, have dmeta's weights."""
    from easyfsl.methods import MatchingNetworks

    has_context = QUERY + "bias" in params
    width = embedding(x[:1]).shape[1]
    peer: Any = MatchingNetworks(embedding, feature_dimension=width).double()
    encode = peer.encode_query_features if has_context else (lambda features: features)
    peer.encode_query_features = lambda features: SCALE * F.normalize(encode(features))
    if has_context:
        _copy(peer.support_features_encoder, "_l0", params, FORWARD)
        _copy(peer.support_features_encoder, "_l0_reverse", params, BACKWARD)
        _copy(peer.query_features_encoding_cell, "", params, QUERY)
        order = random_order(seed, "order", len(support.y), x.device)
        support = Examples(support.x[order], support.y[order])
    else:
        peer.encode_support_features = lambda features: features
    peer.process_support_set(*support)
    peer.one_hot_support_labels = peer.one_hot_support_labels.double()
    return peer(x).exp() - 1e-6


def _copy(module: nn.Module, suffix: str, params: Params, lstm: str) -> None:
    for theirs, ours in (("weight_ih", "inputs"), ("weight_hh", "recurrent"), ("bias_ih", "bias")):
        getattr(module, theirs + suffix).data.copy_(params[lstm + ours])
    getattr(module, "bias_hh" + suffix).data.zero_()


def adapted_distances(
    embedding: nn.Module, params: Params, support: Examples, x: Tensor, seed: int
) -> Tensor:
    """Of its FEAT, whose attention has dmeta's weights: squared, over dmeta's temperature."""
    from easyfsl.methods import FEAT
    from easyfsl.modules import MultiHeadAttention

    width = len(params[NORM])
    attention = MultiHeadAttention(1, width, width, width).double().eval()
    names = {"w_qs": QUERIES, "w_ks": KEYS, "w_vs": VALUES, "fc": OUTPUT, "layer_norm": NORM}
    for theirs, ours in names.items():
        attention.get_submodule(theirs).weight.data.copy_(params[ours])
    attention.fc.bias.data.copy_(params[OUTPUT_BIAS])
    attention.layer_norm.bias.data.copy_(params[NORM_BIAS])
    peer = FEAT(embedding, attention_module=attention)
    peer.process_support_set(*support)
    return -peer(x).square() / TEMPERATURE


def relation_scores(
    embedding: nn.Module, params: Params, support: Examples, x: Tensor, seed: int, *, added: bool
) -> Tensor:
    """Of its relation network, with a relation module of torch's layers for maps of 4x4."""
    from easyfsl.methods import RelationNetworks

    layers: list[nn.Module] = []
    channels = 2 * embedding(x[:2]).shape[1]
    for inputs, outputs in ((channels, FILTERS), (FILTERS, FILTERS)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs)]
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(FILTERS, HIDDEN_UNITS), nn.ReLU()]
    module = nn.Sequential(*layers, nn.Linear(HIDDEN_UNITS, 1), nn.Sigmoid()).double()
    names = [LAYERS[0], LAYER_NORMS[0], LAYERS[1], LAYER_NORMS[1], HIDDEN, SCORE]
    values = [params[f"{name}/{kind}"] for name in names for kind in ("weight", "bias")]
    for parameter, value in zip(module.parameters(), values, strict=True):
        parameter.data.copy_(value)
    peer = RelationNetworks(embedding, feature_dimension=channels // 2, relation_module=module)
    peer.process_support_set(*support)
    if added:
        peer.prototypes *= support.y.bincount()[:, None, None, None]
    return peer(x)


def centred_distances(
    embedding: nn.Module, params: Params, support: Examples, x: Tensor, seed: int
) -> Tensor:
    """Of its SimpleShot: squared distances to its means, where its scores are cosines."""
    from easyfsl.methods import SimpleShot

    peer = SimpleShot(embedding, feature_centering=params[CENTER], feature_normalization=2.0)
    peer.process_support_set(*support)
    return -peer.l2_distance_to_prototypes(peer.compute_features(x)).square()


TEMPERATURE = 4.0
SCALE = 50.0  # else all cosines being close to 1, attention is nearly the same for all examples
FULL = {"scale": SCALE, "full_context": True, "context_steps": len(CLASSES)}
FILTERS, HIDDEN_UNITS = 7, 5
RELATION = {"relation_filters": FILTERS, "relation_hidden": HIDDEN_UNITS}
OF_ADDED, OF_MEANS = (functools.partial(relation_scores, added=added) for added in (True, False))
COMPARISONS: dict[str, tuple[str, dict[str, Any], OfPeer, str]] = {
    "ProtoNet": ("protonet", {}, squared_distances, "logits"),
    "ProtoNet, cosine": ("protonet", {"distance": "cosine"}, cosines, "logits"),
    "FEAT": ("feat", {"temperature": TEMPERATURE}, adapted_distances, "logits"),
    "Matching": ("matching", {"scale": SCALE}, attention, "probabilities"),
    "Matching, full context": ("matching", FULL, attention, "probabilities"),
    "SimpleShot": ("simpleshot", {}, centred_distances, "logits"),
    "Relation": ("relation", RELATION, OF_ADDED, "scores"),
    "Relation, means": ("relation", RELATION | {"combine_shots": "mean"}, OF_MEANS, "scores"),
}
"""Label -> method, its options, the peer's, what is compared."""

OF_LOGITS: dict[str, Callable[[Tensor], Tensor]] = {
    "logits": lambda logits: logits,
    "probabilities": lambda logits: logits.softmax(1),
    "scores": lambda logits: logits.sigmoid(),
}


def trained(params: Params) -> Params:
    """With a relation module that does not give all the same score, and a centre that is not 0."""
    rng = torch.Generator().manual_seed(5)
    return {
        name: p + 0.5 * torch.randn(p.shape, generator=rng, dtype=p.dtype)
        if name.startswith(("relation/", CENTER))
        else p
        for name, p in params.items()
    }


def largest_difference(label: str) -> float:
    name, options, of_peer, compared = COMPARISONS[label]
    embedding, _ = network("conv4", None, seed=3, filters=6, input_shape=SHAPE)
    learner = make_algorithm(name, embedding, F.cross_entropy, SHAPE, **options)
    params = trained(learner.init_meta_params())
    worst = 0.0
    for seed in range(NUM_TASKS):
        support, query = draw(seed)
        stage = Stage(training=False, ways=max(CLASSES) + 1, task_seed=seed)
        logits = learner.predict(learner.adapt(params, support, stop_gradient, stage), query.x)
        got = OF_LOGITS[compared](logits)
        peers_embedding = _Embedding(learner.network, params)
        expected = of_peer(peers_embedding, params, support, query.x, seed)
        worst = max(worst, float((got - expected).abs().max()))
    return worst


class _Embedding(nn.Module):
    def __init__(self, embedding: Network, params: Params) -> None:
        super().__init__()
        self.run = lambda x: embedding.apply(dict(params), x)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.peers.few_shot")
    parser.add_argument("--easyfsl", type=Path, metavar="PATH", help="folder of its package")
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    with contextlib.suppress(ImportError):
        import_datasets()  # easyfsl imports torchvision
    if (version := import_peer("easyfsl", parser.parse_args().easyfsl)) is None:
        print("easyfsl is missing")
        return MISSING
    print(f"easyfsl {version}, {NUM_TASKS} tasks\n\n| method | compared | largest difference |")
    print("| --- | --- | --- |")
    worst = 0.0
    with torch.no_grad():
        for label, (_, _, _, compared) in COMPARISONS.items():
            difference = largest_difference(label)
            print(f"| {label} | {compared} | {difference:.1e} |", flush=True)
            worst = max(worst, difference)
    return 0 if worst <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
