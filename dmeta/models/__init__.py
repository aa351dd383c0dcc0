"""Networks: plain `nn.Module`s, one factory per file, used as functions through `Network`.

They know no task, no algorithm and no runtime. A factory is called as
``make(input_shape, num_outputs, **options)``. Looking up names imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmeta.registry import LazyEntry, Registry

if TYPE_CHECKING:
    from torch import nn

MODELS: Registry[nn.Module] = Registry(
    "model",
    {
        "mlp": LazyEntry(
            "dmeta.models.mlp:mlp",
            "ReLU layers; 1-40-40-1 for the sinusoid",
            "Finn et al. 2017, section 5.1",
        ),
        "seasonal_mlp": LazyEntry(
            "dmeta.models.seasonal_mlp:seasonal_mlp",
            "for forecasts: ReLU layers that correct the seasonal naive forecast",
            "dmeta; normalisation: Kim et al. 2022 (RevIN)",
        ),
        "conv4": LazyEntry(
            "dmeta.models.conv4:conv4",
            "four blocks of 3x3 convolution, batch-norm, 2x2 max-pool, ReLU",
            "Vinyals et al. 2016, arXiv:1606.04080; variants: see its settings",
        ),
        "conv4_strided": LazyEntry(
            "dmeta.models.conv4:conv4_strided",
            "four blocks of strided 3x3 convolution, batch-norm, ReLU; mean over pixels",
            "Finn et al. 2017, section 5.2",
        ),
        "resnet12": LazyEntry(
            "dmeta.models.resnet12:resnet12",
            "four residual blocks of three 3x3 convolutions, batch-norm, LeakyReLU, max-pool",
            "Oreshkin et al. 2018, arXiv:1805.10123; Lee et al. 2019, arXiv:1904.03758",
        ),
        "resnet10": LazyEntry(
            "dmeta.models.resnet:resnet10",
            "four residual blocks of two 3x3 convolutions",
            "He et al. 2016, arXiv:1512.03385; Chen et al. 2019, arXiv:1904.04232",
        ),
        "resnet18": LazyEntry(
            "dmeta.models.resnet:resnet18",
            "eight residual blocks of two 3x3 convolutions",
            "He et al. 2016, arXiv:1512.03385; Chen et al. 2019, arXiv:1904.04232",
        ),
        "wide_resnet": LazyEntry(
            "dmeta.models.wide_resnet:wide_resnet",
            "WRN-28-10, or of another depth and width",
            "Zagoruyko & Komodakis 2016, arXiv:1605.07146",
        ),
        "vit": LazyEntry(
            "dmeta.models.vit:vit",
            "a small vision transformer",
            "Dosovitskiy et al. 2021, arXiv:2010.11929",
        ),
        "lstm": LazyEntry(
            "dmeta.models.recurrent:lstm",
            "LSTM on series of numbers or token ids",
            "Hochreiter & Schmidhuber 1997, doi:10.1162/neco.1997.9.8.1735",
        ),
        "gru": LazyEntry(
            "dmeta.models.recurrent:gru",
            "GRU on series of numbers or token ids",
            "Cho et al. 2014, arXiv:1406.1078",
        ),
        "transformer": LazyEntry(
            "dmeta.models.transformer:transformer",
            "transformer encoder on series of numbers or token ids",
            "Vaswani et al. 2017, arXiv:1706.03762",
        ),
        "torchvision": LazyEntry(
            "dmeta.models.torchvision_models:torchvision",
            "any classifier of torchvision, by model.arch",
            "torchvision, https://docs.pytorch.org/vision/stable/models.html",
        ),
    },
)
