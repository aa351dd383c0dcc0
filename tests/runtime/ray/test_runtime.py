from __future__ import annotations

import pickle
import sys
import time
from collections import Counter

import pytest

from dmeta.runtime.blocks import blocks_of
from dmeta.runtime.memory import CUDA_BYTES
from tests.runtime import toy, toy_gpu
from tests.runtime.toy_runs import NUM_STEPS, THREADS, num_actors, start, train, train_blocks
from tests.runtime.toy_torch import TorchWorkerFactory


def check_same(runtime, local_run):
    digest, reports, evaluation = local_run
    for ours, theirs in zip(train(runtime), reports, strict=True):
        assert ours.applied == theirs.applied
        assert [b.sums for b in ours.blocks] == [b.sums for b in theirs.blocks]
        assert [b.block for b in ours.blocks] == [b.block for b in theirs.blocks]
        assert ours.num_retries == 0
    assert runtime.digest() == digest
    found = runtime.evaluate(blocks_of("val", 0, 5, 2))
    for ours, theirs in zip(found, evaluation, strict=True):
        assert ours.block == theirs.block
        assert ours.per_task["loss"].tobytes() == theirs.per_task["loss"].tobytes()


def test_two_workers_give_the_bits_of_the_local_runtime(runtime, local_run):
    assert (runtime.info.name, runtime.info.num_workers, runtime.info.device) == ("ray", 2, "cpu")
    assert runtime.info.room == 4  # of half a CPU each
    check_same(runtime, local_run)


@pytest.mark.parametrize(
    "num_workers", [3, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 4))]
)
def test_any_number_of_workers_gives_the_bits_of_the_local_runtime(cluster, local_run, num_workers):
    before = num_actors()
    cpus = 1 / num_workers if before else 0.5  # fits next to the shared runtime's two halves
    with start(num_workers=num_workers, cpus_per_worker=cpus) as runtime:
        assert num_actors() == before + num_workers + 1
        check_same(runtime, local_run)
    assert num_actors() == before


def test_what_was_begun_before_a_state_is_loaded_is_not_used(runtime):
    first = runtime.state()()
    with start(name="local") as expected:
        expected.load(first)
        expected.step(1, train_blocks(1))
        digest = expected.digest()
    runtime.step(0, train_blocks(0), train_blocks(1))
    runtime.load(first)
    runtime.step(1, train_blocks(1))
    assert runtime.digest() == digest


def test_what_was_begun_is_not_computed_again(runtime, monkeypatch):
    crew, asked = runtime._team.crew, []
    want = crew.want

    def counted(blocks, vector):
        asked.extend(blocks)
        return want(blocks, vector)

    monkeypatch.setattr(crew, "want", counted)
    train(runtime)
    assert asked == [block for step in range(NUM_STEPS) for block in train_blocks(step)]


def test_the_driver_never_holds_the_vector_or_a_gradient(runtime, monkeypatch):
    import ray

    sizes = []
    get = ray.get

    def recording_get(refs, **options):
        value = get(refs, **options)
        sizes.append(len(pickle.dumps(value)))
        return value

    monkeypatch.setattr(ray, "get", recording_get)
    runtime.step(0, train_blocks(0))  # its vector has 200 kB
    runtime.evaluate(blocks_of("val", 0, 4, 2))
    # Reports of a step, what the server did, of an evaluation; more if a worker was late.
    assert len(sizes) >= 4 + 1 + 2
    assert max(sizes) < 10_000


def test_the_vector_and_the_factorys_arrays_are_shared_and_cannot_be_written(runtime):
    digest = float(int(runtime.digest()[:8], 16))
    reports = runtime.evaluate(blocks_of("val", 0, 4, 1))
    expected = {"writable": 0.0, "table_writable": 0.0, "digest": digest}
    assert [report.sums for report in reports] == [expected] * 4
    assert 400_000 < runtime.info.start_up["shared_bytes"] < 420_000


def test_a_run_goes_on_from_its_state_as_if_it_had_not_stopped(runtime, local_run):
    runtime.step(0, train_blocks(0))
    state = runtime.state()
    runtime.step(1, train_blocks(1))
    runtime.load(state())
    train(runtime, first=1)
    assert runtime.digest() == local_run[0]


@pytest.mark.slow
def test_workers_use_the_threads_they_are_given(cluster):
    with start(TorchWorkerFactory(), num_workers=1, cpus_per_worker=0.5) as runtime:
        blocks = runtime.step(0, train_blocks(0)).blocks
    assert {block.sums["threads"] for block in blocks} == {THREADS}


def test_a_process_whose_work_does_not_use_torch_is_spared_it(runtime):
    import ray

    [worker, *_] = runtime._team.crew.actors()
    assert not ray.get(worker.__ray_call__.remote(lambda _: "torch" in sys.modules))


@pytest.mark.slow
def test_an_exception_of_the_factory_surfaces_as_itself_and_leaves_nothing(cluster):
    before = num_actors()
    with pytest.raises(LookupError, match="no such data set"):
        start(toy.BrokenWorkerFactory(), num_workers=1)
    assert num_actors() == before


def test_too_many_workers_are_refused_before_anything_starts(cluster):
    before = num_actors()
    with pytest.raises(ValueError, match=r"must fit the cluster's 2 CPUs, got 5 x 1; lower"):
        start(num_workers=5, cpus_per_worker=1)
    assert num_actors() == before


class Holder:
    """Holds CPUs."""

    def ready(self):
        return True


def free_cpus(cluster):
    """Those that nobody has, once what ended before has given back its own."""
    samples = []
    for _ in range(12):
        samples.append(cluster.available_resources().get("CPU", 0.0))
        time.sleep(0.25)
    return max(samples)


@pytest.mark.slow
def test_a_run_begins_with_the_least_number_of_workers_and_lets_others_join(cluster, local_run):
    each = free_cpus(cluster) / 2
    holder = cluster.remote(Holder).options(num_cpus=each).remote()
    assert cluster.get(holder.ready.remote())
    with start(num_workers=2, min_workers=1, cpus_per_worker=each) as runtime:
        train(runtime)
        assert runtime.digest() == local_run[0]
        assert runtime._team.crew._schedule.num_up == 1
        cluster.kill(holder)
        deadline = time.monotonic() + 120
        while runtime._team.crew._schedule.num_up < 2:
            assert time.monotonic() < deadline
            runtime.evaluate(blocks_of("val", 0, 5, 2))
        assert runtime.evaluate(blocks_of("val", 0, 5, 2))[0].block.phase == "val"


@pytest.mark.slow
def test_a_closed_runtime_leaves_the_cluster(cluster):
    before = num_actors()
    runtime = start(num_workers=1)
    runtime.close()
    runtime.close()
    assert num_actors() == before
    assert cluster.is_initialized()
    with pytest.raises(RuntimeError, match="must be open"):
        runtime.digest()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("share", "num_workers", "seen"), [(1, "auto", {0: 1, 1: 1}), (0.5, 4, {0: 2, 1: 2})]
)
def test_each_worker_sees_its_own_gpu_or_its_share_of_one(cluster, share, num_workers, seen):
    options = {"gpus_per_worker": share, "num_workers": num_workers, "cpus_per_worker": 0.1}
    with start(device="auto", **options) as runtime:
        assert runtime.info.device == "cuda"
        assert runtime.info.num_workers == sum(seen.values())
        calls = [
            actor.gradient.options(num_returns=2).remote(block, *runtime._team._vector)[1]
            for actor, block in zip(runtime._team.crew.actors(), train_blocks(0), strict=False)
        ]
        assert Counter(report.sums["gpu"] for report in cluster.get(calls)) == seen


@pytest.mark.slow
@pytest.mark.parametrize(("share", "expected"), [(1, 1.0), (0.25, 0.25)])
def test_a_worker_takes_no_more_memory_of_a_gpu_than_its_share(cluster, share, expected):
    options = {"gpus_per_worker": share, "num_workers": 2, "cpus_per_worker": 0.1}
    with start(toy_gpu.GpuWorkerFactory(), device="cuda", **options) as runtime:
        report = runtime.step(0, train_blocks(0))
        [kind] = runtime.info.hardware
    assert (kind.workers, kind.description["device"]) == ((0, 1), "A GPU")
    cuda_itself = CUDA_BYTES / toy_gpu.TOTAL if share < 1 else 0
    assert {b.sums["fraction"] for b in report.blocks} == {expected - cuda_itself}


def test_a_worker_without_a_gpu_sees_none(runtime):
    report = runtime.step(0, train_blocks(0))
    assert {block.sums["gpu"] for block in report.blocks} == {-1}
