"""Programs run as jobs of a Ray cluster: submitted, followed to their end, stopped.

Knows Ray's job server, and nothing of what is computed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import aiohttp
from ray.dashboard.modules.job.pydantic_models import JobDetails
from ray.job_submission import JobStatus, JobSubmissionClient

from dmeta.runtime.cluster import dashboard

_LOST_AFTER_S = 60.0
_AGAIN_AFTER_S = 2.0
_AGENT_S = 60.0
_NO_AGENT = "No available agent to submit job"
_TALKATIVE = (
    "ray.dashboard.modules.job.sdk",
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.packaging",
)


class Ending(NamedTuple):
    """How a job ended.

    Attributes:
        what: succeeded, failed by itself, or was asked to stop.
        exit_code: of its program, as a shell tells it.
        reason: what Ray says of a program that did not even run, or was lost; else empty.
    """

    what: Literal["succeeded", "failed", "stopped"]
    exit_code: int
    reason: str = ""


class Jobs:
    """The jobs of a cluster."""

    def __init__(self, address: str | None, *, allow_unauthenticated: bool) -> None:
        """Find the cluster's dashboard and see whether it may be used.

        Args:
            address: of it (`dashboard.locate`).
            allow_unauthenticated: use one on a network even if it requires no token.

        Raises:
            ValueError: it cannot or must not be used (`dashboard.admit`).
        """
        for name in _TALKATIVE:
            logging.getLogger(name).setLevel(logging.WARNING)
        self.url = dashboard.locate(address, allow_unauthenticated=allow_unauthenticated)
        dashboard.admit_dashboard(self.url, allow_unauthenticated=allow_unauthenticated)
        self._client = _client(self.url)

    def submit(self, entrypoint: str, runtime_env: Mapping[str, Any]) -> str:
        """Upload what the job brings, and have it run.

        Args:
            entrypoint: a shell's command.
            runtime_env: Ray's; a ``working_dir`` that is a folder here is uploaded.

        A cluster that has just been started has no agent yet, which starts jobs: it is waited for.

        Returns: the job's id.

        Raises:
            ConnectionError: there is none after a while.
        """
        until = time.monotonic() + _AGENT_S
        while True:
            try:
                job: str = self._client.submit_job(
                    entrypoint=entrypoint, runtime_env=dict(runtime_env)
                )
                return job
            except RuntimeError as error:
                if _NO_AGENT not in str(error):
                    raise
                if time.monotonic() > until:
                    raise ConnectionError(
                        f"the cluster at {self.url} must have an agent that starts jobs, "
                        f"got none in {_AGENT_S:.0f} s; see whether its nodes are up (`ray "
                        "status`), then submit again"
                    ) from error
            time.sleep(_AGAIN_AFTER_S)

    def follow(self, job: str, write: Callable[[str], None]) -> Ending:
        """Hand on what the job prints, from its beginning, until it ends.

        A lost connection is opened again.

        Raises:
            ValueError: there is no such job.
            ConnectionError: the dashboard is lost.
        """
        shown = _Shown(write)
        self._details(job)
        lost_at: float | None = None
        while True:
            try:
                self._details(job)
                lost_at = None
                asyncio.run(self._tail(job, shown))
                details = self._details(job)
                if details.status.is_terminal():
                    return ending_of(details)
            except (OSError, RuntimeError, aiohttp.ClientError) as error:
                lost_at = time.monotonic() if lost_at is None else lost_at
                if time.monotonic() - lost_at > _LOST_AFTER_S:
                    raise ConnectionError(
                        f"the dashboard at {self.url} must answer, got nothing for "
                        f"{_LOST_AFTER_S:.0f} s ({error}); see whether the cluster is there. The "
                        f"job {job} may still run"
                    ) from error
            time.sleep(_AGAIN_AFTER_S)

    def stop(self, job: str) -> bool:
        """Tell a job to end; returns whether it was running.

        Raises:
            ValueError: there is no such job.
        """
        self._details(job)
        return bool(self._client.stop_job(job))

    async def _tail(self, job: str, shown: _Shown) -> None:
        shown.begin()
        async for text in self._client.tail_job_logs(job):
            shown.take(text)

    def _details(self, job: str) -> JobDetails:
        try:
            return self._client.get_job_info(job)
        except RuntimeError as error:
            if "404" not in str(error):
                raise
            raise ValueError(
                f"the job must be one of the cluster at {self.url}, got {job!r}, which it does not "
                "know; correct it, or submit.address (`ray job list` has all)"
            ) from None


class _Shown:
    """A log that is read again from its beginning, each part of it handed on once."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._given = self._read = 0

    def begin(self) -> None:
        self._read = 0

    def take(self, text: str) -> None:
        new = text[max(0, self._given - self._read) :]
        self._read += len(text)
        self._given = max(self._given, self._read)
        if new:
            self._write(new)


def ending_of(details: JobDetails) -> Ending:
    """How a job ended that Ray says has."""
    if details.status == JobStatus.SUCCEEDED:
        return Ending("succeeded", 0)
    if details.status == JobStatus.STOPPED:
        return Ending("stopped", 128 + signal.SIGTERM)
    code = details.driver_exit_code
    if code is None:
        return Ending("failed", 1, details.message or "")
    return Ending("failed", code if code > 0 else 128 - code)


def _client(url: str) -> JobSubmissionClient:
    """Ray's client, which takes its variables' word before ours: they say the same for a moment."""
    name = dashboard.VARIABLES[0]
    before = os.environ.get(name)
    os.environ[name] = url
    try:
        return JobSubmissionClient(url)
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
