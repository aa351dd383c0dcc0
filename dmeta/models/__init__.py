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
        "conv4": LazyEntry(
            "dmeta.models.conv4:conv4",
            "four blocks of 3x3 convolution, batch-norm, 2x2 max-pool, ReLU",
            "Vinyals et al. 2016, arXiv:1606.04080",
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
    },
)
