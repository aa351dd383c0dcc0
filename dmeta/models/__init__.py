"""Networks: plain `nn.Module`s, one factory per file, used as functions through `Network`.

They know no task, no algorithm and no runtime. A factory is called as
``make(input_shape, num_outputs, **options)``.
"""

from torch import nn

from dmeta.models.conv4 import conv4, conv4_strided
from dmeta.models.mlp import mlp
from dmeta.models.resnet12 import resnet12
from dmeta.registry import Entry, Registry

MODELS: Registry[nn.Module] = Registry(
    "model",
    {
        "mlp": Entry(
            mlp, "ReLU layers; 1-40-40-1 for the sinusoid", "Finn et al. 2017, section 5.1"
        ),
        "conv4": Entry(
            conv4,
            "four blocks of 3x3 convolution, batch-norm, 2x2 max-pool, ReLU",
            "Vinyals et al. 2016, arXiv:1606.04080",
        ),
        "conv4_strided": Entry(
            conv4_strided,
            "four blocks of strided 3x3 convolution, batch-norm, ReLU; mean over pixels",
            "Finn et al. 2017, section 5.2",
        ),
        "resnet12": Entry(
            resnet12,
            "four residual blocks of three 3x3 convolutions, batch-norm, LeakyReLU, max-pool",
            "Oreshkin et al. 2018, arXiv:1805.10123; Lee et al. 2019, arXiv:1904.03758",
        ),
    },
)
