"""Any module as a pure function, and whose statistics a batch-norm takes.

Letters: S support rows, Q query rows, C channels.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.models import MODELS
from dmeta.models.network import Network
from dmeta.models.norms import Moments

S, Q, C = 4, 3, 2


def images(seed: int, rows: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return 2 + 3 * torch.randn(rows, C, 8, 8, generator=rng)


def conv4() -> Network:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return Network.of(
            MODELS["conv4"].make(input_shape=(C, 8, 8), num_outputs=3, filters=3, blocks=2)
        )


def norm_with_history() -> nn.BatchNorm2d:
    """A batch-norm with weights and running statistics that are neither 0 nor 1."""
    norm = nn.BatchNorm2d(C, eps=1e-3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -2.0]))
        norm.bias.copy_(torch.tensor([1.0, 3.0]))
    assert norm.running_mean is not None
    norm.running_mean.fill_(7.0)
    return norm


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("module_training", [True, False])
def test_batch_norm_takes_batch_statistics_in_either_mode(
    training: bool, module_training: bool
) -> None:
    norm, x = norm_with_history(), images(0, S)
    network = Network.of(norm.train(module_training)).to("cpu", training=training)
    expected = F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)
    out = network.apply(network.init_params(), x)
    torch.testing.assert_close(out, expected.detach(), rtol=1e-5, atol=1e-5)
    assert (out - norm.eval()(x)).norm() > 1  # running statistics would give something else


@pytest.mark.parametrize("inside", ["root", "child", "shared"])
def test_batch_norm_is_replaced_wherever_it_stands(inside: str) -> None:
    norm = norm_with_history()
    module: nn.Module = norm
    if inside == "child":
        module = nn.ModuleDict({"a": nn.Sequential(nn.Identity(), norm)})
    if inside == "shared":
        module = nn.Sequential(norm, nn.ReLU(), norm)
    network = Network.of(module)
    assert network.mixes_examples
    assert not any(isinstance(m, nn.BatchNorm2d) for m in network.module.modules())
    assert len(network.init_params()) == 2


def test_a_batch_norm_used_twice_keeps_its_one_pair_of_weights() -> None:
    norm, x = norm_with_history(), images(0, S)
    network = Network.of(nn.Sequential(norm, nn.ReLU(), norm))
    expected = nn.Sequential(norm, nn.ReLU(), norm).train()(x)
    out = network.apply(network.init_params(), x)
    torch.testing.assert_close(out, expected.detach(), rtol=1e-5, atol=1e-5)
    doubled = {name: 2 * p for name, p in network.init_params().items()}
    assert (network.apply(doubled, x) - out).norm() > 1


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_of_any_dimension_with_and_without_weights(
    dimensions: int, affine: bool
) -> None:
    kind = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}[dimensions]
    norm = kind(C, affine=affine)
    x = torch.randn(S, C, *[3] * dimensions, generator=torch.Generator().manual_seed(0))
    network = Network.of(norm)
    out = network.apply(network.init_params(), x)
    torch.testing.assert_close(out, norm.train()(x).detach(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("inside_grad", [False, True])
def test_batch_norm_knows_when_tasks_are_vectorised(inside_grad: bool) -> None:
    """There, F.batch_norm has a wrong second derivative; elsewhere, it is the fastest."""
    network = Network.of(norm_with_history())
    params = network.init_params()
    tasks = torch.stack([images(seed, S) for seed in range(3)])

    def value(x: Tensor) -> Tensor:
        return network.apply(params, x).pow(3).sum()

    function = torch.func.grad(value) if inside_grad else value

    def names_of(run: Callable[[], Tensor]) -> set[str]:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            run()
        return {event.key for event in profile.key_averages()}

    assert "aten::native_batch_norm" in names_of(lambda: function(tasks[0]))
    assert "aten::native_batch_norm" not in names_of(lambda: torch.func.vmap(function)(tasks))
    expected = torch.stack([function(x) for x in tasks])
    torch.testing.assert_close(torch.func.vmap(function)(tasks), expected, rtol=1e-4, atol=1e-4)


def test_statistics_of_a_single_value_are_refused() -> None:
    network = Network.of(nn.BatchNorm2d(C))
    message = r"more than one value per channel, got \[1, 2, 1, 1\] .*; raise task.shots"
    with pytest.raises(ValueError, match=message):
        network.apply(network.init_params(), torch.ones(1, C, 1, 1))


def test_statistics_of_the_first_rows_are_those_of_the_support_set() -> None:
    norm, x = norm_with_history(), torch.cat([images(0, S), images(1, Q)])
    network = Network.of(norm)
    mean, variance = x[:S].mean((0, 2, 3)), x[:S].var((0, 2, 3), correction=0)
    expected = F.batch_norm(x, mean, variance, norm.weight, norm.bias, eps=norm.eps).detach()
    out = network.with_statistics_of_first(S).apply(network.init_params(), x)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    together = network.apply(network.init_params(), x)
    assert (together - out).norm() > 0.1


def test_the_derivative_goes_through_the_statistics_of_the_support_set() -> None:
    norm = norm_with_history().double()
    network, x = Network.of(norm), torch.cat([images(0, S), images(1, Q)]).double()
    params = network.init_params()

    def query_value(support: Tensor) -> Tensor:
        both = torch.cat([support, x[S:]])
        return network.with_statistics_of_first(S).apply(params, both)[S:].pow(3).sum()

    support = x[:S, :, :2, :2].contiguous()
    x = x[:, :, :2, :2].contiguous()
    assert torch.autograd.gradcheck(query_value, support.requires_grad_())


def test_a_query_does_not_depend_on_the_other_queries_unless_transductive() -> None:
    network = conv4()
    params, support = network.init_params(), images(0, S)
    queries = images(1, Q)
    others = torch.cat([queries[:1], 5 * images(2, Q - 1)])

    def apart(x: Tensor) -> Tensor:
        return network.with_statistics_of_first(S).apply(params, torch.cat([support, x]))[S]

    def together(x: Tensor) -> Tensor:
        return network.apply(params, x)[0]

    torch.testing.assert_close(apart(others), apart(queries), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(apart(queries[:1]), apart(queries), rtol=1e-5, atol=1e-6)
    assert (together(others) - together(queries)).norm() > 1e-2


def test_a_query_does_depend_on_the_support_set() -> None:
    network = conv4()
    params, query = network.init_params(), images(1, 1)
    network = network.with_statistics_of_first(S)
    one = network.apply(params, torch.cat([images(0, S), query]))[S]
    other = network.apply(params, torch.cat([5 * images(3, S), query]))[S]
    assert (one - other).norm() > 1e-2


def test_the_choice_of_statistics_is_of_one_network_not_of_the_one_that_it_was_made_from() -> None:
    network, x = conv4(), torch.cat([images(0, S), images(1, Q)])
    params = network.init_params()
    before = network.apply(params, x)
    assert not torch.equal(network.with_statistics_of_first(S).apply(params, x), before)
    assert torch.equal(network.apply(params, x), before)


def test_recorded_statistics_predict_as_the_batch_that_they_were_taken_of() -> None:
    network, support, queries = conv4(), images(0, S), images(1, Q)
    params = network.init_params()
    recorded: list[tuple[Moments, ...]] = []
    network.recording_moments(recorded).apply(params, support)
    [moments] = recorded
    assert len(moments) == 2
    got = network.with_moments(moments).apply(params, queries)
    both = torch.cat([support, queries])
    expected = network.with_statistics_of_first(S).apply(params, both)[S:]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    alone = network.with_moments(moments).apply(params, queries[:1])
    torch.testing.assert_close(alone, got[:1], rtol=1e-4, atol=1e-5)


def test_mixes_examples_says_whether_rows_depend_on_each_other() -> None:
    assert conv4().mixes_examples
    assert not Network.of(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))).mixes_examples


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


def test_in_bfloat16_batch_statistics_are_as_exact_under_vmap_as_without() -> None:
    network = Network.of(norm_with_history(), "bfloat16")
    params = network.init_params()
    x = (100 + images(0, S)).bfloat16()  # a mean that leaves bfloat16 few digits for the rest
    alone = network.apply(params, x)
    [mapped] = torch.func.vmap(lambda images: network.apply(params, images))(x[None])
    assert mapped.dtype == alone.dtype == torch.bfloat16
    assert (mapped - alone).norm() < 0.01 * alone.norm()


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


def test_a_batch_norm_keeps_its_hooks() -> None:
    norm = norm_with_history()
    norm.register_forward_hook(lambda module, args, out: out + 100)
    assert Network.of(norm).apply(Network.of(norm).init_params(), images(0, S)).mean() > 50


def test_instance_norm_takes_the_statistics_of_each_example_in_evaluation_too() -> None:
    norm, x = nn.InstanceNorm2d(C, track_running_stats=True), images(0, S)
    network = Network.of(norm).to("cpu", training=False)
    torch.testing.assert_close(network.apply({}, x), F.instance_norm(x))
    assert (norm.eval()(x) - F.instance_norm(x)).norm() > 1


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
