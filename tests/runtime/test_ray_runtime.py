from __future__ import annotations

import pickle
import time

import numpy as np
import pytest

from dmeta.runtime import RuntimeOptions, make_runtime
from dmeta.runtime.blocks import blocks_of
from tests.runtime import toy

NUM_STEPS = 3
KILL, KILL_ALWAYS, RAISE, NOT_FINITE = 1, 101, 102, 103  # steps of the shared runtime
THREADS = 2


def start(worker_factory=None, **changes):
    asked = {"name": "ray", "num_workers": 2, "cpus_per_worker": 0.5, "threads_per_worker": THREADS}
    return make_runtime(
        RuntimeOptions(**asked | changes),
        worker_factory or toy.ToyWorkerFactory(),
        toy.ToyServerFactory(),
        "cpu",
        max_useful_workers=4,
    )


def train_blocks(step):
    return blocks_of("train", step, 15, 4)


def train(runtime, first=0):
    return [
        runtime.step(
            step, train_blocks(step), train_blocks(step + 1) if step + 1 < NUM_STEPS else ()
        )
        for step in range(first, NUM_STEPS)
    ]


def num_actors():
    from ray._private.state import actors

    return sum(entry["State"] != "DEAD" for entry in actors().values())


def kill(actor, get_lost):
    """Kill an actor and wait until Ray knows: until `get_lost` raises a RayError."""
    import ray
    from ray.exceptions import RayError

    ray.kill(actor)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            ray.get(get_lost())
        except RayError:
            return
        time.sleep(0.05)
    raise AssertionError("what the actor owned is still there")


@pytest.fixture(scope="module")
def local_run():
    """Digest, reports and evaluation of the reference: the local runtime."""
    with start(name="local") as runtime:
        reports = train(runtime)
        return runtime.digest(), reports, runtime.evaluate(blocks_of("val", 0, 5, 2))


@pytest.fixture(scope="module")
def shared(cluster, tmp_path_factory):
    """Two workers that misbehave at certain steps, the server's first state, and a marker file."""
    folder = tmp_path_factory.mktemp("shared")
    marker = folder / "killed"
    marker.touch()  # only the test that removes it kills
    faults = {KILL: "kill", KILL_ALWAYS: "kill_always", RAISE: "raise", NOT_FINITE: "not_finite"}
    factory = toy.ToyWorkerFactory(np.arange(100_000, dtype=np.float32), faults, str(marker))
    with start(factory, max_attempts=2) as runtime:
        yield runtime, runtime.save(str(folder), {}), marker


@pytest.fixture
def runtime(shared):
    """The shared runtime in its first state."""
    runtime, checkpoint, _ = shared
    runtime.restore(checkpoint)
    return runtime


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
    check_same(runtime, local_run)


@pytest.mark.parametrize("num_workers", [1, 3, 4])
def test_any_number_of_workers_gives_the_bits_of_the_local_runtime(cluster, local_run, num_workers):
    before = num_actors()
    cpus = 1 / num_workers if before else 0.5  # fits next to the shared runtime's two halves
    with start(num_workers=num_workers, cpus_per_worker=cpus) as runtime:
        assert num_actors() == before + num_workers + 1
        check_same(runtime, local_run)
    assert num_actors() == before


def test_what_was_begun_before_a_restore_is_not_used(runtime, tmp_path):
    first = runtime.save(str(tmp_path), {})
    with start(name="local") as expected:
        expected.restore(first)
        expected.step(1, train_blocks(1))
        digest = expected.digest()
    runtime.step(0, train_blocks(0), train_blocks(1))
    runtime.restore(first)
    runtime.step(1, train_blocks(1))
    assert runtime.digest() == digest


def test_what_was_begun_is_not_computed_again(runtime, monkeypatch):
    submitted = []
    submit = type(runtime)._submit_gradient

    def counted(self, worker, block):
        submitted.append(block)
        return submit(self, worker, block)

    monkeypatch.setattr(type(runtime), "_submit_gradient", counted)
    train(runtime)
    assert sorted(submitted, key=lambda b: (b.step, b.index)) == [
        block for step in range(NUM_STEPS) for block in train_blocks(step)
    ]


def test_a_worker_killed_in_the_middle_of_a_step_changes_no_bit(runtime, local_run, shared):
    marker = shared[2]
    marker.unlink()
    reports = train(runtime)
    assert marker.exists()
    assert reports[KILL].num_retries > 0
    assert reports[0].num_retries == reports[2].num_retries == 0
    assert [len(report.blocks) for report in reports] == [4, 4, 4]
    assert runtime.digest() == local_run[0]


def test_a_block_that_kills_every_worker_fails_the_step_and_is_named(runtime):
    with pytest.raises(RuntimeError, match=r"block 2 was lost 2 times .runtime.max_attempts=2"):
        runtime.step(KILL_ALWAYS, train_blocks(KILL_ALWAYS))
    assert runtime.step(KILL_ALWAYS + 9, train_blocks(0)).applied.applied  # restarted, and usable


class Owner:
    """Owns an object, which is lost with it."""

    def put(self):
        import ray

        return [ray.put(np.zeros(50_000, np.float32))]


def test_a_gradient_lost_after_its_report_is_computed_again(
    runtime, local_run, cluster, monkeypatch
):
    owner = cluster.remote(Owner).options(num_cpus=0).remote()
    [lost] = cluster.get(owner.put.remote())
    kill(owner, lambda: lost)
    rounds = []
    compute = runtime._round

    def losing_round(blocks, submit):
        computed, num_retries = compute(blocks, submit)
        rounds.append(len(blocks))
        if len(rounds) == 1:
            computed[0] = computed[0]._replace(gradient=lost)
        return computed, num_retries

    monkeypatch.setattr(runtime, "_round", losing_round)
    reports = train(runtime)
    assert rounds == [4] * (NUM_STEPS + 1)
    assert [report.num_retries for report in reports] == [4, 0, 0]
    assert runtime.digest() == local_run[0]


def test_an_exception_of_the_work_surfaces_as_itself_with_its_block(runtime):
    with pytest.raises(ZeroDivisionError) as caught:
        runtime.step(RAISE, train_blocks(RAISE))
    assert type(caught.value) is ZeroDivisionError
    assert str(caught.value) == "a task with no classes"
    assert f"step={RAISE}, index=2" in caught.value.__notes__[0]
    assert runtime.step(RAISE + 9, train_blocks(0)).applied.applied  # the workers live on


def test_a_step_that_is_not_finite_is_rejected_and_an_applied_one_is_not_applied_again(runtime):
    assert runtime.step(0, train_blocks(0)).applied.applied
    before = runtime.digest()
    rejected = runtime.step(NOT_FINITE, train_blocks(NOT_FINITE))
    assert not rejected.applied.applied
    assert [block.finite for block in rejected.blocks] == [True, True, False, True]
    runtime.step(0, train_blocks(0))
    assert runtime.digest() == before
    assert runtime.step(NOT_FINITE + 1, train_blocks(2)).applied.applied
    assert runtime.digest() != before


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
    assert len(sizes) == 4 + 1 + 2  # reports of a step, what the server did, of an evaluation
    assert max(sizes) < 10_000


def test_the_vector_and_the_factorys_arrays_are_shared_and_cannot_be_written(runtime):
    digest = float(int(runtime.digest()[:8], 16))
    reports = runtime.evaluate(blocks_of("val", 0, 4, 1))
    expected = {"writable": 0.0, "table_writable": 0.0, "digest": digest}
    assert [report.sums for report in reports] == [expected] * 4
    assert 400_000 < runtime.info.start_up["shared_bytes"] < 420_000


def test_a_saved_run_goes_on_as_if_it_had_not_stopped(runtime, local_run, tmp_path):
    runtime.step(0, train_blocks(0))
    checkpoint = runtime.save(str(tmp_path), {"step": 1})
    runtime.step(1, train_blocks(1))
    runtime.restore(checkpoint)
    train(runtime, first=1)
    assert runtime.digest() == local_run[0]


def test_workers_use_the_threads_they_are_given(runtime):
    assert {b.sums["threads"] for b in runtime.step(0, train_blocks(0)).blocks} == {THREADS}


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


def test_a_dead_server_is_reported_and_a_closed_runtime_leaves_the_cluster(cluster):
    before = num_actors()
    runtime = start(num_workers=1)
    kill(runtime._server, runtime._server.digest.remote)
    with pytest.raises(RuntimeError, match="resume from the last checkpoint"):
        runtime.digest()
    runtime.close()
    runtime.close()
    assert num_actors() == before
    assert cluster.is_initialized()
    with pytest.raises(RuntimeError, match="must be open"):
        runtime.digest()
