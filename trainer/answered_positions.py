# SPDX-License-Identifier: Apache-2.0
"""The loss of answered positions alone, also where there is no Triton.

TRL's fused output layer scores the positions that have a label where Triton compiles its kernels, on a GPU. Elsewhere
it scores all, and masks the rest: of an image and a caption nine in ten.
"""

from typing import Any

import torch
from torch import nn
from transformers.modeling_outputs import ModelOutput


class AnsweredPositions:
    """
    Lets the output layer see only the positions whose next token is a target.

    Args:
        model (`nn.Module`): what gives the output layer its hidden states, `last_hidden_state` `(batch, tokens, d)`.
    """

    def __init__(self, model: nn.Module):
        self.answered: torch.Tensor | None = None
        model.register_forward_hook(self._pick)

    def narrow(self, inputs: dict[str, Any]) -> None:
        """Puts `shift_labels` `(1, targets)` where `labels` `(batch, tokens)` stood, for the next forward pass."""
        labels = inputs.pop("labels")[:, 1:]  # (batch, tokens - 1)
        answered = labels != -100
        if not answered.any():
            answered[0, 0] = True  # keeps the loss connected to the model, as a zero
        self.answered = answered
        inputs["shift_labels"] = labels[answered][None]  # (1, targets)

    def _pick(self, model: nn.Module, inputs: tuple, outputs: ModelOutput) -> None:
        answered, self.answered = self.answered, None
        if answered is not None:
            outputs.last_hidden_state = outputs.last_hidden_state[:, :-1][answered][None]  # (1, targets, d)
