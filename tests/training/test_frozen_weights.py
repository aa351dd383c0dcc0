"""Frozen weights are part of a run, and travel to its workers as arrays."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dmeta
from dmeta.models.network import Network
from dmeta.runtime.blocks import blocks_of
from dmeta.training.frozen_weights import FROZEN, frozen_digest, packed
from dmeta.training.setup import prepare
from tests.conftest import TINY, tiny_config


class Backbone(nn.Module):
    """A frozen layer of 1 MiB with a buffer, and a head."""

    def __init__(self, seed: int = 0, width: int = 512) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first = nn.Linear(1, width)
            self.backbone = nn.Linear(width, width).requires_grad_(False)
            self.register_buffer("scale", torch.tensor(0.1))
            self.head = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.tanh(self.backbone(self.first(x)) * self.scale))
        return out


def sent(thing: Any) -> tuple[bytes, list[Any], Any]:
    """A message, what lies beside it in shared memory, and what arrives."""
    beside: list[pickle.PickleBuffer] = []
    message = pickle.dumps(thing, protocol=5, buffer_callback=beside.append)
    read_only = [bytes(buffer.raw()) for buffer in beside]
    return message, read_only, pickle.loads(message, buffers=read_only)


def test_a_factorys_tensors_lie_beside_its_message() -> None:
    work = prepare(tiny_config("run"), model=Backbone()).work
    message, beside, arrived = sent(work)
    assert len(message) < 20_000
    assert sum(map(len, beside)) > 2**20
    module, original = arrived.algorithm.network.module, work.algorithm.network.module
    shared = np.frombuffer(max(beside, key=len), np.float32)
    assert np.shares_memory(module.backbone.weight.detach().numpy(), shared)
    assert module.state_dict().keys() == original.state_dict().keys()
    for name, tensor in original.state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor)
    assert [p.requires_grad for p in module.parameters()] == [True, True, False, False, True, True]
    module.scale += 1  # buffers are a worker's own


def test_what_arrives_computes_the_same_bits() -> None:
    run = prepare(tiny_config("run"), model=Backbone())
    block = blocks_of("train", 0, 2, 2)[0]
    here = run.work.build("cpu").gradient(run.outer.initial, block)
    there = sent(run.work)[2].build("cpu").gradient(run.outer.initial, block)
    assert np.array_equal(here.gradient, there.gradient)
    assert here.report.sums == there.report.sums


class Odd(nn.Module):
    """Tied, recurrent, half, empty, not contiguous, shared buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.lstm = nn.LSTM(4, 3)
        self.coarse = nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16), requires_grad=False)
        self.turned = nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
        self.register_buffer("none", torch.empty(0, 3))
        self.register_buffer("flag", torch.tensor(True))
        self.register_buffer("same", self.flag)
        self.register_parameter("absent", None)


def test_every_kind_of_module_arrives_as_it_was() -> None:
    network = Network.of(Odd())
    arrived = sent(prepared_with(network))[2]
    module = arrived.algorithm.network.module
    assert module.one.weight is module.two.weight
    assert module.lstm._flat_weights[0] is module.lstm.weight_ih_l0
    assert module.same is module.flag
    assert module.turned.stride() == network.module.turned.stride()
    for name, tensor in network.module.state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor)
        assert module.state_dict()[name].dtype == tensor.dtype
    x = torch.ones(2, 1, 4)
    assert torch.equal(module.lstm(x)[0], network.module.lstm(x)[0])


def prepared_with(network: Network) -> Any:
    work = prepare(tiny_config("run")).work
    algorithm: Any = dataclasses.replace(work.algorithm, network=network)  # type: ignore[type-var]
    return dataclasses.replace(work, algorithm=algorithm)


def test_the_digest_is_of_what_is_not_learned() -> None:
    digest = frozen_digest(Network.of(Backbone()))
    assert digest == frozen_digest(Network.of(Backbone()))
    learned, frozen, buffer = Backbone(), Backbone(), Backbone()
    with torch.no_grad():
        learned.head.weight += 1
        frozen.backbone.weight[3, 4] += 1e-6
        buffer.scale += 1e-6
    assert frozen_digest(Network.of(learned)) == digest
    assert frozen_digest(Network.of(frozen)) != digest != frozen_digest(Network.of(buffer))
    assert frozen_digest(Network.of(nn.Linear(1, 1))) is None
    assert packed(Network.of(nn.BatchNorm1d(3))).arrays  # statistics that are not used do not count
    assert frozen_digest(Network.of(nn.BatchNorm1d(3))) is None


@pytest.mark.slow
def test_a_run_goes_on_with_the_same_backbone_alone(tmp_path: Path) -> None:
    asked = TINY | {"run_dir": str(tmp_path / "run"), "eval.every": 0}
    config = prepare(tiny_config("run"), model=Backbone()).config
    assert config.model.options.keys() == {FROZEN}
    assert prepare(tiny_config("run")).config.fingerprint() == tiny_config("run").fingerprint()
    dmeta.train(asked | {"steps": 2}, model=Backbone(width=8))
    again = {"run_dir": asked["run_dir"], "resume": True, "steps": 4}
    other = Backbone(width=8)
    with torch.no_grad():
        other.backbone.weight += 1
    with pytest.raises(ValueError, match=r"must have the frozen weights that the run in .*run_dir"):
        dmeta.train(again, model=other)
    with pytest.raises(ValueError, match="must have the frozen weights"):
        dmeta.evaluate(asked["run_dir"], num_tasks=2, model=other)
    with pytest.raises(ValueError, match="must have the frozen weights"):
        dmeta.load(asked["run_dir"], model=other)
    dmeta.load(asked["run_dir"], model=Backbone(width=8))
    assert dmeta.train(again, model=Backbone(width=8)).summary["training"]["steps"] == 4


@pytest.mark.parametrize("changes", [{}, {"algorithm": "joint", "algorithm__inner_steps": 0}])
def test_a_model_that_changes_what_is_frozen_is_refused(changes: dict[str, Any]) -> None:
    class Clamped(Backbone):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.backbone.weight.clamp_(-1, 1)
            return super().forward(x)

    with pytest.raises(
        ValueError, match=r"must not change its .*frozen parameters.*backbone.weight of Linear"
    ):
        prepare(tiny_config("run", **changes), model=Clamped(width=8))
