"""What is submitted, and how: a job's command, its environment, and the settings of both."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from typing import Any, Literal, NamedTuple

from pydantic import NonNegativeInt

from dmeta.cli.jobs.upload import Shipment
from dmeta.options import check_fields

_STOP_WAIT = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}
"""Seconds that a job may take to stop: Ray's default of 3 may be too short for a checkpoint."""

_SECRET = re.compile("SECRET|TOKEN|PASSWORD", re.IGNORECASE)

_ON_THE_CLUSTER = ("torch", "torchvision", "ray")


@dataclass(frozen=True)
class SubmitOptions:
    """How a verb is submitted.

    Attributes:
        address: the cluster's dashboard, such as ``http://head:8265`` (or its head: ``auto``,
            ``host:port``). None: RAY_API_SERVER_ADDRESS or RAY_ADDRESS, else
            ``http://127.0.0.1:8265``.
        wait: follow the job to its end, and exit with its exit code; false: submit it only.
        retries: how often a job that fails is submitted again, to continue from its last
            checkpoint. A job that was stopped, or whose input was wrong, is not.
        code: ship this dmeta, for a cluster that has none or another version.
        pip: Python packages to install on the cluster, such as ``[optuna]``; ``auto``: what dmeta
            needs except torch, torchvision and Ray.
        image: container image to run in, with dmeta and Ray in it; nothing can then be shipped or
            installed.
        env: environment variables, such as ``{DMETA_DATA: /mnt/data}``. No secrets: anyone who can
            use the cluster can read them.
    """

    address: str | None = None
    wait: bool = True
    retries: NonNegativeInt = 0
    code: bool = False
    pip: tuple[str, ...] | Literal["auto"] | None = None
    image: str | None = None
    env: Mapping[str, str | int | float] | None = None

    def __post_init__(self) -> None:
        """Refuses impossible numbers, and what does not go together."""
        check_fields(self, "submit")
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
