"""A server that is divided among actors: the bits of one, whatever part of it is lost."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from dmeta.runtime.messages import ServerState
from dmeta.runtime.ray.coordinator import Team
from tests.runtime import toy
from tests.runtime.ray.test_failures import HUNG_AFTER_S
from tests.runtime.toy_runs import (
    kill,
    lost_object,
    many_blocks,
    num_actors,
    start,
    train,
    train_blocks,
)


@pytest.fixture(scope="module")
def divided(cluster, tmp_path_factory):
    """A runtime with a server of two parts, its first state, and the folder for its faults."""
    folder = tmp_path_factory.mktemp("divided")
    factory = toy.ToyServerFactory(folder=str(folder))
    options = {"reduce": "sharded", "cpus_per_worker": 0.1, "hung_after_s": HUNG_AFTER_S}
    with start(server_factory=factory, snapshot_every=2, **options) as runtime:
        for _ in range(3):
            runtime._team.host._pace.note(0.0)  # known from the first step on
        yield runtime, runtime.state()(), folder


@pytest.fixture
def runtime(divided):
    runtime, first, folder = divided
    runtime.load(first)
    yield runtime
    toy.disarm(folder)


@pytest.mark.slow
def test_the_same_bits_and_states(runtime, divided, local_run):
    reports = train(runtime)
    assert len(runtime._team.host._actors) == 2
    assert runtime.digest() == local_run[0]
    assert [report.applied for report in reports] == [report.applied for report in local_run[1]]
    saved = runtime.state()()
    with start(name="local") as whole:
        whole.load(saved)
        assert whole.digest() == local_run[0]
        assert np.array_equal(whole.state()().arrays["theta"], saved.arrays["theta"])


def test_the_state_of_another_model_is_refused(runtime):
    before = runtime.digest()
    with pytest.raises(ValueError, match="a state must have 50000 numbers, got 7"):
        runtime.load(ServerState(0, {"theta": np.zeros(7, np.float32)}))
    assert runtime.digest() == before


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "step"), [("kill_before", 2), ("kill_after", 1), ("stop", 1)])
def test_all_of_it_is_replayed_if_a_part_is_lost(runtime, divided, local_run, fault, step):
    toy.arm(divided[2], f"server-{step}", fault)
    train(runtime)
    assert not list(divided[2].iterdir())
    assert runtime.digest() == local_run[0]


@pytest.mark.slow
def test_a_part_lost_between_steps_is_found_when_it_is_asked(runtime, local_run):
    train(runtime)
    _, last = runtime._team.host._actors
    kill(last, last.state.remote)
    assert runtime.digest() == local_run[0]


@pytest.mark.slow
def test_who_keeps_the_states_is_killed_and_then_a_part(runtime, divided, local_run):
    runtime.step(0, train_blocks(0))
    runtime.step(1, train_blocks(1))
    [keeper] = runtime._team.host._starter.others()
    os.kill(ray_pid(keeper), signal.SIGKILL)
    toy.arm(divided[2], "server-2", "kill_before")
    runtime.step(2, train_blocks(2))
    assert not list(divided[2].iterdir())
    assert runtime.digest() == local_run[0]


def ray_pid(actor):
    from ray._private.state import actors

    return actors(actor._actor_id.hex())["Pid"]


@pytest.mark.slow
def test_a_piece_of_a_gradient_that_is_lost_is_computed_again(
    runtime, local_run, cluster, monkeypatch
):
    lost = lost_object(cluster)
    steps, gathered = [], Team._gathered

    def losing(self, computed):
        found = gathered(self, computed)
        steps.append(len(found))
        if len(steps) == 2:
            found[1] = (found[1][0], lost)
        return found

    monkeypatch.setattr(Team, "_gathered", losing)
    reports = train(runtime)
    assert [report.num_retries for report in reports] == [0, len(train_blocks(1)), 0]
    assert runtime.digest() == local_run[0]


@pytest.mark.slow
def test_pieces_are_added_on_their_nodes_too(cluster, monkeypatch):
    with start(name="local") as whole:
        train(whole, blocks=many_blocks)
        expected = whole.digest()
    monkeypatch.setattr("dmeta.runtime.ray.coordinator.way_of", lambda *_: "tree")
    before = num_actors()
    with start(reduce="sharded", cpus_per_worker=0.1) as runtime:
        train(runtime, blocks=many_blocks)
        assert runtime._team.tree is not None
        assert runtime._team.tree.actors()
        assert runtime.digest() == expected
    assert num_actors() == before
