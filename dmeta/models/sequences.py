"""What networks of sequences share: their inputs, padding, and the mean over positions.

A sequence is a series of numbers, [L, C] or [L] (of one channel), or, with ``num_tokens``, of
whole-number token ids, [L]. Positions with the id ``padding_id`` are not
there: no other position sees them.

Letters: N examples, L positions, C channels, D dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmeta.models.sizes import check_sizes


class SequenceInput(nn.Module):
    """Maps ids to vectors, or leaves numbers as they are: -> [N, L, D] and the padding.

    Args:
        input_shape: of one sequence.
        num_tokens: number of token ids; None: series of numbers.
        padding_id: id of padding; None: there is none.
        width: D, of the vectors of ids.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_tokens: int | None,
        padding_id: int | None,
        width: int,
    ) -> None:
        super().__init__()
        self.padding_id = padding_id
        self.channels = input_shape[-1] if len(input_shape) == 2 else 1
        self.embedding: nn.Embedding | None = None
        if num_tokens is not None:
            self.embedding = nn.Embedding(num_tokens, width)
            self.channels = width

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """[N, L] ids, [N, L, C] or [N, L] numbers -> [N, L, D]; padding [N, L] bool or None.

        Raises:
            ValueError: numbers where token ids are expected, or the other way round.
        """
        if self.embedding is None:
            if not x.is_floating_point():
                raise ValueError(
                    "model.num_tokens must be given for sequences of token ids, got null; set it "
                    "to the number of ids"
                )
            return (x if x.dim() == 3 else x[:, :, None]), None
        if x.is_floating_point():
            raise ValueError(
                "model.num_tokens must be null for series of numbers, got "
                f"{self.embedding.num_embeddings}; remove it"
            )
        padding = None if self.padding_id is None else x == self.padding_id
        return self.embedding(x), padding


def mean_over_positions(x: Tensor, padding: Tensor | None) -> Tensor:
    """[N, L, D] -> [N, D], padding left out; 0 where there is nothing else."""
    if padding is None:
        return x.mean(1)
    there = (~padding).to(x.dtype)[:, :, None]
    return (x * there).sum(1) / there.sum(1).clamp(min=1)


def last_position(x: Tensor, padding: Tensor | None) -> Tensor:
    """[N, L, D] -> [N, D]: the last position that is no padding."""
    if padding is None:
        return x[:, -1]
    places = torch.arange(1, x.shape[1] + 1, device=x.device)
    last = ((~padding) * places).amax(1)[:, None]  # 0 where all is padding: then nothing
    return (x * (last == places).to(x.dtype)[:, :, None]).sum(1)


def check_sequence(
    model: str, input_shape: tuple[int, ...], num_tokens: int | None, padding_id: int | None
) -> None:
    """Raises ValueError if the inputs are no sequences, or the settings of ids do not fit.

    Args:
        model: its name.
        input_shape: of one input.
        num_tokens: see `SequenceInput`.
        padding_id: likewise.
    """
    longest = 2 if num_tokens is None else 1
    if not 1 <= len(input_shape) <= longest:
        wanted = "[length, channels] or [length]" if num_tokens is None else "[length] of token ids"
        raise ValueError(
            f"model={model} must have sequences {wanted}, got inputs of shape {input_shape}; "
            "choose another model"
        )
    if num_tokens is not None:
        check_sizes(num_tokens=(num_tokens, 1))
    if padding_id is not None and not (num_tokens is not None and 0 <= padding_id < num_tokens):
        raise ValueError(
            "model.padding_id must be one of the token ids 0 to model.num_tokens - 1 or null, got "
            f"{padding_id} with num_tokens={num_tokens}; change it"
        )
