"""Transforms of an inner update, one a file: the links of a chain (`dmeta.bilevel.chain`).

A setting names them: ``algorithm.inner_chain=[clip,momentum,rate]``. The options of each are its
fields. Looking up names imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dmeta.registry import LazyEntry, Registry

if TYPE_CHECKING:
    from dmeta.bilevel.chain import Transform

TRANSFORMS: Registry[Transform] = Registry(
    "transform",
    {
        "rate": LazyEntry(
            "dmeta.bilevel.transforms.rate:Rate",
            "times the inner learning rate, constant or meta-learned",
            "Finn et al. 2017, arXiv:1703.03400; Li et al. 2017, arXiv:1707.09835",
        ),
        "momentum": LazyEntry(
            "dmeta.bilevel.transforms.momentum:Momentum",
            "a decaying sum of the updates",
            "Polyak 1964; torch.optim.SGD",
        ),
        "clip": LazyEntry(
            "dmeta.bilevel.transforms.clip:Clip",
            "scaled down to a bound on the 2-norm over all tensors",
            "Pascanu et al. 2013, arXiv:1211.5063",
        ),
        "curvature": LazyEntry(
            "dmeta.bilevel.transforms.curvature:Curvature",
            "times meta-learned matrices along each mode of a tensor",
            "Park & Oliva 2019, arXiv:1902.03356",
        ),
        "lstm": LazyEntry(
            "dmeta.bilevel.transforms.lstm:InnerLSTM",
            "a meta-learned rule: an LSTM that says the update of every weight",
            "Andrychowicz et al. 2016, arXiv:1606.04474",
        ),
        "adam": LazyEntry(
            "dmeta.bilevel.transforms.adam:Adam",
            "a mean of the updates over the root of their mean square",
            "Kingma & Ba 2015, arXiv:1412.6980",
        ),
        "carried_adam": LazyEntry(
            "dmeta.bilevel.transforms.carried_adam:CarriedAdam",
            "over the root of a mean square that the tasks before have left (Reptile)",
            "Nichol et al. 2018, arXiv:1803.02999",
        ),
        "weight_decay": LazyEntry(
            "dmeta.bilevel.transforms.weight_decay:WeightDecay",
            "plus a multiple of the weights (L2 penalty, or decoupled)",
            "Loshchilov & Hutter 2019, arXiv:1711.05101",
        ),
        "nesterov": LazyEntry(
            "dmeta.bilevel.transforms.nesterov:Nesterov",
            "momentum, one step ahead",
            "Sutskever et al. 2013; torch.optim.SGD",
        ),
        "rmsprop": LazyEntry(
            "dmeta.bilevel.transforms.rmsprop:RMSprop",
            "over the root of a mean square",
            "Tieleman & Hinton 2012; torch.optim.RMSprop",
        ),
        "adadelta": LazyEntry(
            "dmeta.bilevel.transforms.adadelta:Adadelta",
            "in units of the weights, by past updates and gradients",
            "Zeiler 2012, arXiv:1212.5701",
        ),
        "sign": LazyEntry(
            "dmeta.bilevel.transforms.sign:Sign",
            "the sign alone",
            "Bernstein et al. 2018, arXiv:1802.04434",
        ),
    },
)
