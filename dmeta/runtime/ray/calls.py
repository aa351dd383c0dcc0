"""Calls of Ray actors: their types, and what their errors mean."""

from __future__ import annotations

from typing import Any, NoReturn

from ray.exceptions import RayError, RayTaskError

from dmeta.runtime.ray.actors import NotBuiltError

Ref = Any  # ray.ObjectRef; Ray has no types that mypy could use
Pieces = tuple[Ref, ...]  # of a vector, one after the other, as its servers have them
Actor = Any  # ray.actor.ActorHandle


def is_from_the_work(error: RayError) -> bool:
    """Whether the remote code raised it; else a process, or an object it needed, was lost."""
    if not isinstance(error, RayTaskError) or isinstance(error.cause, NotBuiltError):
        return False
    # A plain RayError stands for an exception of the work that does not pickle.
    return not isinstance(error.cause, RayError) or type(error.cause) is RayError


def raise_cause(error: RayError) -> NoReturn:
    """Raise what the remote code raised; its remote traceback stays in the chain."""
    assert isinstance(error, RayTaskError)
    raise error.cause from error
