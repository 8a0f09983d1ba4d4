# SPDX-License-Identifier: Apache-2.0
"""The trained adapter, joined to a language model or to none: which words it hears, and when."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from experiments.ears.ctc import HeardWord, decode, log_probabilities
from experiments.ears.heard import cut_windows
from experiments.ears.world import EarsSizes
from modeling_langbridge import LangBridgeForConditionalGeneration


class Heard(NamedTuple):
    """What an adapter makes of one utterance."""

    words: list[HeardWord]
    hidden_states: torch.Tensor  # (steps, H), what the vocabulary head reads


@torch.no_grad()
def listen(model: LangBridgeForConditionalGeneration, sizes: EarsSizes, heard: Sequence[torch.Tensor]) -> list[Heard]:
    """The words of utterances, of the encoder's frames `(frames, d)` of each."""
    projector, head = model.model.multi_modal_projector, model.model.vocabulary_head
    found = []
    for frames in heard:
        hidden_states = projector(cut_windows(frames.float(), sizes.window, sizes.stride))  # (steps, H)
        log_probs = log_probabilities(head, hidden_states)  # (steps, V + 1)
        best = log_probs.argmax(-1).tolist()
        found.append(Heard(decode(best, blank=log_probs.shape[-1] - 1), hidden_states))
    return found
