"""A run begins with the workers that come, whatever becomes of the others; Ray stood in for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from ray.exceptions import RayActorError, RayTaskError

from dmeta.runtime.ray import worker_registry as rosters
from dmeta.runtime.ray.actors import WorkerStatus
from dmeta.runtime.ray.worker_registry import Roster

NEVER = float("inf")


class Cluster:
    """Workers that answer, each attempt in turn, after some seconds: with a node, or an error."""

    def __init__(self, monkeypatch, *answers):
        self.answers = {n: list(attempts) for n, attempts in enumerate(answers)}
        self.now, self.due, self.warned = 0.0, {}, []
        monkeypatch.setattr(rosters.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(rosters.ray, "wait", self._wait)
        monkeypatch.setattr(rosters.ray, "get", self._get)
        names = lambda workers: ", ".join(f"worker {n} on node-{n}" for n in workers)  # noqa: E731
        monkeypatch.setattr(rosters, "whereabouts", names)
        self.roster = Roster(self._start, None, 2, self.warned.append)
        self.roster.grow(len(answers))

    def _start(self, number):
        def build(_):
            seconds, answer = self.answers[number].pop(0)
            ref = f"{number}/{len(self.due)}"
            self.due[ref] = (self.now + seconds, answer)
            return ref

        return SimpleNamespace(build=SimpleNamespace(remote=build))

    def _wait(self, refs, *, num_returns, timeout):
        first = min(refs, key=lambda ref: self.due[ref][0])
        if self.due[first][0] > self.now + timeout:
            self.now += timeout
            return [], refs
        self.now = max(self.now, self.due[first][0])
        return [first], [ref for ref in refs if ref != first]

    def _get(self, ref):
        answer = self.due[ref][1]
        if isinstance(answer, Exception):
            raise answer
        return WorkerStatus("cpu", 0, answer, {})

    def begin(self, min_workers=None):
        """Numbers of the workers that the run begins with."""
        heard = self.roster.wait_until_built(min_workers)
        return [news.worker for news, status in heard if status is not None]


def of_the_work(error):
    return RayTaskError("build", "traceback", error)


def test_all_are_waited_for_where_all_come(monkeypatch):
    cluster = Cluster(monkeypatch, [(5, "a")], [(30, "b")], [(7, "c")])
    assert sorted(cluster.begin()) == [0, 1, 2]
    assert cluster.now == 30
    assert cluster.warned == []


def test_one_that_hangs_of_many_costs_a_minute_and_is_named(monkeypatch):
    cluster = Cluster(monkeypatch, *([[(10, "node")]] * 127), [(NEVER, "node")])
    assert len(cluster.begin()) == 127
    assert cluster.now <= 3 * 10 + 60
    assert cluster.warned == [
        "the run begins with 127 workers (missing: worker 127 on node-127); these join later"
    ]
    assert len(cluster.roster.building) == 1  # it may still come


def test_as_many_as_were_asked_for_are_enough(monkeypatch):
    cluster = Cluster(monkeypatch, [(5, "a")], [(NEVER, "b")], [(500, "c")], [(6, "d")])
    assert cluster.begin(min_workers=2) == [0, 3]
    assert cluster.now == 6


def test_fewer_than_were_asked_for_end_the_run_with_the_names_of_the_missing(monkeypatch):
    cluster = Cluster(monkeypatch, [(5, "a")], [(NEVER, "b")])
    with pytest.raises(RuntimeError, match=r"2 workers must .*600 s, got 1 .*worker 1 on node-1"):
        cluster.begin(min_workers=2)
    assert cluster.now == 600


@pytest.mark.parametrize(
    "error",
    [of_the_work(LookupError("no data on this node")), RayActorError()],
    ids=["work", "ray"],
)
def test_a_node_where_no_worker_can_be_built_does_not_end_the_run(monkeypatch, error):
    cluster = Cluster(monkeypatch, [(9, "a")], [(1, error), (2, error), (3, error)], [(8, "c")])
    assert sorted(cluster.begin()) == [0, 2]
    assert cluster.roster.num_workers == 3  # one was given up
    assert cluster.roster.building == []


def test_a_node_that_was_lost_at_the_start_is_replaced(monkeypatch):
    cluster = Cluster(monkeypatch, [(5, "a")], [(1, RayActorError()), (2, "b")])
    assert sorted(cluster.begin()) == [0, 1]


def test_what_is_raised_everywhere_is_raised_here_at_once(monkeypatch):
    error = of_the_work(LookupError("no such data set"))
    cluster = Cluster(monkeypatch, [(1, RayActorError())], [(2, error)], [(2, error)])
    with pytest.raises(LookupError, match="no such data set"):
        cluster.begin()
    assert cluster.now == 2
    cluster = Cluster(monkeypatch, [(1, RayActorError())])
    with pytest.raises(RuntimeError, match="workers must start, got"):
        cluster.begin()


@pytest.mark.slow
def test_workers_are_found_on_their_nodes(cluster):
    import socket

    actor = cluster.remote(num_cpus=0)(_Idle).remote()
    cluster.get(actor.answer.remote())
    nowhere = cluster.remote(num_cpus=50)(_Idle).remote()
    try:
        found = rosters.whereabouts({3: actor, 4: nowhere}).split("; ")
    finally:
        cluster.kill(actor)
        cluster.kill(nowhere)
    assert found[0] == f"worker 3 on node {socket.gethostname()}, alive"
    assert found[1].startswith("worker 4 ")
    assert "alive" not in found[1]


class _Idle:
    def answer(self):
        return 1
