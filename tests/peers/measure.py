"""Benchmark of the same work in dmeta and in other libraries: seconds, bytes, agreement.

Measured on tasks of a run, in this process. Knows no command line and writes nothing.

Letters: T tasks of the block.
"""

from __future__ import annotations

import functools
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from dmeta.bench.agreement import BAR
from dmeta.bench.timing import seconds_in_turn
from dmeta.bilevel.compiled import block_program
from dmeta.bilevel.plans import PlanName, block_gradient, eager
from dmeta.registry import nearest
from dmeta.training.autotune.gradient_error import in_float64, relative_difference
from dmeta.training.autotune.memory_budget import first_block_inputs
from dmeta.training.autotune.memory_prediction import block_peak
from dmeta.training.autotune.peak_memory import peak_bytes
from dmeta.training.results import versions
from dmeta.training.setup import Run
from dmeta.training.work.worker import BlockInputs
from tests.peers.libraries import LABELS, PEERS, Gradient, Peer, Work
from tests.peers.packages import import_peer, is_there
from tests.peers.work import Written, work_of

OWN = "dmeta"


@dataclass(frozen=True)
class PeersOptions:
    """What is measured.

    Attributes:
        peers: names of libraries; None: all.
        paths: name -> the folder that its package lies in; None: wherever it is installed.
        network: how that of the peers is written.
        num_tasks: T; None: all tasks of an outer step.
        repeats: timed runs of each.
    """

    peers: tuple[str, ...] | None = None
    paths: Mapping[str, str | None] = field(default_factory=dict)
    network: Written = "same"
    num_tasks: int | None = None
    repeats: int = 10

    def __post_init__(self) -> None:
        """Refuses impossible numbers, unknown names, and folders without their package."""
        if self.peers == ():
            raise ValueError("bench.peers must have an entry, got none; add one, or set null")
        for key, names in (("peers", self.peers or ()), ("paths", tuple(self.paths))):
            for name in names:
                if name not in PEERS:
                    raise ValueError(
                        f"bench.{key} must name some of {', '.join(PEERS)}, got {name!r}"
                        f"{nearest(name, list(PEERS))}"
                    )
        for key, value in (("num_tasks", self.num_tasks), ("repeats", self.repeats)):
            if value is not None and value < 1:
                raise ValueError(f"bench.{key} must be >= 1, got {value}; raise it")
        for name in PEERS:
            folder = self.folder_of(name)
            if folder is not None and not is_there(name, folder):
                raise ValueError(
                    f"bench.paths.{name} must be the folder that the package {name} lies in, got "
                    f"{folder}, which has no {name}/__init__.py; change it"
                )

    @property
    def names(self) -> tuple[str, ...]:
        """Of the libraries to measure, each once."""
        return tuple(PEERS) if self.peers is None else tuple(dict.fromkeys(self.peers))

    def folder_of(self, name: str) -> Path | None:
        """Where the package of a peer was said to lie."""
        path = self.paths.get(name)
        return None if path is None else Path(path)


@dataclass(frozen=True)
class PeerCost:
    """Of one library.

    Attributes:
        library: its name.
        version: or its commit.
        seconds: of the block, each timed run.
        peak_bytes: most bytes of tensors at a time.
        difference: of its meta-gradient from dmeta's, relative, both in float64; None: dmeta's own.
    """

    library: str
    version: str
    seconds: tuple[float, ...]
    peak_bytes: int
    difference: float | None

    @property
    def median_seconds(self) -> float:
        """Of the block."""
        return statistics.median(self.seconds)

    @property
    def is_same(self) -> bool:
        """Whether its meta-gradient is dmeta's, up to rounding."""
        return self.difference is None or self.difference <= BAR  # not if it is NaN


@dataclass(frozen=True)
class LeftOutPeer:
    """A library that was not measured.

    Attributes:
        library: its name.
        reason: why.
    """

    library: str
    reason: str


@dataclass(frozen=True)
class PeerCosts:
    """What was found.

    Attributes:
        num_tasks: T.
        plan: of dmeta.
        device: ``cpu`` or ``cuda``.
        threads: that torch computes with.
        bar: differences up to this are rounding.
        rows: dmeta first.
        left_out: what was not measured, and why.
    """

    num_tasks: int
    plan: PlanName
    device: str
    threads: int
    bar: float
    rows: tuple[PeerCost, ...]
    left_out: tuple[LeftOutPeer, ...]

    def tasks_per_second(self, row: PeerCost) -> float:
        """At the median time."""
        return self.num_tasks / row.median_seconds

    def ratio(self, row: PeerCost) -> float:
        """How many times dmeta is as fast as a library, at the median times."""
        return row.median_seconds / self.rows[0].median_seconds


def peer_costs(run: Run, options: PeersOptions, tell: Callable[[str], None]) -> PeerCosts:
    """Measure dmeta and its peers on tasks of the run's first step, at the initial weights.

    Args:
        run: the run.
        options: what to measure.
        tell: called with what is going on.

    Raises:
        ValueError: the run does not compute in float32, as its peers do.
    """
    if (precision := run.config.compute.precision) != "float32":
        raise ValueError(
            f"compute.precision must be float32, in which the peers compute, got {precision}; "
            "remove it"
        )
    plan, estimator = run.work.plan, run.work.estimator
    inputs = first_block_inputs(run, options.num_tasks or run.config.meta_batch_size)
    device = inputs.tasks.support.x.device.type
    work_at = functools.partial(work_of, run, written=options.network)
    found, left_out = _found(lambda: work_at(inputs), options)
    if found:
        tell(f"meta-gradients in float64: {', '.join([OWN, *found])}")
    differences, failed = _differences(run, inputs, work_at, list(found))
    of_peers = {
        name: functools.partial(_of_peer, PEERS[name], work_at(inputs)) for name in differences
    }
    # Counting what they need is their first run, for warming up.
    peaks = {OWN: block_peak(plan, estimator, inputs)}
    peaks |= {name: peak_bytes(compute, device) for name, compute in of_peers.items()}
    tell(f"{options.repeats} timed runs of each, in turn")
    program = block_program(plan, estimator, inputs.algorithm, run.work.chunk_size)
    program(*inputs[1:])  # compiled now, if it is compiled
    computations: dict[str, Callable[[], object]] = {
        OWN: lambda: program(*inputs[1:]),
        **of_peers,
    }
    seconds = seconds_in_turn(computations, options.repeats, device)
    version_of = {OWN: versions()["dmeta"], **found}
    rows = [
        PeerCost(name, version_of[name], seconds[name], peaks[name], differences.get(name))
        for name in computations
    ]
    T, threads = len(inputs.tasks.support.x), torch.get_num_threads()
    return PeerCosts(T, plan, device, threads, BAR, tuple(rows), (*left_out, *failed))


def _found(
    work: Callable[[], Work], options: PeersOptions
) -> tuple[dict[str, str], list[LeftOutPeer]]:
    """Name -> version of the peers that can do the work and are there; the others, and why."""
    found: dict[str, str] = {}
    left_out: list[LeftOutPeer] = []
    for name in options.names:
        try:
            _check_does(PEERS[name], work())
            found[name] = _import(name, options.folder_of(name))
        except ValueError as refused:
            left_out.append(LeftOutPeer(name, str(refused)))
    return found, left_out


def _check_does(peer: Peer, work: Work) -> None:
    if (work.method, work.first_order) not in peer.does:
        others = ", ".join(LABELS[each] for each in peer.does)
        raise ValueError(f"{work.label} is not compared with it, only {others}")


def _import(name: str, folder: Path | None) -> str:
    try:
        version = import_peer(name, folder)
    except Exception as error:  # whatever another library raises; the rest is measured
        raise ValueError(f"it cannot be imported: {_told(error)}") from error
    if version is None:
        raise ValueError(f"not installed; pip install {name}, or bench.paths.{name}=FOLDER")
    return version


def _differences(
    run: Run, inputs: BlockInputs, work_at: Callable[[BlockInputs], Work], names: Sequence[str]
) -> tuple[dict[str, float], list[LeftOutPeer]]:
    """Of the peers' meta-gradients from dmeta's in float64; the peers that failed, and how."""
    if not names:
        return {}, []
    double = in_float64(inputs)
    reference = block_gradient(eager(run.work.plan), run.work.estimator, *double).gradients
    differences: dict[str, float] = {}
    failed: list[LeftOutPeer] = []
    for name in names:
        try:
            got = _of_peer(PEERS[name], work_at(double))
        except Exception as error:  # whatever another library raises; the rest is measured
            failed.append(LeftOutPeer(name, f"it fails: {_told(error)}"))
        else:
            differences[name] = relative_difference(got, reference)
    return differences, failed


def _of_peer(peer: Peer, work: Work) -> Gradient:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the peers are older than this torch
        return peer.gradient(work)


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
