"""What Prometheus is told of a run, and that the nodes of a cluster export it."""

from __future__ import annotations

import re
import time
import urllib.request

import pytest

from dmeta.runtime.blocks import blocks_of
from dmeta.runtime.messages import ApplyReport, BlockReport, StepReport
from dmeta.runtime.ray.prometheus import MEASURES, Gauges, exported_name, measures_of
from tests.runtime.toy_runs import NUM_STEPS, num_actors, start, train

QUIET = {"staleness"}
"""Measures that a synchronous run has no number of."""


def report(*, applied=True, staleness=(), **measures):
    blocks = [BlockReport(each, {}, True, 0.25) for each in blocks_of("train", 3, 15, 4)]
    done = ApplyReport(3, applied, 1.0, 0.1, 0.5)
    return StepReport(blocks, done, 2, 1, 0.75, measures, staleness)


def test_a_step_says_what_it_took():
    assert measures_of(report(applied=False, staleness=[0, 2])) == {
        "steps": [1],
        "tasks": [15],
        "step_seconds": [0.75],
        "block_seconds": [0.25] * 4,
        "server_seconds": [0.5],
        "retried_blocks": [2],
        "stale_blocks": [0],
        "dropped_blocks": [0],
        "copied_blocks": [1],
        "rejected_steps": [1],
        "staleness": [0, 2],
    }


def test_a_measure_without_a_meaning_is_an_error():
    with pytest.raises(KeyError, match="stalenesss"):
        Gauges("a", "b", "c", "mse").on_step(1, report(stalenesss=[1]))


def test_nothing_of_a_counter_is_no_reason_to_fail(cluster):
    Gauges("nothing", "b", "c", "mse").on_step(1, report(bytes_to_server=[0]))


def exported(ray):
    """Series -> value of the labels that are ours, as the node exports them."""
    port = ray.nodes()[0]["MetricsExportPort"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    found = {}
    for line in text.splitlines():
        if (match := re.match(r"(ray_dmeta_\w+)\{(.*)\} (\S+)$", line)) and 'run="scraped"' in line:
            assert 'algorithm="toys"' in match[2]
            assert 'task="noise"' in match[2]
            found[match[1]] = float(match[3])
    return found


@pytest.mark.slow
def test_a_node_exports_what_a_run_says(cluster):
    gauges = Gauges("scraped", "toys", "noise", "mse")
    with start(num_workers=1, cpus_per_worker=0.25) as runtime:
        for step, each in enumerate(train(runtime), start=1):
            gauges.on_step(step, each)
    gauges.on_row({"event": "train", "step": 3, "loss": 0.5})
    gauges.on_row({"event": "val", "step": 3, "mse": 0.25, "ci95": 0.125})
    deadline = time.monotonic() + 60
    while exported(cluster).get("ray_dmeta_validation_ci95") != 0.125:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    found = exported(cluster)
    for name, (kind, _) in MEASURES.items():
        count = "_count" if kind in ("seconds", "steps") else ""
        assert (exported_name(name) + count in found) == (name not in QUIET), name
    vector = 4 * 50_000
    assert {name: found[exported_name(name)] for name in ("step", "steps", "tasks")} == {
        "step": NUM_STEPS, "steps": NUM_STEPS, "tasks": NUM_STEPS * 15,
    }  # fmt: skip
    assert found["ray_dmeta_block_seconds_count"] == NUM_STEPS * 4
    assert found["ray_dmeta_bytes_to_server_total"] == NUM_STEPS * 4 * vector
    assert found["ray_dmeta_bytes_from_server_total"] == NUM_STEPS * vector
    assert found["ray_dmeta_workers"] == 1
    assert found["ray_dmeta_retried_blocks"] == found["ray_dmeta_rejected_steps"] == 0
    assert (found["ray_dmeta_train_loss"], found["ray_dmeta_validation"]) == (0.5, 0.25)


def labels():
    """What Ray calls the actors that are alive."""
    from ray._private.state import state
    from ray.core.generated import gcs_pb2

    table = state._connect_and_get_accessor().get_actor_table(None, None)
    actors = [gcs_pb2.ActorTableData.FromString(each) for each in table]
    return sorted(each.repr_name for each in actors if each.state == gcs_pb2.ActorTableData.ALIVE)


@pytest.mark.slow
def test_actors_are_called_by_their_run_and_number_also_when_they_were_replaced(cluster):
    import ray

    before = num_actors()
    with start(num_workers=2, cpus_per_worker=0.25, run_id="a_run") as runtime:
        wanted = ["dmeta:a_run:server", "dmeta:a_run:worker-0", "dmeta:a_run:worker-1"]
        assert [each for each in labels() if "a_run" in each] == wanted
        ray.kill(runtime._team.crew.actors()[1])
        train(runtime)
        deadline = time.monotonic() + 60
        while runtime._team.crew.num_up < 2:
            assert time.monotonic() < deadline
            runtime.evaluate(blocks_of("val", 0, 5, 2))
        assert [each for each in labels() if "a_run" in each] == wanted
    assert num_actors() == before
