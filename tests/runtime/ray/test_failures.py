"""Whatever is killed, stopped, slow or wrong, by (step, block, attempt): the same bits."""

from __future__ import annotations

import logging
import re
import time

import pytest

from dmeta.runtime.blocks import blocks_of
from dmeta.runtime.ray.actors import WorkerStatus
from dmeta.runtime.ray.server_client import ServerLostError
from tests.runtime import toy
from tests.runtime.toy_runs import NUM_STEPS, kill, lost_object, start, train, train_blocks

HUNG_AFTER_S = 2.0


@pytest.mark.parametrize(
    "where", ["1-2", *(pytest.param(where, marks=pytest.mark.slow) for where in ("0-0", "2-3"))]
)
def test_a_worker_killed_in_the_middle_of_a_step_changes_no_bit(runtime, local_run, folder, where):
    toy.arm(folder, where, "kill")
    reports = train(runtime)
    assert not list(folder.iterdir())
    # Found to be lost, or before that to be late.
    assert reports[int(where[0])].num_retries + reports[int(where[0])].num_copies > 0
    assert [len(report.blocks) for report in reports] == [4, 4, 4]
    assert runtime.digest() == local_run[0]


@pytest.mark.slow
def test_both_workers_killed_at_once_change_no_bit(runtime, local_run, folder):
    toy.arm(folder, "1-0", "kill")
    toy.arm(folder, "1-1", "kill")
    train(runtime)
    assert runtime.digest() == local_run[0]


@pytest.mark.slow
def test_a_block_that_kills_every_worker_fails_the_step_and_is_named(runtime, folder):
    toy.arm(folder, "7-2", *["kill"] * 9)  # a worker called late has it computed by another, too
    with pytest.raises(
        RuntimeError, match=r"train step 7 block 2 .* was lost 2 times .*attempts=2"
    ):
        runtime.step(7, train_blocks(7))
    toy.disarm(folder)
    assert runtime.step(8, train_blocks(0)).applied.applied  # restarted, and usable


@pytest.mark.slow
def test_a_worker_is_asked_back_though_its_last_answer_comes_after_the_news_of_its_death(
    runtime, local_run, folder, cluster, monkeypatch
):
    wait_for_both(runtime)
    wait = cluster.wait

    def newest_first(refs, *, num_returns, timeout):
        ready, _ = wait(refs, num_returns=len(refs), timeout=timeout)
        return ready[-num_returns:], []

    toy.arm(folder, "1-2", "kill")  # the second block of a worker
    with monkeypatch.context() as patch:
        patch.setattr("dmeta.runtime.ray.worker_pool.ray.wait", newest_first)
        train(runtime)
    assert runtime.digest() == local_run[0]
    wait_for_both(runtime)


@pytest.mark.slow
def test_a_gradient_lost_after_its_report_is_computed_again(
    runtime, local_run, cluster, monkeypatch
):
    lost = lost_object(cluster)
    crew, rounds = runtime._team.crew, []
    compute = crew.compute

    def losing(batch):
        computed = compute(batch)
        rounds.append(len(computed))
        if len(rounds) == 1:
            computed[0] = computed[0]._replace(gradient=(lost,))
        return computed

    monkeypatch.setattr(crew, "compute", losing)
    reports = train(runtime)
    assert rounds == [4] * (NUM_STEPS + 1)
    assert [report.num_retries for report in reports] == [4, 0, 0]
    assert runtime.digest() == local_run[0]


def test_an_exception_of_the_work_surfaces_as_itself_with_its_block(runtime, folder):
    toy.arm(folder, "7-2", "raise")
    with pytest.raises(ZeroDivisionError) as caught:
        runtime.step(7, train_blocks(7))
    assert type(caught.value) is ZeroDivisionError
    assert str(caught.value) == "a task with no classes"
    assert "step=7, index=2" in caught.value.__notes__[0]
    assert runtime.step(8, train_blocks(0)).applied.applied  # the workers live on


def test_an_evaluation_that_fails_does_not_spoil_the_step_begun_before_it(
    runtime, local_run, folder
):
    runtime.step(0, train_blocks(0), train_blocks(1))
    toy.arm(folder, "val-1", "raise")
    with pytest.raises(ZeroDivisionError, match="no queries"):
        runtime.evaluate(blocks_of("val", 0, 4, 2))
    train(runtime, first=1)
    assert runtime.digest() == local_run[0]


@pytest.mark.slow
def test_below_the_least_number_of_workers_a_run_says_that_it_waits(
    runtime, cluster, monkeypatch, caplog
):
    crew = runtime._team.crew
    wait_for_both(runtime)
    status = WorkerStatus("cpu", 0, crew._roster.node(1), crew._roster._hardware[1])
    slow = cluster.remote(lambda: time.sleep(2) or status).options(num_cpus=0).remote()
    monkeypatch.setattr("dmeta.runtime.ray.missing_workers._AFTER_S", 0.1)
    monkeypatch.setattr(crew, "_least", 2)
    monkeypatch.setattr(crew._schedule, "_min_workers", 2)
    crew._schedule.away(1)  # as if it were being started again
    crew._roster._building[slow] = 1
    with caplog.at_level(logging.WARNING):
        assert len(runtime.evaluate(blocks_of("val", 0, 4, 2))) == 2
    # 1 of them, or none where the other has just lost a block of a test before this one.
    assert re.search(r"waiting for workers: [01] of at least 2", caplog.text)


def test_a_step_that_is_not_finite_is_rejected_and_an_applied_one_is_not_applied_again(
    runtime, folder
):
    assert runtime.step(0, train_blocks(0)).applied.applied
    before = runtime.digest()
    toy.arm(folder, "7-2", "not_finite")
    rejected = runtime.step(7, train_blocks(7))
    assert not rejected.applied.applied
    assert [block.finite for block in rejected.blocks] == [True, True, False, True]
    runtime.step(0, train_blocks(0))
    assert runtime.digest() == before
    assert runtime.step(8, train_blocks(2)).applied.applied
    assert runtime.digest() != before


@pytest.fixture(scope="module")
def watchful(cluster, tmp_path_factory):
    """Two workers that are soon taken to be hung, a folder for faults, and the first state."""
    folder = tmp_path_factory.mktemp("watchful")
    factories = toy.ToyWorkerFactory(folder=str(folder)), toy.ToyServerFactory(folder=str(folder))
    with start(*factories, cpus_per_worker=0.4, hung_after_s=HUNG_AFTER_S) as runtime:
        first = runtime.state()()
        train(runtime)  # how long a block takes is known then
        yield runtime, folder, first


def wait_for_both(runtime):
    """Until the workers that a test before this one has killed are back."""
    deadline = time.monotonic() + 120
    while runtime._team.crew._schedule.num_up < 2:
        assert time.monotonic() < deadline
        runtime.evaluate(blocks_of("val", 0, 4, 1))


def test_a_slow_block_is_computed_elsewhere_too_and_counts_once(runtime, local_run, folder):
    first = runtime.state()()
    train(runtime)  # how long a block takes is known then
    wait_for_both(runtime)
    runtime.load(first)
    toy.arm(folder, "1-1", "slow")
    reports = train(runtime)
    assert reports[1].seconds < toy.SLOW_S, "nobody waited for the slow one"
    assert reports[1].num_copies >= 1
    assert reports[1].num_retries == 0
    assert runtime.digest() == local_run[0]


@pytest.mark.slow
def test_a_stopped_worker_is_passed_over_and_then_replaced(watchful, local_run, caplog):
    runtime, folder, first = watchful
    runtime.load(first)
    toy.arm(folder, "1-1", "stop")
    with caplog.at_level(logging.WARNING):
        train(runtime)
        assert runtime.digest() == local_run[0]
        deadline = time.monotonic() + 60
        while "has not answered for" not in caplog.text:
            assert time.monotonic() < deadline
            runtime.evaluate(blocks_of("val", 0, 4, 1))
    runtime.load(first)
    train(runtime)
    assert runtime.digest() == local_run[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "step", "snapshot_every", "steps_again"),
    [("kill_before", 2, 20, 2), ("kill_after", 1, 2, 1), ("stop", 2, 1, 0)],
)
def test_a_lost_server_is_replayed_to_the_same_bits(
    cluster, tmp_path, local_run, fault, step, snapshot_every, steps_again
):
    factory = toy.ToyServerFactory(folder=str(tmp_path))
    toy.arm(tmp_path, f"server-{step}", fault)
    options = {"snapshot_every": snapshot_every, "hung_after_s": HUNG_AFTER_S}
    with start(server_factory=factory, cpus_per_worker=0.1, **options) as runtime:
        for _ in range(3):
            runtime._team.host._pace.note(0.0)  # known from the first step on
        reports = train(runtime)
        assert not list(tmp_path.iterdir())
        assert runtime.digest() == local_run[0]
        blocks_again = [len(train_blocks(0)) * steps_again * (n == step) for n in range(NUM_STEPS)]
        assert [report.num_retries for report in reports] == blocks_again


@pytest.mark.slow
def test_a_server_lost_again_while_it_is_replayed_gives_the_same_bits(cluster, tmp_path, local_run):
    toy.arm(tmp_path, "server-1", "kill_before", "kill_after")
    toy.arm(tmp_path, "server-2", "kill_after")
    factory = toy.ToyServerFactory(folder=str(tmp_path))
    with start(server_factory=factory, cpus_per_worker=0.1) as runtime:
        train(runtime)
        assert not list(tmp_path.iterdir())
        assert runtime.digest() == local_run[0]


@pytest.mark.slow
def test_a_server_lost_between_steps_is_found_when_it_is_asked(cluster, local_run):
    with start(cpus_per_worker=0.1) as runtime:
        train(runtime)
        [actor] = runtime._team.host._actors
        kill(actor, actor.digest.remote)
        assert runtime.digest() == local_run[0]


@pytest.mark.slow
def test_a_server_that_dies_at_every_attempt_ends_the_run_with_a_reason(cluster, tmp_path):
    toy.arm(tmp_path, "server-1", *["kill_before"] * 5)
    factory = toy.ToyServerFactory(folder=str(tmp_path))
    with (
        start(server_factory=factory, cpus_per_worker=0.1, max_attempts=2) as runtime,
        pytest.raises(RuntimeError, match=r"lost 2 times at one step .*resume from the last") as it,
    ):
        train(runtime)
    assert isinstance(it.value.__cause__, ServerLostError)
