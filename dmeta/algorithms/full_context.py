"""Full context embeddings: embeddings that depend on the whole support set.

Vinyals et al. 2016 (arXiv:1606.04080), section 2.1.2 and appendix A. Of embeddings f' [D]:

    g(x_i) = f'(x_i) + forward_i + backward_i     outputs of two LSTMs, one in each direction

    r_k = sum_i softmax_i(h_k . g(x_i)) g(x_i),   h_0 = f'(x),   c_0 = 0
    h, c_{k+1} = LSTM([f'(x), r_k], (h_k, c_k)),   h_{k+1} = h + f'(x)

Elementary operations alone, so that it can be mapped over tasks and differentiated twice. Knows no
network.

Letters: S support examples, N examples to predict, D dimensions of the embedding.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from dmeta.bilevel.transforms.lstm import LayerState, gated
from dmeta.bilevel.types import Params

FORWARD, BACKWARD, QUERY = "matching/forward/", "matching/backward/", "matching/query/"
"""Prefixes of the weights' names; rows of ``inputs``, ``recurrent`` and ``bias`` as in torch."""


def init_lstms(num_features: int, seed: int, like: Tensor) -> dict[str, Tensor]:
    """Weights as torch draws them: uniform up to 1 / sqrt(D).

    Args:
        num_features: D.
        seed: of the draw.
        like: has their dtype.
    """
    generator = torch.Generator().manual_seed(seed)
    bound = 1 / math.sqrt(num_features)
    weights = {}
    for lstm, num_inputs in ((FORWARD, 1), (BACKWARD, 1), (QUERY, 2)):
        shapes = {
            "inputs": (4 * num_features, num_inputs * num_features),
            "recurrent": (4 * num_features, num_features),
            "bias": (4 * num_features,),
        }
        for part, shape in shapes.items():
            drawn = torch.empty(shape).uniform_(-bound, bound, generator=generator)
            weights[lstm + part] = drawn.to(like)
    return weights


def embed_support(weights: Params, embedded: Tensor) -> Tensor:
    """g: the embeddings f' [S, D] of the support set, in the order in which they are read."""
    forward = _outputs(weights, FORWARD, embedded)
    backward = _outputs(weights, BACKWARD, embedded.flip(0)).flip(0)
    return embedded + forward + backward


def embed_queries(weights: Params, embedded: Tensor, context: Tensor, steps: int) -> Tensor:
    """H after so many steps: the embeddings f' [N, D], and g [S, D] of the support set."""
    of_embedded, of_read = weights[QUERY + "inputs"].chunk(2, dim=1)
    constant = F.linear(embedded, of_embedded, weights[QUERY + "bias"])
    output, cell = embedded, torch.zeros_like(embedded)
    for _ in range(steps):
        read = (output @ context.T).softmax(1) @ context
        output, cell = _step(weights, QUERY, constant + F.linear(read, of_read), (output, cell))
        output = output + embedded
    return output


def _outputs(weights: Params, lstm: str, rows: Tensor) -> Tensor:
    """Outputs [S, D] of an LSTM that reads rows [S, D] from the first to the last."""
    inputs = F.linear(rows, weights[lstm + "inputs"], weights[lstm + "bias"])
    state = torch.zeros_like(rows[:1]), torch.zeros_like(rows[:1])
    outputs = []
    for row in torch.split(inputs, 1):
        state = _step(weights, lstm, row, state)
        outputs.append(state[0])
    return torch.cat(outputs)


def _step(weights: Params, lstm: str, inputs: Tensor, state: LayerState) -> LayerState:
    output, cell = state
    gates = inputs + F.linear(output, weights[lstm + "recurrent"])
    return gated(gates.chunk(4, dim=-1), cell)
