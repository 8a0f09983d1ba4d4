# SPDX-License-Identifier: Apache-2.0
"""
Words in their order, learnt without knowing when each is said: connectionist temporal classification.

A gated softmax is all that CTC needs. The gate g of a time step says whether a word is said in it at all, the softmax
which one: a word has the probability g p(word), and the blank has what is left, 1 - g. What the adapter hands to a
language model, g p E, is then the mean embedding of what is said at the step, where a blank is nothing.

Source: Graves et al., "Connectionist Temporal Classification", ICML 2006, sections 3 (loss) and 3.2 (best path).
"""

from typing import NamedTuple

import torch
from torch.nn import functional as F

from modeling_langbridge.vocabulary_head import LangBridgeVocabularyHead


IGNORED = -100  # behind the last word of a row of labels, as in transformers


def log_probabilities(head: LangBridgeVocabularyHead, hidden_states: torch.Tensor) -> torch.Tensor:
    """
    Of projected time steps `(..., H)` the log-probabilities of the words and, in the last place, the blank,
    `(..., V + 1)` in float32.
    """
    gate = F.linear(hidden_states, head.gate_weight, head.gate_bias).float()  # (..., 1)
    words = head.make_logits()(hidden_states).log_softmax(-1)  # (..., V)
    return torch.cat([words + F.logsigmoid(gate), F.logsigmoid(-gate)], dim=-1)  # (..., V + 1)


def ctc_loss(log_probs: torch.Tensor, steps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """
    The mean negative log-likelihood of the words, in nats a word.

    Args:
        log_probs (`torch.Tensor` of shape `(rows, steps, V + 1)`): Of [`log_probabilities`].
        steps (`torch.Tensor` of shape `(rows,)`): How many of the time steps are real.
        labels (`torch.Tensor` of shape `(rows, words)`): The words in their order, and -100 behind them.
    """
    said = labels != IGNORED
    losses = F.ctc_loss(
        log_probs.transpose(0, 1),
        labels[said],
        steps,
        said.sum(1),
        blank=log_probs.shape[-1] - 1,
        reduction="sum",
        zero_infinity=True,  # a sentence with more words than time steps teaches nothing
    )
    return losses / said.sum()


class HeardWord(NamedTuple):
    """A word of the best path, and the time steps from its first to behind its last."""

    word: int
    start: int
    stop: int


def decode(best: list[int], blank: int) -> list[HeardWord]:
    """The words of the likeliest label of each time step: repeated labels are one word, blanks none."""
    heard: list[HeardWord] = []
    for step, label in enumerate(best):
        if label == blank:
            continue
        if step and best[step - 1] == label:
            heard[-1] = heard[-1]._replace(stop=step + 1)
        else:
            heard.append(HeardWord(label, step, step + 1))
    return heard
