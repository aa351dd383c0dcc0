"""Meta-gradients against other libraries, on the same weights and tasks, in float64.

dmeta's are computed by both eager plans and by `dmeta.MetaLearner`; the table has the worst.

    python -m tests.peers [--learn2learn PATH] [--higher PATH] [--torchopt PATH]

Prints a table of differences. Not collected by pytest: the libraries (the peers) are no
dependencies of dmeta. Each is imported from the environment, or from PATH, the folder that its
package lies in; of a git checkout the commit is named. Exit code: 0; 1: a difference is above
`BAR`; 3: a peer is not there (what is there is compared all the same).

"Second order" is how far dmeta's own exact (or implicit) and first-order meta-gradients are apart:
what the difference would be with a wrong second order.
"""

from __future__ import annotations

import argparse
import copy
import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dmeta
from dmeta.bench.agreement import BAR
from dmeta.bilevel.estimators import exact, first_order
from dmeta.bilevel.implicit import Implicit
from dmeta.bilevel.plans import block_gradient
from dmeta.bilevel.surrogates import Estimator
from dmeta.bilevel.transforms.rate import RATE
from dmeta.bilevel.types import Params
from dmeta.models.network import Network
from tests.bilevel.problems import TRAINING, flat, make_algorithm, relative_error
from tests.peers.libraries import (
    PEERS,
    Gradient,
    Method,
    Work,
    of_higher,
    of_learn2learn,
    of_torchopt,
)
from tests.peers.packages import import_peer
from tests.peers.references import LR, SETTINGS, Setting, of_dense_solve

STEPS = (1, 3, 5)
FEW, MANY = 5, 40  # steps of conjugate gradient: as in Rajeswaran et al. 2019, and converged
MISSING = 3
HEADER = (
    "| peer | version | method | model | inner steps | relative difference | largest absolute "
    "| second order |"
)


@dataclass(frozen=True)
class Comparison:
    """One method of one peer, and what dmeta calls it.

    Attributes:
        peer: its package.
        method: for the table.
        algorithm: as registered.
        estimator: of dmeta's meta-gradient.
        of_peer: the peer's.
        cg_steps: of iMAML.
        only: the setting that it is for; None: all.
        same: whether both mean the same; else the difference is shown and not judged.
    """

    peer: str
    method: str
    algorithm: Method
    estimator: Estimator
    of_peer: Callable[[Work], Gradient]
    cg_steps: int = 0
    only: str | None = None
    same: bool = True


def comparisons() -> Iterator[Comparison]:
    labels: dict[str, Method] = {"MAML": "maml", "ANIL": "anil", "Meta-SGD": "meta_sgd"}
    for label, name in labels.items():
        for kind, estimator in {"exact": exact, "first-order": first_order}.items():
            yield Comparison("learn2learn", f"{label}, {kind}", name, estimator, of_learn2learn)
    peer = functools.partial(of_learn2learn, together=True)
    label = "ANIL, exact; features of both sets in one batch (another definition)"
    norm = "conv4, batch-norm"
    yield Comparison("learn2learn", label, "anil", exact, peer, only=norm, same=False)
    yield Comparison("higher", "MAML, exact", "maml", exact, of_higher)
    yield Comparison("higher", "MAML, first-order", "maml", first_order, of_higher)
    yield Comparison("torchopt", "MAML, exact", "maml", exact, of_torchopt)
    for n in (FEW, MANY):
        implicit = Implicit(iterations=n, tolerance=1e-15)
        yield Comparison("torchopt", f"iMAML, {n} steps of cg", "imaml", implicit, of_torchopt, n)
    label = f"iMAML, {MANY} steps of cg; the peer: a dense solve"
    yield Comparison("torch", label, "imaml", implicit, of_dense_solve)


@dataclass(frozen=True)
class Differences:
    """For one number of inner steps; the worst of both plans and of `dmeta.MetaLearner`.

    Attributes:
        relative: in the 2-norm, over the norm of the peer's meta-gradient.
        absolute: of a single number.
        second_order: relative, between dmeta's own exact (or implicit) and first-order ones.
    """

    relative: float
    absolute: float
    second_order: float


def options_of(case: Comparison, at: Setting, steps: int) -> dict[str, Any]:
    options = {"inner_steps": steps, "inner_lr": LR}
    if case.algorithm == "imaml":
        options |= {"inner_lr": at.proximal_lr, "inner_proximal": at.proximal}
    return options


def learner_of(case: Comparison, at: Setting, steps: int) -> tuple[Any, Params]:
    """What dmeta makes of it, and the meta-parameters: no two learned rates are alike."""
    options = options_of(case, at, steps)
    learner = make_algorithm(case.algorithm, Network.of(at.module), at.loss, **options)
    rng = torch.Generator().manual_seed(2)
    params = {
        name: p * (0.5 + torch.rand(p.shape, generator=rng, dtype=p.dtype))
        if name.startswith(RATE)
        else p
        for name, p in learner.init_meta_params().items()
    }
    return learner, params


def of_module(case: Comparison, at: Setting, steps: int, params: Params) -> Tensor:
    """The meta-gradient that `dmeta.MetaLearner` adds to the parameters."""
    learner = dmeta.MetaLearner(
        copy.deepcopy(at.module),
        case.algorithm,
        loss=at.loss,
        gradient=case.estimator,
        **options_of(case, at, steps),
    )
    with torch.no_grad():
        for name, p in learner.meta_params.items():
            p.copy_(params[name])
    learner.backward(*at.tasks.support, *at.tasks.query, reduction="sum")
    return torch.cat([learner.meta_params[name].grad.reshape(-1) for name in params])


def differences(case: Comparison, at: Setting, steps: int) -> Differences:
    learner, params = learner_of(case, at, steps)

    def gradient(plan: Any, estimator: Estimator) -> Tensor:
        block = block_gradient(plan, estimator, learner, params, at.tasks, TRAINING)
        return flat(block.gradients)

    is_first_order = case.estimator is first_order
    of_peer = case.of_peer(at.work(params, steps, case.algorithm, is_first_order, case.cg_steps))
    assert of_peer.keys() == params.keys()
    expected = flat({name: of_peer[name] for name in params})
    got = [gradient(plan, case.estimator) for plan in ("loop", "vmap")]
    got.append(of_module(case, at, steps, params))
    other = gradient("loop", exact if is_first_order else first_order)
    return Differences(
        relative=max(relative_error(g, expected) for g in got),
        absolute=max(float((g - expected).abs().max()) for g in got),
        second_order=relative_error(other, got[0]),
    )


def arguments() -> Mapping[str, Path | None]:
    parser = argparse.ArgumentParser(prog="python -m tests.peers")
    for name in PEERS:
        parser.add_argument(f"--{name}", type=Path, metavar="PATH", help="folder of its package")
    return vars(parser.parse_args())


def main() -> int:
    paths = arguments()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the peers are older than this torch
    versions = {name: import_peer(name, paths[name]) for name in PEERS}
    versions["torch"] = torch.__version__
    worst = 0.0
    print(HEADER, "| --- " * (HEADER.count("|") - 1) + "|", sep="\n")
    for case in comparisons():
        if versions[case.peer] is None:
            print(f"| {case.peer} | missing | {case.method} | | | | | |")
            continue
        for name in SETTINGS if case.only is None else (case.only,):
            rows = [differences(case, SETTINGS[name](), steps) for steps in STEPS]
            cells = (
                case.peer,
                versions[case.peer],
                case.method,
                name,
                ", ".join(map(str, STEPS)),
                ", ".join(f"{row.relative:.1e}" for row in rows),
                f"{max(row.absolute for row in rows):.1e}",
                f"{min(row.second_order for row in rows):.1e}",
            )
            print(f"| {' | '.join(map(str, cells))} |", flush=True)
            if case.same:
                worst = max(worst, *(row.relative for row in rows))
    print(f"\nlargest relative difference of the same definition: {worst:.1e} (bar {BAR:.0e})")
    if not worst <= BAR:
        return 1
    return MISSING if None in versions.values() else 0


if __name__ == "__main__":
    sys.exit(main())
