from __future__ import annotations

import pytest
from ray.dashboard.modules.job.pydantic_models import JobDetails, JobType
from ray.job_submission import JobStatus

from dmeta.runtime.cluster import dashboard, jobs
from dmeta.runtime.cluster.jobs import Ending, Jobs, ending_of


def details(status: JobStatus, code: int | None = None, message: str | None = None) -> JobDetails:
    return JobDetails(
        type=JobType.SUBMISSION,
        status=status,
        entrypoint="dmeta",
        driver_exit_code=code,
        message=message,
    )


class FakeClient:
    """A job server; `logs` are what it prints at each connection, an exception one that is cut."""

    def __init__(self, logs: list, statuses: list) -> None:
        self.logs, self.statuses = logs, statuses

    async def tail_job_logs(self, job):
        for part in self.logs.pop(0):
            if isinstance(part, Exception):
                raise part
            yield part

    def get_job_info(self, job):
        found = self.statuses.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


@pytest.fixture
def made(monkeypatch):
    """Makes `Jobs` of a fake client, which waits for nothing."""
    monkeypatch.setattr(dashboard, "locate", lambda *_, **__: "http://head:8265")
    monkeypatch.setattr(dashboard, "admit_dashboard", lambda *_, **__: None)
    monkeypatch.setattr(jobs, "_AGAIN_AFTER_S", 0.0)

    def make(logs: list, statuses: list) -> Jobs:
        monkeypatch.setattr(jobs, "_client", lambda _: FakeClient(logs, statuses))
        return Jobs(None, allow_unauthenticated=False)

    return make


RUNNING = details(JobStatus.RUNNING)
DONE = details(JobStatus.SUCCEEDED, 0)


def test_a_connection_that_is_cut_is_made_anew_and_nothing_is_shown_twice(made):
    logs = [["one\n", "two\n", RuntimeError("cut")], ["one\ntwo\nth"], ["one\n", "two\nthree\n"]]
    shown = []
    ending = made(logs, [RUNNING] * 5 + [DONE]).follow("job", shown.append)
    assert "".join(shown) == "one\ntwo\nthree\n"
    assert ending == Ending("succeeded", 0)


def test_a_dashboard_that_stays_away_is_told(made, monkeypatch):
    monkeypatch.setattr(jobs, "_LOST_AFTER_S", -1.0)
    cluster = made([[RuntimeError("gone")]], [RUNNING, RUNNING])
    with pytest.raises(ConnectionError, match=r"must answer, got nothing.*job job1 may still run"):
        cluster.follow("job1", lambda _: None)


def test_a_connection_that_is_cut_after_hours_is_made_anew(made, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(jobs.time, "monotonic", lambda: now[0])

    class Hours(str):
        """A part of a log for which one waits two hours."""

        def __len__(self) -> int:
            now[0] += 7200
            return super().__len__()

    logs = [[Hours("one\n"), RuntimeError("cut")], ["one\n"]]
    lost = [RuntimeError("refused"), RUNNING]
    ending = made(logs, [RUNNING, RUNNING, *lost, DONE]).follow("job", lambda _: None)
    assert ending.exit_code == 0


def test_a_job_that_is_not_there_is_refused(made):
    gone = RuntimeError("Request failed with status code 404: Job x does not exist.")
    for action in ("follow", "stop"):
        arguments = [lambda _: None] if action == "follow" else []
        with pytest.raises(ValueError, match=r"must be one of the cluster at .*got 'x'"):
            getattr(made([], [gone]), action)("x", *arguments)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (details(JobStatus.SUCCEEDED, 0), Ending("succeeded", 0)),
        (details(JobStatus.STOPPED), Ending("stopped", 143)),
        (details(JobStatus.FAILED, 2, "the log again"), Ending("failed", 2)),
        (details(JobStatus.FAILED, -9), Ending("failed", 137)),
        (
            details(JobStatus.FAILED, None, "no such package"),
            Ending("failed", 1, "no such package"),
        ),
        (details(JobStatus.FAILED), Ending("failed", 1)),
    ],
)
def test_an_ending_has_the_exit_code_of_the_program(found, wanted):
    assert ending_of(found) == wanted


def test_rays_own_variables_do_not_lead_elsewhere(monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://other:8265")
    asked = []

    def client(url: str) -> None:
        asked.append((url, jobs.os.environ["RAY_API_SERVER_ADDRESS"]))

    monkeypatch.setattr(jobs, "JobSubmissionClient", client)
    jobs._client("http://own:8265")
    assert asked == [("http://own:8265", "http://own:8265")]
    assert jobs.os.environ["RAY_API_SERVER_ADDRESS"] == "http://other:8265"


class Starting:
    """A job server whose agent comes after so many attempts."""

    def __init__(self, attempts: int, text: str = "status 500: No available agent to submit job"):
        self.left, self.text = attempts, text

    def submit_job(self, **_) -> str:
        self.left -= 1
        if self.left >= 0:
            raise RuntimeError(f"Request failed with {self.text}, please try again later.")
        return "job1"


def test_a_cluster_that_has_just_started_is_waited_for(made, monkeypatch):
    cluster = made([], [])
    cluster._client = Starting(3)
    assert cluster.submit("dmeta train", {}) == "job1"
    cluster._client = Starting(3, "status 500: the disk is full")
    with pytest.raises(RuntimeError, match="the disk is full"):
        cluster.submit("dmeta train", {})
    monkeypatch.setattr(jobs, "_AGENT_S", -1.0)
    cluster._client = Starting(3)
    with pytest.raises(ConnectionError, match="must have an agent that starts jobs, got none in"):
        cluster.submit("dmeta train", {})
