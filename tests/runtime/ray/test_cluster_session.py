"""A worker is there before the runtime is, and chooses for all of them."""

from __future__ import annotations

import os
import signal
import time

import pytest

from dmeta.runtime import RuntimeOptions, make_runtime, open_workplace
from dmeta.runtime.messages import ALONE, Seat
from dmeta.runtime.ray import cluster_session as workplaces
from tests.runtime import toy
from tests.runtime.toy_runs import num_actors

BASE = {"name": "ray", "num_workers": 2, "cpus_per_worker": 0.25}


class Where:
    """Tells of the process that it is called in."""

    def __call__(self, seat: Seat):
        return os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), seat


class Slow:
    def __call__(self, seat: Seat):
        time.sleep(4)
        return "done"


class Holder:
    def has_its_cpu(self):
        return True


class Dies:
    def __call__(self, seat: Seat):
        os.kill(os.getpid(), signal.SIGKILL)


class Raises:
    def __call__(self, seat: Seat):
        raise LookupError("no such plan")


def opened(device="cpu", **changes):
    options = RuntimeOptions(**BASE | changes)
    return options, open_workplace(options, device, 4, "a_run")


def pids(runtime):
    import ray

    refs = [actor.call.remote(Where(), ALONE) for actor in runtime._team.crew.actors()]
    return [pid for pid, _, _ in ray.get(refs)]


@pytest.mark.slow
def test_what_is_called_runs_where_workers_do_and_the_runtime_takes_the_worker_over(cluster):
    before = num_actors()
    options, place = opened()
    with place as workplace:
        pid, gpus, seat = workplace.call(Where())
        assert pid != os.getpid()
        assert gpus == ""
        assert seat == Seat(2, 2)
        assert workplace.call(Where())[0] == pid
        factories = toy.ToyWorkerFactory(), toy.ToyServerFactory()
        with make_runtime(options, *factories, "cpu", 4, "a_run", workplace) as runtime:
            assert pid in pids(runtime)
            assert len(pids(runtime)) == 2
        assert cluster.is_initialized()
        with make_runtime(options, *factories, "cpu", 4, "a_run", workplace) as runtime:
            assert pid not in pids(runtime)  # the first ones ended with their runtime
    assert num_actors() == before


def test_it_has_the_gpu_that_a_worker_has(cluster):
    _, place = opened("auto", num_workers="auto")
    with place as workplace:
        _, gpus, seat = workplace.call(Where())
    assert gpus in ("0", "1")
    assert seat == Seat(2, 2)  # GPUs, of which each worker has one


@pytest.mark.slow
def test_what_is_raised_there_is_raised_here_and_a_death_is_told_of(cluster):
    before = num_actors()
    _, place = opened()
    with place as workplace:
        with pytest.raises(LookupError, match="no such plan"):
            workplace.call(Raises())
        with pytest.raises(RuntimeError, match=r"worker that chooses compute\.plan .*set them"):
            workplace.call(Dies())
    assert num_actors() == before


@pytest.mark.slow
def test_only_the_start_of_a_worker_has_a_limit(cluster, monkeypatch):
    _, place = opened()
    with place as workplace:
        workplace.call(Where())
        monkeypatch.setattr(workplaces, "START_TIMEOUT_S", 3.0)
        assert workplace.call(Slow()) == "done"
        workplace.close()
    holder = cluster.remote(num_cpus=1)(Holder).remote()
    cluster.get(holder.has_its_cpu.remote())
    _, place = opened(num_workers=1, cpus_per_worker=2)
    with place as workplace, pytest.raises(RuntimeError, match=r"start within 3 s, got none"):
        workplace.call(Where())
    cluster.kill(holder)


def test_workers_that_can_not_be_placed_are_refused_before_anything_is_asked(cluster):
    _, place = opened(num_workers=50)
    with place as workplace, pytest.raises(ValueError, match="must fit the cluster's 2 CPUs"):
        workplace.call(Where())


def test_the_local_runtime_asks_this_process():
    with open_workplace(RuntimeOptions(name="local"), "cpu", 4) as workplace:
        assert workplace.call(Where())[::2] == (os.getpid(), ALONE)
    with (
        pytest.raises(ValueError, match="device=cuda needs a GPU"),
        open_workplace(RuntimeOptions(name="local"), "cuda", 4),
    ):
        pass


@pytest.mark.slow
def test_a_plan_is_chosen_by_a_worker_and_not_by_the_driver(cluster, tmp_path, monkeypatch):
    import torch

    import dmeta
    from dmeta.training.autotune import planning
    from tests.conftest import TINY

    def here(*_):
        raise AssertionError("the driver computes")

    for where, name in ((planning, "eager_seconds"), (torch.cuda, "_lazy_init")):
        monkeypatch.setattr(where, name, here)
    asked = {"runtime": "ray", "compute.plan": "measure", "runtime.cpus_per_worker": 0.25}
    asked |= {"device": "cpu", "run_dir": str(tmp_path / "run"), "steps": 2, "eval.every": 0}
    result = dmeta.train(TINY | asked)
    assert result.summary["plan"]["seconds"].keys() == {"vmap", "loop"}
    assert result.summary["settings"]["compute"]["plan"] in ("vmap", "loop")


@pytest.mark.slow
def test_a_trial_without_a_gpu_sees_none(cluster, tmp_path, monkeypatch):
    from dmeta.search.trial import TrialSetup, _enter

    def seen(setup):
        os.environ["CUDA_VISIBLE_DEVICES"] = "0,1"  # as Ray leaves it
        _enter(setup)
        return os.environ["CUDA_VISIBLE_DEVICES"]

    setup = TrialSetup(dict, str(tmp_path), {}, tmp_path)  # type: ignore[arg-type]
    task = cluster.remote(seen)
    assert cluster.get(task.options(num_cpus=0, num_gpus=0).remote(setup)) == ""
    assert cluster.get(task.options(num_cpus=0, num_gpus=1).remote(setup)) in ("0", "1")
