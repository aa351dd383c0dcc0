"""Whether a user's own objects can be sent to the processes of a cluster, found out beforehand."""

from __future__ import annotations

import inspect
from typing import Any

from ray import cloudpickle


def check_picklable(**objects: Any) -> None:
    """Raise if an object can not be sent to another process.

    What is defined in a script, a notebook or another function is sent as it is, by value.

    Args:
        objects: argument that an object was given as -> it, or None.

    Raises:
        ValueError: it can not be pickled; the message says which argument, and why.
    """
    dumps: Any = cloudpickle.dumps
    for name, thing in objects.items():
        try:
            # Large arrays are looked at, and not copied.
            dumps(thing, protocol=5, buffer_callback=lambda _: False)
        except Exception as error:  # whatever the object's own methods raise
            kind = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
            raise ValueError(
                f"{name} must be picklable, to be sent to the processes that compute, got "
                f"{kind.__name__}, which is not ({type(error).__name__}: {error}); keep locks, "
                "open files, generators and the like out of it, or make them when first used"
            ) from error
