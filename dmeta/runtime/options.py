"""How a block is computed (`compute`), and how blocks are spread over processes (`runtime`).

Knows no Ray: it is read by commands that must start without it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from dmeta.options import check_fields

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

    block_size: PositiveInt = 8
    threads_per_worker: PositiveInt = 1
    plan: Plan = "auto"
    chunk_size: PositiveInt | Literal["auto"] = "auto"
    precision: Precision = "float32"
    gradient_precision: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Check the fields."""
        check_fields(self, "compute")


@dataclass(frozen=True)
class RuntimeOptions:
    """Who computes the blocks of a step.

    No option changes the result, except ``mode=async``, whose results depend on the speed of the
    workers. ``local`` has no workers to place and reads none but ``name``.

    Attributes:
        name: ``ray``: actors on one or many machines; ``local``: this process.
        num_workers: number of task workers, one process each. ``auto``: as many as fit and have a
            block to compute; workers are added when nodes join.
        cpus_per_worker: CPUs reserved per worker; may be fractional.
        gpus_per_worker: GPUs reserved per worker: 0, 1 or a share of one (0.25: four workers on
            each GPU, each with a quarter of its memory). ``auto``: 1 if the cluster has GPUs and
            the device is not cpu, else 0.
        autoscale: also request workers that there is no room for yet, so that the cluster's
            autoscaler makes room; they join later, and ``min_workers`` is what the run starts
            with. False: such workers are refused.
        address: Ray cluster to join: ``auto`` or ``host:port``. None: the one in the environment
            variable RAY_ADDRESS (set inside a Ray job), else a local cluster that is stopped at
            the end.
        allow_unauthenticated: join a cluster on a network that requires no token: anyone who can
            reach it can run any program.
        dashboard: whether a cluster that the run starts has Ray's dashboard, for this machine only.
        mode: ``sync``: a step uses its own blocks. ``async``: a step uses whichever gradients
            arrive first, computed at the meta-parameters of an earlier step
            (`dmeta.runtime.ray.stale_gradients`): no worker waits, and the result depends on the
            speed of the workers. With ``local`` it is ``sync``.
        max_staleness: how many outer steps behind a gradient may be with ``async``; an older one
            is not applied, and its block is computed again. 0: as ``sync``, to the bit.
        max_waiting: how many blocks may have gradients that wait for the next step, with
            ``async``. None: the blocks of one step.
        when_full: what happens when more would wait. ``block``: workers get no new work.
            ``drop``: the oldest gradients are dropped and computed again.
        reduce: how the gradients of a step are added. ``flat``: by the server. ``tree``: on their
            nodes first, then their sums. ``sharded``: by a server divided among two to eight
            nodes. ``auto``: ``flat`` or ``tree``, by the number and size of the gradients and the
            number of nodes. The bits are the same (`dmeta.runtime.reduction`).
        max_attempts: how often a block may be computed, if its worker is lost each time, before
            the run ends; likewise for the parameter server.
        min_workers: number of workers that the run starts with; it waits when there are fewer, and
            the others join when the cluster has room. None: the run starts with all workers that
            come in reasonable time (`dmeta.runtime.ray.worker_registry`) and continues with any.
        hung_after_s: seconds without an answer after which a worker or the server is killed and
            restarted. None: learned from the run, 20 times the usual and at least 30 s.
        snapshot_every: outer steps between copies of the server's state. If the server is lost, it
            is restarted from the last copy and the steps since are computed again, to the same
            bits. 1: none are.
    """

    name: Literal["ray", "local"] = "local"
    num_workers: PositiveInt | Literal["auto"] = "auto"
    cpus_per_worker: PositiveFloat = 1.0
    gpus_per_worker: float | Literal["auto"] = "auto"
    autoscale: bool = False
    address: str | None = None
    allow_unauthenticated: bool = False
    dashboard: bool = False
    mode: Literal["sync", "async"] = "sync"
    max_staleness: NonNegativeInt = 4
    max_waiting: NonNegativeInt | None = None
    when_full: Literal["block", "drop"] = "block"
    reduce: Literal["auto", "flat", "tree", "sharded"] = "auto"
    max_attempts: PositiveInt = 4
    min_workers: PositiveInt | None = None
    hung_after_s: PositiveFloat | None = None
    snapshot_every: PositiveInt = 20

    def __post_init__(self) -> None:
        """Refuse what can be refused without a cluster.

        Raises:
            ValueError: a field is out of its range, or two contradict each other.
        """
        check_fields(self, "runtime")
        if self.num_workers != "auto" and (self.min_workers or 1) > self.num_workers:
            raise ValueError(
                f"runtime.min_workers must be <= runtime.num_workers ({self.num_workers}), got "
                f"{self.min_workers}; change one of them"
            )
        _check_gpus(self.gpus_per_worker)


def _check_gpus(value: float | str) -> None:
    if value == "auto":
        return
    if isinstance(value, str) or not 0 <= value <= 1:
        raise ValueError(
            "runtime.gpus_per_worker must be auto, 0, 1 or a share of a GPU between them, for a "
            f"worker computes on one GPU, got {value!r}; set it to 1, and runtime.num_workers to "
            "the number of GPUs"
        )
