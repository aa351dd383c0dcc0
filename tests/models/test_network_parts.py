"""A network's last layer, and its cut into what is before a layer and what is after it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dmeta.models.network import Network
from tests.models.networks import S, conv4, images


def test_a_sequence_is_cut_before_the_first_layer_that_is_named() -> None:
    network, x = conv4(), images(0, S)
    params = network.init_params()
    parts = network.cut_before(network.head)
    assert parts is not None
    before, after = parts
    assert set(after.names) == network.head
    assert set(before.names) == set(params) - network.head
    features = before.apply({name: params[name] for name in before.names}, x)
    out = after.apply({name: params[name] for name in after.names}, features)
    assert torch.equal(out, network.apply(params, x))
    second = network.cut_before({"block2.1.weight", "head.bias"})
    assert second is not None
    assert all(name.startswith("block1.") for name in second[0].names)


def test_what_can_not_be_cut_stays_whole() -> None:
    network = conv4()
    assert network.cut_before(network.names) is None, "nothing to learn before"
    assert network.cut_before(()) is None, "nothing to learn after"
    shared = nn.Linear(2, 2)
    twice = Network.of(nn.Sequential(shared, nn.ReLU(), nn.Linear(2, 2), shared))
    assert twice.cut_before({"2.weight"}) is None
    assert Network.of(nn.Linear(2, 2)).cut_before({"weight"}) is None


class _HeadFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head, self.body = nn.Linear(3, 2), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.body(x)))


class _Branches(nn.Module):
    """Two layers whose outputs are added: neither is the last."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.a, self.b = nn.Linear(2, 3), nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.body(x))
        return self.a(h) + self.b(h)


class _Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(2, 2), nn.Linear(2, 2)
        self.out.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.embed(x)))


class _Tempered(nn.Module):
    """Its own parameter is applied last, to the output of a layer inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.temperature = nn.Linear(2, 2), nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x) * self.temperature


def test_the_head_is_the_layer_that_is_applied_last_not_the_one_registered_last() -> None:
    network = Network.of(_HeadFirst())
    with pytest.raises(ValueError, match=r"algorithm\.adapt to patterns of names"):
        _ = network.head
    assert network.traced(torch.randn(3, 2)).head == {"head.weight", "head.bias"}


@pytest.mark.parametrize("make", [_Branches, _Tied, _Tempered])
def test_a_head_that_cannot_be_told_must_be_named(make: Callable[[], nn.Module]) -> None:
    network = Network.of(make()).traced(torch.randn(3, 2))
    with pytest.raises(ValueError, match=r"one last layer.*set algorithm\.adapt to patterns"):
        _ = network.head


def test_a_sequence_of_another_class_or_with_hooks_is_not_cut() -> None:
    class Scaled(nn.Sequential):
        def __init__(self, width: int) -> None:
            super().__init__(nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 2))

        def forward(self, x: Tensor) -> Tensor:
            return 10 * super().forward(x)

    assert Network.of(Scaled(3)).cut_before({"2.weight", "2.bias"}) is None
    hooked = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    assert Network.of(hooked).cut_before({"2.weight", "2.bias"}) is not None
    hooked.register_forward_hook(lambda module, args, out: 10 * out)
    assert Network.of(hooked).cut_before({"2.weight", "2.bias"}) is None
