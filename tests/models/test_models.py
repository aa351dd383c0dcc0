"""The contract of every registered model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dmeta.models import MODELS
from dmeta.models.network import Network
from tests.bilevel.problems import SMALL, UNKNOWN

N, OUTPUTS = 5, 3


def make(model: str, seed: int = 0, **changes: Any) -> tuple[nn.Module, tuple[int, ...]]:
    options, shape = SMALL.get(model, UNKNOWN)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        made = MODELS[model].make(input_shape=shape, num_outputs=OUTPUTS, **(options | changes))
    return made, shape


def inputs(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(N, *shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("model", MODELS)
def test_a_model_gives_one_row_of_outputs_an_example(model: str) -> None:
    module, shape = make(model)
    network = Network.of(module)
    out = network.apply(network.init_params(), inputs(shape))
    assert out.shape == (N, OUTPUTS)
    assert out.dtype == torch.float32
    assert out.isfinite().all()
    assert (out[0] - out[1]).norm() > 1e-6  # it looks at its input


@pytest.mark.parametrize("model", MODELS)
def test_its_functional_form_is_its_own_forward_pass(model: str) -> None:
    module, shape = make(model)
    network = Network.of(module)
    out = network.apply(network.init_params(), inputs(shape))
    torch.testing.assert_close(out, module.train()(inputs(shape)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", MODELS)
def test_every_parameter_is_trainable_and_reaches_the_output(model: str) -> None:
    module, shape = make(model)
    network = Network.of(module)
    params = network.init_params()
    assert list(params) == [name for name, _ in module.named_parameters()]
    grads = torch.func.grad(lambda p: network.apply(p, inputs(shape)).square().sum())(params)
    reached = [name for name, g in grads.items() if g.any()]
    # A bias in front of a batch-norm is taken away again: at most rounding reaches the output.
    assert {n for n in params if n.endswith("weight")} <= set(reached)


@pytest.mark.parametrize("model", MODELS)
def test_the_seed_alone_decides_the_initial_values(model: str) -> None:
    (one, _), (same, _), (other, _) = make(model, 0), make(model, 0), make(model, 1)
    for name, p in one.named_parameters():
        assert torch.equal(p, same.get_parameter(name))
    assert any(not torch.equal(p, other.get_parameter(n)) for n, p in one.named_parameters())


@pytest.mark.parametrize("model", MODELS)
def test_its_entry_says_what_it_is(model: str) -> None:
    entry = MODELS[model]
    assert entry.summary
    assert "\n" not in entry.summary
    assert entry.source


def test_the_sinusoid_network_is_that_of_the_paper() -> None:
    """Finn et al. 2017, section 5.1: 1-40-40-1."""
    made = MODELS["mlp"].make(input_shape=(1,), num_outputs=1)
    shapes = [tuple(p.shape) for p in made.parameters()]
    assert shapes == [(40, 1), (40,), (40, 40), (40,), (1, 40), (1,)]


def test_the_perceptron_flattens_any_input() -> None:
    made = MODELS["mlp"].make(input_shape=(2, 3), num_outputs=4, hidden=7, num_layers=1)
    assert made(torch.zeros(5, 2, 3)).shape == (5, 4)
    linear = MODELS["mlp"].make(input_shape=(2, 3), num_outputs=4, num_layers=0)
    assert [tuple(p.shape) for p in linear.parameters()] == [(4, 6), (4,)]


@pytest.mark.parametrize("model", ["conv4", "conv4_strided"])
def test_omniglot_features_are_as_in_the_papers(model: str) -> None:
    """28 pixels to 1 by max-pooling (Vinyals et al. 2016); to 2, then averaged, with strides."""
    made = MODELS[model].make(input_shape=(1, 28, 28), num_outputs=5)
    assert isinstance(made, nn.Sequential)
    assert made.get_parameter("head.weight").shape == (5, 64)
    convolutions = [m for m in made.modules() if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [(1, 64)] + 3 * [(64, 64)]


@pytest.mark.parametrize("model", ["conv4", "conv4_strided"])
def test_convolutions_start_as_torch_initialises_them(model: str) -> None:
    module, _ = make(model, filters=32)
    conv = [m for m in module.modules() if isinstance(m, nn.Conv2d)][1]
    bound = (1 / (32 * 9)) ** 0.5  # Kaiming-uniform with a = sqrt(5): 1 / sqrt(fan_in)
    assert 0.9 * bound < conv.weight.abs().max() <= bound


@pytest.mark.parametrize("model", ["conv4", "conv4_strided", "resnet12"])
@pytest.mark.parametrize("shape", [(1,), (28, 28), (1, 1, 28, 28)])
def test_convolutions_refuse_what_is_no_image(model: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"model={model} must have images .* choose model=mlp"):
        MODELS[model].make(input_shape=shape, num_outputs=5)


def test_pooling_refuses_an_image_that_is_too_small_for_its_blocks() -> None:
    MODELS["conv4"].make(input_shape=(1, 16, 16), num_outputs=5, filters=2)
    message = (
        "model=conv4 must have images of at least 16 pixels a side for so many blocks, "
        "got 16x15; lower model.blocks"
    )
    with pytest.raises(ValueError, match=message):
        MODELS["conv4"].make(input_shape=(1, 16, 15), num_outputs=5, filters=2)
    with pytest.raises(ValueError, match=r"of at least 4 pixels .* give model\.widths fewer"):
        MODELS["resnet12"].make(input_shape=(1, 3, 4), num_outputs=5, widths=[2, 2])


def test_blocks_without_pool_or_padding_are_those_of_relation_networks() -> None:
    """Sung et al. 2018, figure 2, and their code: 84 pixels to 19, 28 to 5."""
    options = {"num_pools": 2, "unpadded_blocks": 2}
    for side, left in ((84, 19), (28, 5), (10, 1)):
        made = MODELS["conv4"].make((1, side, side), None, filters=2, **options)
        assert made(torch.zeros(2, 1, side, side)).shape == (2, 2 * left**2)
    with pytest.raises(ValueError, match=r"of at least 10 pixels a side .* got 9x12"):
        MODELS["conv4"].make((1, 9, 12), None, filters=2, **options)
    with pytest.raises(ValueError, match=r"model\.num_pools must be >= 0, got -1"):
        MODELS["conv4"].make((1, 28, 28), None, num_pools=-1)


def test_the_residual_network_is_that_of_the_papers() -> None:
    """Lee et al. 2019: 84 pixels to 5, 64-160-320-640 channels, 12.4 million weights."""
    made = MODELS["resnet12"].make(input_shape=(3, 84, 84), num_outputs=5)
    assert sum(p.numel() for p in made.parameters()) == 12_424_320 + 640 * 5 + 5
    convolutions = [m for m in made.modules() if isinstance(m, nn.Conv2d)]
    assert sum(m.kernel_size == (3, 3) for m in convolutions) == 12
    assert all(m.bias is None for m in convolutions), "a batch-norm follows each"
    flat = MODELS["resnet12"].make((3, 84, 84), None, widths=(2, 2, 2, 4), pool="none")
    assert flat(torch.zeros(2, 3, 84, 84)).shape == (2, 4 * 5 * 5)


def test_a_residual_block_is_two_ways_added() -> None:
    """Oreshkin et al. 2018, appendix A: the activation after the sum."""
    made, shape = make("resnet12", widths=(4,))
    assert isinstance(made, nn.Sequential)
    block, x = made.get_submodule("block1"), inputs(shape)
    added = block.get_submodule("residual")(x) + block.get_submodule("shortcut")(x)
    expected = F.max_pool2d(F.leaky_relu(added, 0.1), 2)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(
    ("model", "width"), [("mlp", 5), ("conv4", 8), ("conv4_strided", 2), ("resnet12", 2)]
)
def test_without_outputs_a_model_is_an_embedding(model: str, width: int) -> None:
    options, shape = SMALL[model]
    made = MODELS[model].make(input_shape=shape, num_outputs=None, **options)
    assert made(torch.randn(N, *shape)).flatten(1).shape == (N, width)


@pytest.mark.parametrize(
    ("model", "option", "least"),
    [
        ("mlp", "hidden", 1),
        ("mlp", "num_layers", 0),
        ("conv4", "filters", 1),
        ("conv4_strided", "blocks", 1),
    ],
)
def test_a_size_that_makes_no_network_is_refused(model: str, option: str, least: int) -> None:
    make(model, **{option: max(least, 1)})
    with pytest.raises(
        ValueError, match=rf"model\.{option} must be >= {least}, got {least - 1}; raise it"
    ):
        make(model, **{option: least - 1})
