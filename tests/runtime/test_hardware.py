"""What workers compute on is told, and that they differ."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

from dmeta.runtime import hardware
from dmeta.runtime.hardware import by_kind, description
from dmeta.runtime.messages import Hardware, RuntimeInfo
from dmeta.runtime.ray.actors import WorkerStatus
from dmeta.runtime.ray.worker_registry import Roster
from dmeta.training.devices.parallelism import mixed_line

A, B = {"device": "NVIDIA A100", "capability": "8.0"}, {"device": "NVIDIA H100 MIG 1g"}


def test_a_gpu_is_described_with_what_its_bits_may_depend_on(monkeypatch):
    properties = SimpleNamespace(
        name="NVIDIA H100 MIG 1g.10gb", major=9, minor=0, multi_processor_count=16
    )
    cuda = SimpleNamespace(is_available=lambda: True, get_device_properties=lambda _: properties)
    backends = SimpleNamespace(cudnn=SimpleNamespace(version=lambda: 91002))
    torch = SimpleNamespace(
        cuda=cuda, backends=backends, version=SimpleNamespace(cuda="12.8"), __version__="2.13.0"
    )
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert description("cuda") == {
        "device": "NVIDIA H100 MIG 1g.10gb",
        "capability": "9.0",
        "multiprocessors": "16",
        "cuda": "12.8",
        "cudnn": "91002",
        "torch": "2.13.0",
    }


def test_a_cpu_is_described_also_without_torch(monkeypatch):
    monkeypatch.setattr(hardware, "cpu_model", lambda: "A CPU")
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    assert description("cpu") == {"device": "A CPU"}


def test_workers_are_listed_by_kind():
    assert by_kind({2: B, 0: A, 1: dict(A)}) == (Hardware((0, 1), A), Hardware((2,), B))


def test_a_mix_is_told_of_when_a_run_begins():
    assert mixed_line(RuntimeInfo("ray", 2, "cuda", {}, hardware=by_kind({0: A, 1: A}))) is None
    line = mixed_line(RuntimeInfo("ray", 2, "cuda", {}, hardware=by_kind({0: A, 1: B, 2: B})))
    assert "bits of a result depend on who computes it" in line
    assert "NVIDIA A100" in line
    assert "(workers [0])" in line
    assert "(workers [1, 2])" in line


def test_one_that_joins_later_and_differs_is_told_of(monkeypatch, caplog):
    import ray

    found = {"first": A, "same": A, "other": B}
    build = SimpleNamespace(remote=lambda factory: names.pop(0))
    names = list(found)
    roster = Roster(lambda _: SimpleNamespace(build=build), None, 1)
    roster.grow(3)
    monkeypatch.setattr(ray, "wait", lambda refs, **_: (refs[:1], refs[1:]))
    monkeypatch.setattr(ray, "get", lambda r: _status(found, r))
    roster.wait_until_built(1)
    with caplog.at_level(logging.WARNING):
        roster.hear("same", others_do=True)
        assert not caplog.messages
        roster.hear("other", others_do=True)
    assert caplog.messages == [
        "worker 2 computes on {'device': 'NVIDIA H100 MIG 1g'}, as none before it: the bits of a "
        "result depend on who computes it"
    ]
    assert roster.hardware == (Hardware((0, 1), A), Hardware((2,), B))


def _status(found, refs):
    if isinstance(refs, list):
        return [_status(found, ref) for ref in refs]
    return WorkerStatus("cuda", 0, "node", found[refs])


def test_the_workers_of_a_run_are_in_its_info(runtime):
    # One of two kinds, if Ray gave one of them a process that has torch already.
    kinds = runtime.info.hardware
    assert sorted(number for kind in kinds for number in kind.workers) == [0, 1]
    assert len({kind.description["device"] for kind in kinds}) == 1
