"""What a trial reserves: all that it will start, or a refusal that says why."""

from __future__ import annotations

from typing import Any

import pytest

from dmeta.runtime.ray.placement import Node
from dmeta.search.resources import reservation
from tests.conftest import tiny_config

TWO = [Node(cpus=4, gpus=1), Node(cpus=4, gpus=1)]


def reserved(nodes: list[Node] = TWO, cpus_per_driver: float = 0, **changes: Any) -> list[Any]:
    config = tiny_config("run", meta_batch_size=16, **changes)
    return [
        {k: v for k, v in bundle.items() if k != "memory"}
        for bundle in reservation(config, cpus_per_driver, nodes)
    ]


def test_a_trial_without_workers_reserves_its_own_process() -> None:
    assert reserved(device="cpu") == [{"CPU": 1.0}]
    assert reserved() == [{"CPU": 1.0, "GPU": 1.0}]
    assert reserved(runtime__gpus_per_worker=0.5) == [{"CPU": 1.0, "GPU": 0.5}]


@pytest.mark.slow
def test_a_trial_with_workers_reserves_them_and_the_memory_of_its_driver() -> None:
    ray = {"runtime": "ray", "runtime__num_workers": 3, "device": "cpu"}
    assert reserved(**ray) == [{}, {"CPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}]
    assert reserved(cpus_per_driver=0.5, **ray)[0] == {"CPU": 0.5}
    half = reserved(runtime="ray", runtime__num_workers=2, runtime__gpus_per_worker=0.5)
    assert half == [{}, {"CPU": 1.0, "GPU": 0.5}, {"CPU": 1.0, "GPU": 0.5}]
    [driver, *_] = reservation(tiny_config("run", runtime="ray"), 0, TWO)
    assert driver["memory"] > 1e8


def test_auto_takes_as_many_workers_as_have_a_block() -> None:
    ray = {"runtime": "ray", "device": "cpu", "compute__block_size": 8}
    assert len(reserved(**ray)) == 1 + 2
    assert len(reserved(**{**ray, "compute__block_size": 1})) == 1 + 8
    # One place is the driver's.
    assert len(reserved(cpus_per_driver=1, **{**ray, "compute__block_size": 1})) == 1 + 7


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"runtime__num_workers": 9}, "must fit the cluster's 8 CPUs"),
        ({"runtime__num_workers": 2, "runtime__cpus_per_worker": 5}, "0 fit, each on one"),
        ({"runtime__num_workers": 3, "device": "auto"}, "must fit the cluster's 2 GPUs"),
        ({"runtime__num_workers": 8, "cpus_per_driver": 1}, r"search.cpus_per_driver \(1 of"),
        (
            {"runtime__num_workers": 2, "runtime__cpus_per_worker": 3, "cpus_per_driver": 2},
            "got 2 x 3; lower",
        ),
        ({"cpus_per_driver": 5}, "search.cpus_per_driver must fit a node"),
    ],
)
def test_what_the_cluster_can_never_place_is_refused(changes: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        reserved(**{"runtime": "ray", "device": "cpu", **changes})
