"""How the gradients of a step reach the server: one by one, or added on the way.

The bits are the same (`dmeta.runtime.reduction`). Knows actors that add, no worker and no server.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, ObjectLostError, RayError

from dmeta.runtime.ray.calls import Actor, Pieces, Ref
from dmeta.runtime.ray.server_client import ArgumentLostError
from dmeta.runtime.ray.worker_pool import Computed
from dmeta.runtime.reduction import FAN_IN, groups

_LOG = logging.getLogger(__name__)

_PATIENCE_S = 60.0  # for all sums of a step
_MOST_FAILURES = 3
_FLAT_BYTES = 60e6
_LEAST_PARTS, _MOST_PARTS = 2, 8


def way_of(num_blocks: int, vector_bytes: int, num_nodes: int) -> Literal["flat", "tree"]:
    """What ``runtime.reduce=auto`` takes: the server alone, as long as it is not the bottleneck.

    Args:
        num_blocks: gradients of a step.
        vector_bytes: of one.
        num_nodes: on which they are computed.
    """
    if num_nodes == 1 or num_blocks * vector_bytes <= _FLAT_BYTES:
        return "flat"
    return "tree"


def parts_of(num_nodes: int) -> int:
    """Among how many actors ``runtime.reduce=sharded`` divides the server: one on each node.

    At least two: adding and the optimiser's step take several cores of a machine then. At most
    eight: each worker hands a piece of its gradient to each, and messages cost by their number.
    """
    return min(max(num_nodes, _LEAST_PARTS), _MOST_PARTS)


class _Sum(NamedTuple):
    """A member of the tree: a gradient, or a sum that is being taken."""

    vector: Pieces
    node: str


class Tree:
    """Adds the gradients of a step on the nodes where they are, then their sums."""

    def __init__(self, start: Callable[[str], Actor]) -> None:
        """Nothing is started yet.

        Args:
            start: starts an `AdderActor` on a node.
        """
        self._start = start
        self._adders: dict[str, Actor] = {}
        self._num_failures = 0

    def gather(self, computed: Sequence[Computed]) -> list[Pieces]:
        """References of at most `FAN_IN` vectors with the same sum.

        Raises:
            ArgumentLostError: a gradient went with its node.
        """
        members = [_Sum(block.gradient, block.node) for block in computed]
        alone = [member.vector for member in members]
        if self._num_failures >= _MOST_FAILURES:
            return alone
        signs: dict[Ref, str] = {}
        try:
            while len(members) > FAN_IN:
                members = [
                    self._added([members[i] for i in g], signs) for g in groups(len(members))
                ]
            ray.get(list(signs), timeout=_PATIENCE_S)
        except GetTimeoutError:
            ready, _ = ray.wait(list(signs), num_returns=len(signs), timeout=0)
            self._drop({node for sign, node in signs.items() if sign not in ready}, "no answer")
            return alone
        except ObjectLostError as error:
            raise ArgumentLostError(str(error)) from error
        except RayError as error:
            self._drop(set(signs.values()), f"{type(error).__name__}")
            return alone
        return [member.vector for member in members]

    def actors(self) -> list[Actor]:
        """To be killed at the end."""
        return list(self._adders.values())

    def _added(self, members: Sequence[_Sum], signs: dict[Ref, str]) -> _Sum:
        """Begin to add them, where most of them are."""
        if len(members) == 1:
            return members[0]
        [(node, _)] = Counter(member.node for member in members).most_common(1)
        if node not in self._adders:
            self._adders[node] = self._start(node)
        num_pieces = len(members[0].vector)
        returned = self._adders[node].add.options(num_returns=num_pieces + 1)
        pieces = itertools.chain.from_iterable(member.vector for member in members)
        sign, *total = returned.remote(num_pieces, *pieces)
        signs[sign] = node
        return _Sum(tuple(total), node)

    def _drop(self, nodes: set[str], cause: str) -> None:
        """Start again with others: one of these was lost, or hangs."""
        self._num_failures += 1
        _LOG.warning(
            "adding gradients on their nodes failed (%s); the server adds them%s",
            cause,
            ", from now on" if self._num_failures >= _MOST_FAILURES else "",
        )
        for node in nodes:
            ray.kill(self._adders.pop(node), no_restart=True)
