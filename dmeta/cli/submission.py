"""What is submitted, and how: a job's command, its environment, and the settings of both."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal, NamedTuple

from dmeta.cli.upload import Shipment

_STOP_WAIT = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
"""Seconds that a job may take to stop: Ray's default of 3 may be too short for a checkpoint."""

_SECRET = re.compile("SECRET|TOKEN|PASSWORD", re.IGNORECASE)

_ON_THE_CLUSTER = ("torch", "torchvision", "ray")


@dataclass(frozen=True)
class SubmitOptions:
    """How a verb is submitted, as in configs/submit.yaml.

    Attributes:
        address: of the cluster's dashboard; None: what Ray's variables say.
        wait: whether the job is followed.
        retries: how often a job that fails is submitted again.
        code: whether this program is shipped.
        pip: packages to install there; ``auto``: what this program needs.
        image: container image to run in.
        env: environment variables.
    """

    address: str | None
    wait: bool
    retries: int
    code: bool
    pip: tuple[str, ...] | Literal["auto"] | None
    image: str | None
    env: Mapping[str, str | int | float] | None

    def __post_init__(self) -> None:
        """Refuses impossible numbers, and what does not go together."""
        if self.retries < 0:
            raise ValueError(f"submit.retries must be >= 0, got {self.retries}; raise it")
        if self.retries and not self.wait:
            raise ValueError(
                "submit.retries must be 0 with submit.wait=false, for nobody sees the job fail, "
                f"got {self.retries}; change one of them"
            )
        if self.image is not None and (self.code or self.pip):
            raise ValueError(
                "submit.image must be alone, for Ray can add nothing to a container, got "
                f"submit.{'code' if self.code else 'pip'} besides; put it into the image"
            )
        if secret := [name for name in self.env or {} if _SECRET.search(name)]:
            raise ValueError(
                "submit.env must hold no secret, because anyone who uses the cluster can read it, "
                f"got {secret[0]}; leave it out (the cluster has its token already; credentials "
                "of a storage belong into the environment of the nodes)"
            )


class Submission(NamedTuple):
    """A command line that was checked.

    Attributes:
        verb: what is submitted.
        options: how.
        shipment: the verb's own arguments, and the files that go along.
        allow_unauthenticated: hand it in even where everyone could.
    """

    verb: str
    options: SubmitOptions
    shipment: Shipment
    allow_unauthenticated: bool

    def check(self) -> None:
        """Raises ValueError if files would have to go into a container."""
        if self.options.image is not None and self.shipment.files:
            file = next(iter(self.shipment.files.values()))
            raise ValueError(
                "submit.image must be alone, for Ray can add no files to a container, got "
                f"{file} besides; put it into the image, or give its settings as key=value"
            )

    def entrypoint(self, *, again: bool = False) -> str:
        """The command of the job; `again`: after a job that failed."""
        program = ("python", "-m", "dmeta") if self.options.code else ("dmeta",)
        arguments = self.shipment.arguments
        if again and self.verb != "evaluate" and "resume=true" not in arguments:
            kept = (word for word in arguments if not word.startswith("resume="))
            arguments = (*kept, "resume=auto")
        return shlex.join((*program, self.verb, *arguments))

    def runtime_env(self, folder: str | None) -> dict[str, Any]:
        """Ray's, with a folder of files if there are any."""
        env = {key: str(value) for key, value in (self.options.env or {}).items()}
        wanted = {
            "env_vars": {**_STOP_WAIT, **env},
            "working_dir": folder,
            "image_uri": self.options.image,
            "pip": _requirements() if self.options.pip == "auto" else list(self.options.pip or ()),
        }
        return {key: value for key, value in wanted.items() if value}


def _requirements() -> list[str]:
    """What this program needs but for what a cluster for it has."""
    try:
        found = metadata.requires("dmeta") or []
    except metadata.PackageNotFoundError:
        raise ValueError(
            "submit.pip=auto must have dmeta installed here, which then tells what it needs, got "
            "a checkout that is not; pip install -e it, or name the packages"
        ) from None
    projects = {each: re.split(r"[^\w.-]", each)[0] for each in found if "extra ==" not in each}
    return [each for each, name in projects.items() if name not in _ON_THE_CLUSTER]
