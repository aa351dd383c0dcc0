"""Workers that join in the middle of a run: the same bits."""

from __future__ import annotations

import logging
import threading
import time
from types import SimpleNamespace

import pytest

from dmeta.runtime.ray.free_capacity import Room
from tests.runtime.toy_runs import start, train, train_blocks


@pytest.mark.slow
def test_nodes_that_join_are_used_and_change_no_bit(cluster, local_run, caplog):
    with start(num_workers="auto", cpus_per_worker=0.9, min_workers=1) as runtime:
        crew, before = runtime._team.crew, runtime.info.num_workers
        assert crew.num_workers == before == runtime._team.room.num_workers
        runtime.step(0, train_blocks(0), train_blocks(1))
        assert crew.num_workers == before
        runtime._team.room = SimpleNamespace(num_workers=before + 1)
        with caplog.at_level(logging.WARNING):
            runtime.step(1, train_blocks(1), train_blocks(2))
        assert f"room for {before + 1} workers now" in caplog.text
        assert crew.num_workers == before + 1
        runtime.step(2, train_blocks(2))
        assert runtime.digest() == local_run[0]


@pytest.mark.slow
def test_a_worker_that_joined_computes(cluster, local_run):
    with start(num_workers=1, cpus_per_worker=0.25) as runtime:
        crew = runtime._team.crew
        crew.grow(2)
        deadline = time.monotonic() + 120
        while crew.num_up < 2:
            assert time.monotonic() < deadline
            train(runtime, steps=1)
        first, computed = set(crew._schedule._workers), set()
        submitted = crew._patience.sent
        crew._patience.sent = lambda worker, *rest: (computed.add(worker), submitted(worker, *rest))
        runtime.load(runtime.state()())
        train(runtime, first=1)
        assert computed == first == {0, 1}
        assert runtime.digest() == local_run[0]


@pytest.mark.slow
def test_workers_that_do_not_fit_are_waited_for_by_an_autoscaler(cluster, local_run):
    asked = {"autoscale": True, "num_workers": 9, "min_workers": 1, "cpus_per_worker": 0.4}
    with start(**asked) as runtime:
        assert runtime._team.crew.num_workers == 9
        train(runtime)
        assert runtime._team.crew.num_up < 9
        assert runtime.digest() == local_run[0]


def test_an_autoscaler_is_not_waited_for_where_there_is_none(monkeypatch):
    monkeypatch.setattr("dmeta.runtime.cluster.connect.joins_existing", lambda _: False)
    with pytest.raises(ValueError, match="must have a cluster with an autoscaler"):
        start(autoscale=True)


def test_room_is_looked_for_beside_the_run_until_the_cluster_is_gone(monkeypatch):
    monkeypatch.setattr("dmeta.runtime.ray.free_capacity._EVERY_S", 0.001)
    answers, asked = iter([2, 3]), threading.Event()

    def look():
        try:
            return next(answers)
        except StopIteration:
            asked.set()
            raise ConnectionError from None

    room = Room(look, 1)
    assert asked.wait(30)
    assert room.num_workers == 3
    room.close()
