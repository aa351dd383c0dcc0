"""A user's own objects in a search: every trial uses them instead of what the settings name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn

from dmeta.bilevel.types import Loss
from dmeta.metrics.choice import name_of
from dmeta.metrics.metric import Metric
from dmeta.runtime.ray.pickling import check_loadable, check_picklable
from dmeta.search.space import Space
from dmeta.tasks.augmentation.augment import ImageTransform
from dmeta.tasks.source import TaskSource
from dmeta.training.config import RunConfig
from dmeta.training.metric_choice import is_own, with_metric_names
from dmeta.training.setup import named_after, own_names
from dmeta.training.task_options import RUN_KEYS

Configure: TypeAlias = Callable[[Mapping[str, Any]], RunConfig]
"""Settled point -> settings of a run. Keys that these do not have are left out; can be pickled."""

_ARGUMENTS = {"task": "source"}

_SIZES = tuple(f"task.{key}" for key in RUN_KEYS)


@dataclass(frozen=True)
class Own:
    """The objects, as `dmeta.train` takes them; None: what the settings name.

    Attributes:
        model: instead of the named network.
        source: instead of the named task source.
        algorithm: instead of the named method.
        loss: instead of the named loss.
        metrics: instead of the named metrics.
        augment: instead of the named augmentation of training images.
    """

    model: nn.Module | None = None
    source: TaskSource | None = None
    algorithm: Any = None
    loss: Loss | None = None
    metrics: Sequence[str | Metric] | None = None
    augment: ImageTransform | None = None

    @property
    def names(self) -> dict[str, str]:
        """Group of settings -> name of the object that stands for it."""
        return own_names(**self.parts, source=self.source)

    @property
    def listed(self) -> dict[str, str]:
        """What it is -> names: of `names`, and of the user's own metrics."""
        if not is_own(self.metrics):
            return self.names
        return {**self.names, "metrics": ", ".join(map(name_of, self.metrics or ()))}

    @property
    def parts(self) -> dict[str, Any]:
        """What `prepare` takes besides the source, which lies in the object store."""
        return {
            "model": self.model,
            "algorithm": self.algorithm,
            "loss": self.loss,
            "metrics": self.metrics,
            "augment": self.augment,
        }

    def check(self, space: Space) -> None:
        """Refuse objects that cannot be sent to a trial, and keys that they take no notice of.

        Raises:
            ValueError: with the argument or the key.
        """
        check_picklable(**self.parts, source=self.source)
        for key in space.searched():
            group = key.partition(".")[0]
            if group in self.names and key not in _SIZES:
                raise ValueError(
                    f"{key} must have one value together with "
                    f"{_ARGUMENTS.get(group, group)}=..., which stands for all of {group}, got "
                    "several; leave it out, or register the object by entry point, so that it has "
                    "a name and options"
                )

    def check_on_cluster(self) -> None:
        """Refuse objects that the processes of the connected cluster cannot load.

        Raises:
            ValueError: with the argument.
        """
        objects = {**self.parts, "source": self.source}
        check_loadable(**{name: thing for name, thing in objects.items() if thing is not None})


def list_objects(names: Mapping[str, str]) -> str:
    """Objects as arguments: ``source=MySource, loss=my_loss``."""
    given = (f"{_ARGUMENTS.get(group, group)}={name}" for group, name in names.items())
    return ", ".join(given) or "none of them"


@dataclass(frozen=True)
class Named:
    """Settings of a point that name the user's own objects (see `Configure`).

    Attributes:
        configure: makes the settings of a point.
        names: of the objects.
        metrics: of the trials; None: those of their settings.
    """

    configure: Configure
    names: Mapping[str, str]
    metrics: Sequence[str | Metric] | None = None

    def __call__(self, point: Mapping[str, Any]) -> RunConfig:
        """The settings of a point."""
        return with_metric_names(named_after(self.configure(point), self.names), self.metrics)
