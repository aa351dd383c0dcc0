"""Whose statistics a batch-norm takes.

Letters: S support rows, Q query rows, C channels.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta.models.network import Network
from dmeta.models.norms import Moments
from tests.models.networks import C, Q, S, conv4, images, norm_with_history


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


def test_in_bfloat16_batch_statistics_are_as_exact_under_vmap_as_without() -> None:
    network = Network.of(norm_with_history(), "bfloat16")
    params = network.init_params()
    x = (100 + images(0, S)).bfloat16()  # a mean that leaves bfloat16 few digits for the rest
    alone = network.apply(params, x)
    [mapped] = torch.func.vmap(lambda images: network.apply(params, images))(x[None])
    assert mapped.dtype == alone.dtype == torch.bfloat16
    assert (mapped - alone).norm() < 0.01 * alone.norm()


def test_a_batch_norm_keeps_its_hooks() -> None:
    norm = norm_with_history()
    norm.register_forward_hook(lambda module, args, out: out + 100)
    assert Network.of(norm).apply(Network.of(norm).init_params(), images(0, S)).mean() > 50


def test_instance_norm_takes_the_statistics_of_each_example_in_evaluation_too() -> None:
    norm, x = nn.InstanceNorm2d(C, track_running_stats=True), images(0, S)
    network = Network.of(norm).to("cpu", training=False)
    torch.testing.assert_close(network.apply({}, x), F.instance_norm(x))
    assert (norm.eval()(x) - F.instance_norm(x)).norm() > 1
