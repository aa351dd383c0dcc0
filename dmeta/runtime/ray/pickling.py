"""Checks in advance that a user's own objects can be sent to other processes."""

from __future__ import annotations

import inspect
from typing import Any

import ray
from ray import cloudpickle
from ray.exceptions import RayTaskError


def check_picklable(**objects: Any) -> None:
    """Raise if an object cannot be sent to another process.

    What is defined in a script, a notebook or another function is sent as it is, by value.

    Args:
        objects: argument that an object was given as -> it, or None.

    Raises:
        ValueError: it cannot be pickled; the message says which argument, and why.
    """
    dumps: Any = cloudpickle.dumps
    for name, thing in objects.items():
        try:
            # Large arrays are looked at, and not copied.
            dumps(thing, protocol=5, buffer_callback=lambda _: False)
        except Exception as error:  # whatever the object's own methods raise
            raise ValueError(
                f"{name} must be picklable, to be sent to the processes that compute, got "
                f"{_name_of(thing)}, which is not ({type(error).__name__}: {error}); keep locks, "
                "open files, generators and the like out of it, or make them when first used"
            ) from error


def check_loadable(**objects: Any) -> None:
    """Raise if a process of the connected cluster cannot make an object again.

    Args:
        objects: as for `check_picklable`, which they passed.

    Raises:
        ValueError: a module that it is defined in is not there, as a rule.
    """

    def load(thing: Any) -> None:
        """Ray has loaded its argument."""

    task: Any = ray.remote(num_cpus=0, max_retries=0)(load)
    for name, thing in objects.items():
        try:
            ray.get(task.remote(ray.put(thing)))
        except RayTaskError as error:
            raise ValueError(
                f"{name} must be an object that other processes can load, got {_name_of(thing)}, "
                f"which they cannot ({str(error).strip().splitlines()[-1]}); install the package "
                "that it is from, add its folder to PYTHONPATH before Ray starts, or define it in "
                "the script itself"
            ) from error


def _name_of(thing: Any) -> str:
    kind = thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)
    return str(kind.__name__)
