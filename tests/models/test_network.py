"""Any module as a pure function of its parameters."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.models.network import Network
from tests.models.networks import C, Q, S, conv4, images, norm_with_history


def test_the_wrapped_module_is_left_as_it_was() -> None:
    module = nn.Sequential(nn.Conv2d(C, C, 3), norm_with_history(), nn.Dropout(0.5))
    reference = copy.deepcopy(module)
    network = Network.of(module)
    params = network.init_params()
    params["0.weight"].zero_()
    network.apply({name: p + 1 for name, p in params.items()}, images(0, S))
    network.to("cpu", training=False)
    assert module.training
    assert isinstance(module[1], nn.BatchNorm2d)
    for name, value in reference.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name


def test_apply_uses_the_given_parameters_and_leaves_its_own() -> None:
    network, x = Network.of(nn.Linear(2, 1)), torch.ones(3, 2)
    initial = network.init_params()
    given = {"weight": torch.tensor([[2.0, 3.0]]), "bias": torch.tensor([1.0])}
    assert network.apply(given, x).tolist() == [[6.0]] * 3
    assert all(torch.equal(p, initial[n]) for n, p in network.init_params().items())


def test_in_bfloat16_layers_are_rounded_but_neither_outputs_nor_gradients() -> None:
    whole = conv4()
    half, x = Network.of(whole.module, "bfloat16"), images(0, S)
    params = {name: p.requires_grad_() for name, p in whole.init_params().items()}
    seen: list[torch.dtype] = []
    for network in (half, half.to("cpu", training=True)):
        network.module[0][0].register_forward_hook(lambda *args: seen.append(args[-1].dtype))
        got, expected = network.apply(params, x), whole.apply(params, x)
        assert got.dtype == torch.float32
        assert 0 < (got - expected).norm() < 0.02 * expected.norm()
        gradients = torch.autograd.grad(got.square().sum(), params.values(), create_graph=True)
        assert {g.dtype for g in gradients} == {torch.float32}
        assert any(g.requires_grad for g in gradients)
    assert seen == [torch.bfloat16] * 2
    parts = half.cut_before({"head.weight", "head.bias"})
    assert parts is not None
    assert {part.precision for part in parts} == {"bfloat16"}


def test_initial_parameters_are_trainable_copies_without_the_frozen_and_the_buffers() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    module[0].weight.requires_grad_(False)
    module.register_buffer("scale", torch.ones(1))
    network = Network.of(module)
    params = network.init_params()
    assert set(params) == {"0.bias", "1.weight", "1.bias"}
    assert not any(p.requires_grad for p in params.values())
    assert all(
        p.data_ptr() != network.module.get_parameter(n).data_ptr() for n, p in params.items()
    )


def test_mode_switches_dropout_on_a_copy() -> None:
    network, x = Network.of(nn.Dropout(0.5)), torch.ones(1000)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        assert (network.to("cpu", training=True).apply({}, x) == 0).any()
    assert torch.equal(network.to("cpu", training=False).apply({}, x), x)
    assert network.module.training


def test_a_missing_parameter_is_not_replaced_by_its_initial_value() -> None:
    network = Network.of(nn.Linear(2, 1))
    with pytest.raises(ValueError, match="got none for bias"):
        network.apply({"weight": torch.ones(1, 2)}, torch.ones(3, 2))


def test_a_parameter_that_is_used_past_its_name_is_refused_instead_of_staying_as_it_was() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)
            self.by_list = [self.fc.weight]

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x) @ self.by_list[0]

    network = Network.of(Hidden())
    assert network.apply(network.init_params(), torch.ones(2, 2)).isnan().all()
    with pytest.raises(ValueError, match="use its parameters by their names"):
        network.traced(torch.ones(2, 2))


def test_threads_do_not_see_each_others_parameters() -> None:
    network, x = conv4(), torch.cat([images(0, S), images(1, Q)])
    params = network.init_params()
    versions = [{n: (1 + 0.1 * i) * p for n, p in params.items()} for i in range(8)]
    apart = network.with_statistics_of_first(S)
    expected = [(network.apply(v, x), apart.apply(v, x)) for v in versions]

    def many(i: int) -> bool:
        return all(
            torch.equal(network.apply(versions[i], x), expected[i][0])
            and torch.equal(apart.apply(versions[i], x), expected[i][1])
            for _ in range(30)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(many, range(8)))


def test_a_network_travels_and_its_copies_stay() -> None:
    network, x = conv4(), images(0, S)
    before = network.apply(network.init_params(), x)
    sent: Network = pickle.loads(pickle.dumps(network))
    assert torch.equal(sent.apply(sent.init_params(), x), before)
    assert len(pickle.dumps(network)) < 2 * len(pickle.dumps(network.module))


def test_on_another_device_only_what_is_not_given_in_every_call_is_moved() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[0].requires_grad_(False)
    module.register_buffer("scale", torch.ones(1))
    placed = Network.of(module).to("meta", training=False).module
    tensors = [*placed.named_parameters(), *placed.named_buffers()]
    where = {name: tensor.device.type for name, tensor in tensors}
    assert where == {
        "0.weight": "meta",
        "0.bias": "meta",
        "1.weight": "cpu",
        "1.bias": "cpu",
        "scale": "meta",
    }


@pytest.mark.parametrize("training", [True, False])
def test_dropout_in_place_changes_its_input_in_training_alone(training: bool) -> None:
    class Unused(nn.Module):
        """Does not look at what dropout returns."""

        def forward(self, x: Tensor) -> Tensor:
            h = x * 1
            F.dropout(h, 0.5, self.training, inplace=True)
            return h

    out = Network.of(Unused()).to("cpu", training=training).apply({}, torch.ones(1000))
    assert bool((out == 0).any()) is training
    assert set(out.unique().tolist()) == ({0.0, 2.0} if training else {1.0})
