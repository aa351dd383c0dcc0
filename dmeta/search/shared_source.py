"""Data sets in the object store: loaded once, and shared by all trials of a node."""

from __future__ import annotations

from typing import Any

import ray

from dmeta.runtime.ray.calls import Ref
from dmeta.tasks.source import TaskSource


class SharedSource:
    """A task source that lies in the object store (see `dmeta.tasks.source.TaskSource`).

    It travels as a reference: a worker that it is sent to maps the same memory, where sending the
    source itself would store its arrays once more.
    """

    def __init__(self, ref: Ref) -> None:
        """The source that `ref` is of."""
        self._ref = ref
        source: Any = ray.get(ref)
        self._source: TaskSource = source

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked for while it is being made, by copy and pickle
            raise AttributeError(name)
        return getattr(self._source, name)

    def __reduce__(self) -> tuple[Any, ...]:
        return SharedSource, (self._ref,)
