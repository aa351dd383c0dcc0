"""Networks against those of torch and torchvision, and against the papers' equations, in float64.

Letters: N examples, L positions, C channels.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dmeta import randomness
from dmeta.models import MODELS
from dmeta.models.drop_block import DropBlock
from dmeta.models.encoder_layer import EncoderLayer
from dmeta.models.network import Network
from dmeta.models.recurrent import RecurrentLayers
from dmeta.torchvision_compat import import_models

torchvision = import_models()

N, L, C = 4, 6, 3


def seeded(make: Any, *args: Any, **kwargs: Any) -> nn.Module:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        return make(*args, **kwargs).double()


def made(model: str, shape: tuple[int, ...], outputs: int | None = 5, **options: Any) -> nn.Module:
    return seeded(MODELS[model].make, shape, outputs, **options)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def check_same_values_and_gradients(ours: nn.Module, other: nn.Module, x: Tensor) -> None:
    """Outputs, and the gradients of a function of them in the input."""
    results = []
    for module in (ours, other):
        given = x.clone().requires_grad_()
        out = module(given)
        [gradient] = torch.autograd.grad(out.pow(3).sum(), given)
        results.append((out, gradient))
    torch.testing.assert_close(results[0], results[1], rtol=1e-10, atol=1e-11)


def test_a_residual_network_is_torchvisions() -> None:
    ours, theirs = made("resnet18", (3, 40, 40)), seeded(torchvision.resnet18, num_classes=5)
    weights = {n.replace("fc.", "head."): p for n, p in theirs.named_parameters()}
    assert weights.keys() == dict(ours.named_parameters()).keys()
    ours.load_state_dict(weights, strict=False)
    check_same_values_and_gradients(ours, theirs, numbers(2, 3, 40, 40))


def test_a_residual_network_of_ten_layers_is_torchvisions_with_one_block_a_stage() -> None:
    block = torchvision.resnet.BasicBlock
    ours = made("resnet10", (3, 84, 84), 5)
    theirs = seeded(torchvision.ResNet, block, [1, 1, 1, 1], num_classes=5)
    weights = {n.replace("fc.", "head."): p for n, p in theirs.named_parameters()}
    ours.load_state_dict(weights, strict=False)
    check_same_values_and_gradients(ours, theirs, numbers(2, 3, 84, 84))


def test_the_small_stem_keeps_every_pixel() -> None:
    network = made("resnet18", (3, 32, 32), None, stem="small", width=2)
    assert isinstance(network, nn.Sequential)
    assert network[:3](numbers(1, 3, 32, 32)).shape == (1, 2, 32, 32)
    assert network(numbers(2, 3, 32, 32)).shape == (2, 16)


def wide_resnet_of_the_paper(p: dict[str, Tensor], x: Tensor, blocks: int) -> Tensor:
    """WRN as the authors' functional code writes it, on batch statistics."""

    def active(name: str, x: Tensor) -> Tensor:
        weight, bias = p[f"{name}.weight"], p[f"{name}.bias"]
        return F.relu(F.batch_norm(x, None, None, weight, bias, training=True))

    x = F.conv2d(x, p["conv.weight"], padding=1)
    for stage in (1, 2, 3):
        for i in range(blocks):
            at, stride = f"stage{stage}.{i}", 2 if stage > 1 and i == 0 else 1
            o1 = active(f"{at}.norm1", x)
            y = F.conv2d(o1, p[f"{at}.conv1.weight"], stride=stride, padding=1)
            z = F.conv2d(active(f"{at}.norm2", y), p[f"{at}.conv2.weight"], padding=1)
            shortcut = p.get(f"{at}.shortcut.weight")
            x = z + (x if shortcut is None else F.conv2d(o1, shortcut, stride=stride))
    features = active("norm", x).mean((2, 3))
    return F.linear(features, p["head.weight"], p["head.bias"])


def test_a_wide_residual_network_is_that_of_its_authors() -> None:
    network, x = made("wide_resnet", (3, 12, 12), depth=16, widen=2), numbers(N, 3, 12, 12)
    expected = wide_resnet_of_the_paper(dict(network.named_parameters()), x, blocks=2)
    torch.testing.assert_close(network(x), expected, rtol=1e-10, atol=1e-11)


def test_wrn_28_10_has_the_papers_number_of_weights() -> None:
    """Zagoruyko & Komodakis 2016, table 4: 36.5 million, with 10 outputs."""
    with torch.device("meta"):
        network = MODELS["wide_resnet"].make((3, 32, 32), 10)
    assert sum(p.numel() for p in network.parameters()) == 36_479_194
    with pytest.raises(ValueError, match=r"model\.depth must be 6 n \+ 4 .* got 27"):
        MODELS["wide_resnet"].make((3, 32, 32), 10, depth=27)


def test_the_vision_transformer_is_torchvisions() -> None:
    ours = made("vit", (3, 12, 12), patch=4, width=8, depth=2, heads=2, hidden=16)
    theirs = seeded(torchvision.VisionTransformer, 12, 4, 2, 2, 8, 16, num_classes=5)
    nn.init.normal_(theirs.heads.head.weight)
    renamed = {
        "patches.patches": "conv_proj",
        "norm": "encoder.ln",
        "head": "heads.head",
        **{f"layer{i + 1}.{a}": f"encoder.layers.encoder_layer_{i}.{b}" for i in range(2)
           for a, b in (("norm1", "ln_1"), ("norm2", "ln_2"), ("linear1", "mlp.0"),
                        ("linear2", "mlp.3"), ("out", "self_attention.out_proj"))},
    }  # fmt: skip
    weights, given = {}, dict(theirs.named_parameters())
    for name, other in renamed.items():
        weights |= {f"{name}.{kind}": given[f"{other}.{kind}"] for kind in ("weight", "bias")}
    for i in range(2):
        for kind in ("weight", "bias"):
            attention = f"encoder.layers.encoder_layer_{i}.self_attention.in_proj_{kind}"
            weights[f"layer{i + 1}.inputs.{kind}"] = given[attention]
    weights["patches.positions"] = given["encoder.pos_embedding"]
    weights["patches.class_token"] = given["class_token"]
    ours.load_state_dict(weights)
    check_same_values_and_gradients(ours, theirs, numbers(N, 3, 12, 12))
    mean = made("vit", (3, 12, 12), None, patch=4, width=8, heads=2, pool="mean")
    assert mean(numbers(N, 3, 12, 12)).shape == (N, 8)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_an_encoder_layer_is_torchs(norm_first: bool, gelu: bool, padded: bool) -> None:
    ours = seeded(EncoderLayer, 8, 2, 12, 0.0, norm_first=norm_first, gelu=gelu)
    theirs = seeded(
        nn.TransformerEncoderLayer, 8, 2, 12, 0.0, "gelu" if gelu else "relu",
        batch_first=True, norm_first=norm_first,
    )  # fmt: skip
    named = {n.replace("self_attn.in_proj_", "inputs."): p for n, p in theirs.named_parameters()}
    ours.load_state_dict({n.replace("self_attn.out_proj", "out"): p for n, p in named.items()})
    x, padding = numbers(N, L, 8), None
    if padded:
        padding = torch.arange(L) >= torch.tensor([6, 4, 1, 5])[:, None]
    there = torch.ones(N, L, 1) if padding is None else (~padding)[:, :, None]

    def outputs(module: nn.Module) -> Tensor:
        given = x.clone().requires_grad_()
        names = {"padding": padding} if module is ours else {"src_key_padding_mask": padding}
        out = module(given, **names) * there
        return torch.cat([out, *torch.autograd.grad(out.pow(3).sum(), given)])

    torch.testing.assert_close(outputs(ours), outputs(theirs), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_recurrent_layers_are_torchs(cell: Any, bidirectional: bool) -> None:
    ours = seeded(RecurrentLayers, cell, C, 5, 2, bidirectional, 0.0)
    kind = {"lstm": nn.LSTM, "gru": nn.GRU}[cell]
    theirs = seeded(kind, C, 5, 2, batch_first=True, bidirectional=bidirectional)
    ours.load_state_dict(theirs.state_dict())  # the same names and shapes
    x = numbers(N, L, C)
    torch.testing.assert_close(ours(x)[0], theirs(x)[0], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_padding_is_read_as_by_torchs_packed_sequences(cell: Any) -> None:
    ours = seeded(RecurrentLayers, cell, C, 5, 2, True, 0.0)
    theirs = seeded({"lstm": nn.LSTM, "gru": nn.GRU}[cell], C, 5, 2, batch_first=True,
                    bidirectional=True)  # fmt: skip
    ours.load_state_dict(theirs.state_dict())
    x, lengths = numbers(N, L, C), torch.tensor([6, 4, 1, 5])
    packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    found = theirs(packed)[1]
    last = found[0] if cell == "lstm" else found
    got = ours(x, torch.arange(L) >= lengths[:, None])[1]
    torch.testing.assert_close(got, torch.cat([last[-2], last[-1]], 1), rtol=1e-12, atol=1e-13)


SEQUENCES: dict[str, dict[str, Any]] = {
    "lstm": {"hidden": 4, "bidirectional": True, "embedding": 3},
    "gru": {"hidden": 4, "pool": "mean", "embedding": 3},
    "transformer": {"width": 4, "heads": 2, "hidden": 5},
}


@pytest.mark.parametrize("model", SEQUENCES)
def test_more_padding_changes_nothing(model: str) -> None:
    ids = torch.tensor([[1, 2, 3, 0, 0, 0], [3, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    options = {"num_tokens": 5, "padding_id": 0, **SEQUENCES[model]}
    network = made(model, (6,), **options)
    short = made(model, (3,), **options)
    short.load_state_dict(network.state_dict())
    out = network(ids)
    assert out.isfinite().all()
    torch.testing.assert_close(short(ids[:, :3]), out, rtol=1e-12, atol=1e-13)
    assert (out[0] - made(model, (6,), **{**options, "padding_id": None})(ids)[0]).norm() > 1e-3


@pytest.mark.parametrize("model", SEQUENCES)
def test_sequences_of_the_wrong_kind_are_refused(model: str) -> None:
    ids, series = torch.ones(2, 6, dtype=torch.int64), numbers(2, 6, 3)
    with pytest.raises(ValueError, match=r"model\.num_tokens must be given .* token ids"):
        made(model, (6,))(ids)
    with pytest.raises(ValueError, match=r"model\.num_tokens must be null for series"):
        made(model, (6,), num_tokens=3)(series[:, :, 0])
    with pytest.raises(ValueError, match=f"model={model} must have sequences"):
        made(model, (1, 8, 8))
    with pytest.raises(ValueError, match=r"model\.padding_id must be one of .* got 7"):
        made(model, (6,), num_tokens=5, padding_id=7)


@pytest.mark.parametrize("model", SEQUENCES)
def test_tasks_of_token_ids_are_mapped(model: str) -> None:
    options = {"num_tokens": 5, "padding_id": 0, **SEQUENCES[model]}
    network = Network.of(made(model, (6,), **options))
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(5, (2, N, 6), generator=rng)
    params = network.init_params()
    mapped = torch.func.vmap(lambda x: network.apply(params, x))(ids)
    alone = torch.stack([network.apply(params, x) for x in ids])
    torch.testing.assert_close(mapped, alone, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("arch", ["resnet18", "mobilenet_v3_small", "convnext_tiny"])
def test_torchvisions_networks_are_found_by_name(arch: str) -> None:
    ours = made("torchvision", (3, 32, 32), 7, arch=arch)
    theirs = seeded(torchvision.get_model, arch, num_classes=7)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    x = numbers(2, 3, 32, 32)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-10, atol=1e-11)
    embedding = made("torchvision", (3, 32, 32), None, arch=arch)
    assert embedding(x).dim() == 2
    assert len(list(embedding.parameters())) == len(list(ours.parameters())) - 2
    assert not any(getattr(m, "inplace", False) for m in ours.modules())


def test_a_network_that_torchvision_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.arch must be .* got 'resnet19' \(did you mean"):
        made("torchvision", (3, 32, 32), arch="resnet19")
    with pytest.raises(ValueError, match=r"must end in a linear layer .* squeezenet1_1"):
        made("torchvision", (3, 32, 32), None, arch="squeezenet1_1")


def drop_block_of_metaoptnet(x: Tensor, begins: Tensor, size: int) -> Tensor:
    """The code of Lee et al. 2019 as loops: the squares that begin where `begins` is 1."""
    mask = torch.ones_like(x)
    for n, c, i, j in begins.nonzero().tolist():
        mask[n, c, i : i + size, j : j + size] = 0
    return mask * x * (mask.numel() / mask.sum())


def test_dropblock_is_that_of_its_papers_code() -> None:
    size, rate, side = 3, 0.2, 8
    x, layer = numbers(N, C, side, side), DropBlock(rate, size)
    network = Network.of(layer).to("cpu", training=True)
    with randomness.task_numbers(7):
        out = network.apply({}, x)
        gamma = rate / size**2 * side**2 / (side - size + 1) ** 2
        keep = randomness.keep_mask(7, "/1", (N, C, 6, 6), gamma, x.device)
    torch.testing.assert_close(out, drop_block_of_metaoptnet(x, (~keep).double(), size))
    assert 0.05 < float((out == 0).double().mean()) < 0.35
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("size", [1, 2, 5, 9])
def test_dropblock_drops_about_its_rate(size: int) -> None:
    """Squares overlap, so a little less of it; maps smaller than a square are dropped whole."""
    x = torch.ones(200, 20, 5, 5)
    network = Network.of(DropBlock(0.2, size)).to("cpu", training=True)
    with randomness.task_numbers(1):
        dropped = float((network.apply({}, x) == 0).float().mean())
    assert 0.15 < dropped < 0.21
    with randomness.task_numbers(1):
        out = network.apply({}, x)
    assert torch.isclose(out.mean(), torch.tensor(1.0))


def test_dropping_depends_on_the_tasks_seed_alone() -> None:
    module = made("resnet12", (1, 16, 16), 3, widths=(4, 4, 4), drop_rate=0.3, dropblock_size=2)
    network, x = Network.of(module).to("cpu", training=True), numbers(2, N, 1, 16, 16)
    params = network.init_params()

    def out(seed: Tensor, x: Tensor) -> Tensor:
        with randomness.task_numbers(seed):
            return network.apply(params, x)

    seeds = torch.tensor([3, 4])
    torch.manual_seed(0)
    alone = torch.stack([out(s, each) for s, each in zip(seeds, x, strict=True)])
    torch.manual_seed(1)
    mapped = torch.func.vmap(out)(seeds, x)
    torch.testing.assert_close(mapped, alone, rtol=1e-10, atol=1e-12)
    assert (out(seeds[1], x[0]) - alone[0]).norm() > 1e-2
    assert list(params) == list(
        Network.of(made("resnet12", (1, 16, 16), 3, widths=(4, 4, 4))).names
    )


@pytest.mark.parametrize(
    ("options", "shape", "width"),
    [
        ({}, (3, 84, 84), 64 * 25),
        ({"filters": 32}, (3, 84, 84), 800),
        ({"filters": [64, 96, 128, 256], "slope": 0.2}, (3, 84, 84), 256 * 25),
        ({"num_pools": 3}, (3, 84, 84), 64 * 100),
        ({"num_pools": 2, "unpadded_blocks": 4}, (3, 84, 84), 64 * 15 * 15),
        ({"pool": "mean"}, (3, 84, 84), 64),
    ],
)  # fmt: skip
def test_variants_of_four_blocks(options: Any, shape: tuple[int, ...], width: int) -> None:
    network = made("conv4", shape, None, **options)
    assert network(numbers(2, *shape)).shape == (2, width)


def test_r2d2s_features_are_those_of_the_last_two_blocks() -> None:
    options = {"filters": [2, 3, 4, 5], "slope": 0.1, "dropout": 0.5}
    joined = made("conv4", (1, 16, 16), None, join_last_two=True, **options).eval()
    plain = made("conv4", (1, 16, 16), None, **options).eval()
    assert isinstance(plain, nn.Sequential)
    x = numbers(N, 1, 16, 16)
    third = plain[:3](x)
    expected = torch.cat([third.flatten(1), plain[3](third).flatten(1)], 1)
    assert expected.shape == (N, 4 * 4 + 5)
    torch.testing.assert_close(joined(x), expected, rtol=0, atol=0)
    rates = [m.p for m in joined.modules() if isinstance(m, nn.Dropout)]
    slopes = [m.negative_slope for m in joined.modules() if isinstance(m, nn.LeakyReLU)]
    assert (rates, slopes) == ([0.5, 0.5], [0.1] * 4)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("conv4", {"filters": [2, 3]}, r"model.filters must be one number or model.blocks=4"),
        ("conv4", {"filters": [2, 0, 2, 2]}, r"model.filters must be >= 1, got 0"),
        ("conv4", {"num_pools": 5}, r"model.num_pools must be <= model.blocks=4 or null, got 5"),
        ("conv4", {"dropout": 1.0}, r"model.dropout must be >= 0 and < 1, got 1.0"),
        ("conv4", {"join_last_two": True, "pool": "mean"}, r"model.join_last_two must be false"),
        ("resnet12", {"drop_rate": -0.1}, r"model.drop_rate must be >= 0"),
        ("resnet12", {"dropblock_size": 0}, r"model.dropblock_size must be >= 1"),
        ("vit", {"heads": 3}, r"model.width must be a multiple of model.heads=3, got 64"),
        ("vit", {"patch": 50}, r"model=vit must have images of at least 50 pixels"),
        ("resnet18", {"width": 0}, r"model.width must be >= 1, got 0"),
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(model: str, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(model, (3, 32, 32), **options)
