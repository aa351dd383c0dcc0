from __future__ import annotations

import pytest

from dmeta.runtime.options import ComputeOptions, RuntimeOptions
from dmeta.runtime.ray.placement import Node, Placement, place


def options(**changes):
    return RuntimeOptions(**({"name": "ray"} | changes))


def test_too_many_workers_are_refused_in_three_parts():
    with pytest.raises(ValueError, match="must fit") as caught:
        place(options(num_workers=5), [Node(2, 0)], "cpu", 8)
    assert str(caught.value) == (
        "runtime.num_workers * runtime.cpus_per_worker must fit the cluster's 2 CPUs, got 5 x 1; "
        "lower runtime.num_workers or runtime.cpus_per_worker"
    )


def test_too_few_gpus_are_named_as_such():
    with pytest.raises(ValueError, match=r"the cluster's 1 GPUs, got 2 x 1; lower .*gpus_per_work"):
        place(options(num_workers=2), [Node(8, 1)], "cuda", 8)


def test_a_worker_must_fit_one_node():
    with pytest.raises(ValueError, match=r"0 fit, each on one of its 2 nodes"):
        place(options(num_workers=1, cpus_per_worker=3), [Node(2, 0), Node(2, 0)], "cpu", 8)


@pytest.mark.parametrize(
    ("asked", "nodes", "device", "expected"),
    [
        ({}, [Node(2, 0)], "auto", Placement(2, 1, 0)),
        ({}, [Node(64, 0)], "cpu", Placement(4, 1, 0)),  # no more than useful
        ({"cpus_per_worker": 0.1}, [Node(0.3, 0)], "cpu", Placement(3, 0.1, 0)),
        ({}, [Node(8, 2)], "auto", Placement(2, 1, 1)),
        ({}, [Node(8, 2)], "cpu", Placement(4, 1, 0)),
        ({"gpus_per_worker": 0.5}, [Node(8, 1), Node(8, 1)], "cuda", Placement(4, 1, 0.5)),
        ({"gpus_per_worker": 0.4}, [Node(8, 1)], "auto", Placement(2, 1, 0.4)),
        ({"gpus_per_worker": 0}, [Node(8, 2)], "auto", Placement(4, 1, 0)),
    ],
)
def test_auto_takes_what_fits_and_is_useful(asked, nodes, device, expected):
    assert place(options(**asked), nodes, device, 4) == expected


def test_auto_on_a_full_cluster_is_refused():
    with pytest.raises(ValueError, match="got 1 x 1"):
        place(options(), [Node(0, 0)], "cpu", 4)


@pytest.mark.parametrize(
    ("device", "gpus"),
    [("cuda", "auto"), ("cuda", 0), ("cpu", 1)],
)
def test_device_and_gpus_may_not_contradict_each_other(device, gpus):
    with pytest.raises(ValueError, match="gpus_per_worker"):
        place(options(gpus_per_worker=gpus), [Node(8, 0)], device, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "slurm"},
        {"num_workers": 0},
        {"num_workers": "many"},
        {"num_workers": 1.5},
        {"cpus_per_worker": 0},
        {"gpus_per_worker": -1},
        {"gpus_per_worker": 1.5},
        {"gpus_per_worker": 2},
        {"max_attempts": 0},
        {"max_attempts": "auto"},
    ],
)
def test_options_out_of_range_are_refused_by_name(changes):
    [field] = changes
    with pytest.raises(ValueError, match=rf"runtime\.{field} must be"):
        options(**changes)


@pytest.mark.parametrize(
    ("field", "value"),
    [("block_size", 0), ("threads_per_worker", 0), ("chunk_size", 0), ("chunk_size", "some")],
)
def test_options_of_computing_out_of_range_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=rf"compute\.{field} must be (>= 1|a whole number)"):
        ComputeOptions(**{field: value})


def test_more_than_one_gpu_is_refused_for_only_one_would_be_used():
    with pytest.raises(ValueError, match=r"a worker computes on one GPU, got 2; set it to 1, and"):
        options(gpus_per_worker=2)


@pytest.mark.parametrize(
    ("asked", "nodes", "device", "expected"),
    [
        ({}, [Node(2, 0)], "auto", Placement(4, 1, 0)),  # all that are useful
        ({"num_workers": 9}, [], "cpu", Placement(9, 1, 0)),
        ({}, [Node(2, 0)], "cuda", Placement(4, 1, 1)),  # GPUs are still to come
        ({"num_workers": 3}, [Node(8, 1)], "auto", Placement(3, 1, 1)),
    ],
)
def test_an_autoscaler_makes_room_for_what_does_not_fit(asked, nodes, device, expected):
    assert place(options(autoscale=True, **asked), nodes, device, 4) == expected
