"""Gradients that are added on their way to the server: the same bits, whatever is lost."""

from __future__ import annotations

import numpy as np
import pytest

from dmeta.runtime.ray.gather import Tree, parts_of, way_of
from dmeta.runtime.reduction import FAN_IN
from tests.runtime.toy_runs import NUM_STEPS, kill, lost_object, many_blocks, start, train


@pytest.fixture(scope="module")
def added_here():
    """Digest of a run of many blocks in one process."""
    with start(name="local") as runtime:
        train(runtime, blocks=many_blocks)
        return runtime.digest()


@pytest.fixture(scope="module")
def tree(cluster):
    """A runtime that adds on nodes, and its first state."""
    with start(cpus_per_worker=0.25, reduce="tree") as runtime:
        yield runtime, runtime.state()()


@pytest.mark.slow
def test_the_same_bits(tree, added_here, monkeypatch):
    runtime, first = tree
    runtime.load(first)
    sizes = []
    begin = runtime._team.host.begin_apply
    monkeypatch.setattr(
        runtime._team.host,
        "begin_apply",
        lambda step, blocks, gradients: (
            sizes.append(len(gradients)) or begin(step, blocks, gradients)
        ),
    )
    train(runtime, blocks=many_blocks)
    assert runtime.digest() == added_here
    assert sizes == [3] * NUM_STEPS  # of 20 blocks
    assert all(size <= FAN_IN for size in sizes)


def test_few_are_not_added_before(tree, local_run):
    runtime, first = tree
    runtime.load(first)
    train(runtime)
    assert runtime.digest() == local_run[0]


@pytest.mark.slow
def test_one_who_adds_is_killed(tree, added_here, caplog):
    runtime, first = tree
    runtime.load(first)
    runtime.step(0, many_blocks(0), many_blocks(1))
    [adder] = runtime._team.tree.actors()
    kill(adder, lambda: adder.add.remote(1, np.ones(2, np.float32)))
    runtime.step(1, many_blocks(1))
    assert runtime._team.tree.actors() == []
    assert "the server adds them" in caplog.text
    runtime.step(2, many_blocks(2))
    assert len(runtime._team.tree.actors()) == 1
    assert runtime.digest() == added_here


def test_one_who_adds_does_not_answer(tree, added_here, monkeypatch):
    runtime, first = tree
    runtime.load(first)
    monkeypatch.setattr("dmeta.runtime.ray.gather._PATIENCE_S", 0.0)
    train(runtime, blocks=many_blocks)
    assert runtime.digest() == added_here


@pytest.mark.slow
def test_a_gradient_that_is_lost_is_computed_again(tree, added_here, cluster, monkeypatch):
    runtime, first = tree
    runtime.load(first)
    lost = lost_object(cluster)
    rounds, gather = [], Tree.gather

    def losing(self, computed):
        rounds.append(len(computed))
        if len(rounds) == 1:
            computed[9] = computed[9]._replace(gradient=(lost,))
        return gather(self, computed)

    monkeypatch.setattr(Tree, "gather", losing)
    reports = train(runtime, blocks=many_blocks)
    assert [report.num_retries for report in reports] == [20, 0, 0]
    assert runtime.digest() == added_here


@pytest.mark.parametrize(
    ("num_blocks", "vector_bytes", "num_nodes", "way"),
    [
        (4, 450_000, 4, "flat"),  # a small network
        (64, 450_000, 8, "flat"),
        (1000, 450_000, 125, "tree"),
        (64, 4_000_000, 8, "tree"),
        (64, 4_000_000, 1, "flat"),  # nothing would leave the node anyway
    ],
)
def test_auto_takes_the_server_alone_as_long_as_it_keeps_up(
    num_blocks, vector_bytes, num_nodes, way
):
    assert way_of(num_blocks, vector_bytes, num_nodes) == way


def test_a_server_is_divided_among_the_nodes_into_two_to_eight():
    assert [parts_of(num_nodes) for num_nodes in (1, 2, 5, 125)] == [2, 2, 5, 8]
