"""How a block is computed (`compute`), and how blocks are spread over processes (`runtime`).

Knows no Ray: it is read by commands that must start without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Device: TypeAlias = Literal["auto", "cpu", "cuda"]
"""``auto``: ``cuda`` where a GPU is assigned, else ``cpu``."""

Precision: TypeAlias = Literal["float32", "tf32", "bfloat16"]
"""Of computations."""


Plan: TypeAlias = Literal[
    "auto", "measure", "loop", "loop_channels_last", "loop_mixed", "vmap", "compiled"
]
"""How the tasks of a block are computed."""


@dataclass(frozen=True)
class ComputeOptions:
    """How a block is computed: part of the result, because floating-point sums depend on it.

    Attributes:
        block_size: task slots per block (a count), the unit that is scheduled and retried.
        threads_per_worker: CPU threads that torch uses in each process (a count).
        plan: how a worker computes the tasks of a block: ``loop``, one after the other;
            ``loop_channels_last``, the same with images stored channels last; ``loop_mixed``, with
            those of the query set alone stored so; ``vmap``, all at once; ``compiled``, ``vmap`` as
            one program; ``auto``, by a rule from the model, the tasks and the kind of device;
            ``measure``, the fastest on the run's first block.
        chunk_size: tasks of a block that ``vmap`` and ``compiled`` compute at once (a count);
            ``auto``: the whole block, or as many as fit 2 GiB on a CPU and 8 GiB on a GPU (with
            ``plan=measure``: half of what is free).
        precision: of the computation, in training and evaluation: ``float32``; ``tf32``, with
            products rounded to 10 bits, on GPUs that can (elsewhere it is float32); or
            ``bfloat16``, in which the network's convolutions and products, and what lies between
            them, are computed (torch's autocast) while parameters, batch statistics, the network's
            outputs, losses and gradients stay float32.
        gradient_precision: in which a block's meta-gradient travels to the server: as it was
            computed, or rounded to bfloat16, in half the bytes.
    """

    block_size: int = 8
    threads_per_worker: int = 1
    plan: Plan = "auto"
    chunk_size: int | Literal["auto"] = "auto"
    precision: Precision = "float32"
    gradient_precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ValueError: a field is out of its range.
        """
        for field in ("block_size", "threads_per_worker"):
            check_count(f"compute.{field}", getattr(self, field))
        if self.chunk_size != "auto":
            check_count("compute.chunk_size", self.chunk_size, or_auto=True)


@dataclass(frozen=True)
class RuntimeOptions:
    """Who computes the blocks of a step.

    No option changes the result, except ``mode=async``, whose results depend on the speed of the
    workers. ``local`` has no workers to place and reads none but ``name``.

    Attributes:
        name: ``local`` (in this process) or ``ray`` (actors on one or many machines).
        num_workers: task workers, one process each; ``auto``: as many as fit the cluster and have
            a block to compute; more join when nodes do.
        cpus_per_worker: CPUs reserved per worker (a count; may be fractional).
        gpus_per_worker: GPUs reserved per worker: 0, 1, or the share of one (0.25: four workers on
            each GPU, each with a quarter of its memory). ``auto``: 1 if the cluster has GPUs and
            the device is not cpu, else 0.
        autoscale: start also the workers that there is no room for: they are what a cluster's
            autoscaler makes room for. They join when it has; ``min_workers`` is what the run begins
            with. False: such workers are refused.
        address: the Ray cluster to join: ``auto`` or ``host:port``. None: the one named by the
            environment variable RAY_ADDRESS (set inside a Ray job), else a local cluster of our
            own that is stopped at the end.
        allow_unauthenticated: join a cluster on a network that asks nobody for a token, where
            whoever reaches it can run any program.
        dashboard: whether a cluster of our own has Ray's dashboard, for this machine alone.
        mode: ``sync``: a step is made of its own blocks; ``async``: of those that are there first,
            computed at meta-parameters of some steps ago (`dmeta.runtime.ray.stale_gradients`): no
            worker waits, and the result depends on who was faster. With ``local`` it is ``sync``.
        max_staleness: outer steps (a count) that a gradient may be behind; one that is further
            behind is not applied, and its block computed again. 0: as ``sync``, to the bit.
        max_waiting: blocks (a count) whose gradients may wait for the next step, with ``async``.
            None: a step's worth, which is all that can come.
        when_full: what happens when more would wait: ``block``, workers are given nothing new;
            ``drop``, they are, and the oldest gradients are dropped and computed again.
        reduce: how the gradients of a step come to the server: ``flat``, each by itself; ``tree``,
            added on their nodes, then their sums; ``sharded``, to a server that is divided among
            the nodes, in two to eight; ``auto``, flat or tree by their number, their size and the
            number of nodes (and so does sharded). The same bits (`dmeta.runtime.reduction`).
        max_attempts: computations of one block (a count) that may be lost with their worker, the
            first one included, before the run gives up; likewise for the parameter server.
        min_workers: the run begins with so many workers (a count), lets the others join when the
            cluster has room for them, and waits below. None: it begins with all
            that come in reasonable time (`dmeta.runtime.ray.worker_registry`), and goes on with
            any.
        hung_after_s: seconds without an answer after which a worker or the server is killed and
            started anew. None: learned from the run, 20 times the usual and at least 30 s.
        snapshot_every: outer steps between copies of the server's state, from which it goes on if
            it is lost: the steps since are computed again, to the same bits. 1: none are.
    """

    name: Literal["ray", "local"] = "local"
    num_workers: int | Literal["auto"] = "auto"
    cpus_per_worker: float = 1
    gpus_per_worker: float | Literal["auto"] = "auto"
    autoscale: bool = False
    address: str | None = None
    allow_unauthenticated: bool = False
    dashboard: bool = False
    mode: Literal["sync", "async"] = "sync"
    max_staleness: int = 4
    max_waiting: int | None = None
    when_full: Literal["block", "drop"] = "block"
    reduce: Literal["auto", "flat", "tree", "sharded"] = "auto"
    max_attempts: int = 4
    min_workers: int | None = None
    hung_after_s: float | None = None
    snapshot_every: int = 20

    def __post_init__(self) -> None:
        """Check what can be checked without a cluster.

        Raises:
            ValueError: a field is out of its range.
        """
        if self.name not in ("ray", "local"):
            raise ValueError(f"runtime.name must be ray or local, got {self.name!r}; choose one")
        if self.num_workers != "auto":
            check_count("runtime.num_workers", self.num_workers, or_auto=True)
        for name in ("max_staleness", "max_waiting"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(
                    f"runtime.{name} must be >= 0, got {getattr(self, name)}; raise it"
                )
        for field in ("max_attempts", "snapshot_every"):
            check_count(f"runtime.{field}", getattr(self, field))
        if self.min_workers is not None:
            check_count("runtime.min_workers", self.min_workers)
        if self.hung_after_s is not None and not self.hung_after_s > 0:
            raise ValueError(
                f"runtime.hung_after_s must be > 0 or null, got {self.hung_after_s}; raise it"
            )
        if self.num_workers != "auto" and (self.min_workers or 1) > self.num_workers:
            raise ValueError(
                f"runtime.min_workers must be <= runtime.num_workers ({self.num_workers}), got "
                f"{self.min_workers}; change one of them"
            )
        if not self.cpus_per_worker > 0:
            raise ValueError(
                f"runtime.cpus_per_worker must be > 0, got {self.cpus_per_worker}; "
                "use a fraction to place several workers on one CPU"
            )
        _check_gpus(self.gpus_per_worker)


def check_count(key: str, value: int | str, *, or_auto: bool = False) -> None:
    """Check a count.

    Args:
        key: its full name, for the message.
        value: to be a whole number of at least 1.
        or_auto: whether the message names ``auto``, which the caller has ruled out.

    Raises:
        ValueError: it is not one.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        words = "a whole number >= 1" + (" or auto" if or_auto else "")
        raise ValueError(f"{key} must be {words}, got {value!r}; change {key}")


def _check_gpus(value: float | str) -> None:
    if value == "auto":
        return
    if isinstance(value, str) or not 0 <= value <= 1:
        raise ValueError(
            "runtime.gpus_per_worker must be auto, 0, 1 or a share of a GPU between them, for a "
            f"worker computes on one GPU, got {value!r}; set it to 1, and runtime.num_workers to "
            "the number of GPUs"
        )
