# SPDX-License-Identifier: Apache-2.0
"""Words in their order by CTC: the gate is the blank, the loss sums over all paths, decoding merges."""

import itertools

import pytest
import torch

from experiments.ears.adapter import compose
from experiments.ears.ctc import IGNORED, HeardWord, ctc_loss, decode, log_probabilities
from modeling_langbridge import SharedVocabulary


VOCABULARY = SharedVocabulary([" dog", " runs", " the"])
BLANK = len(VOCABULARY)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return compose(6, VOCABULARY, projector_hidden_size=8)[0].model


def test_a_word_has_its_coefficient_as_probability_and_the_blank_the_rest(model):
    hidden_states = torch.randn(2, 5, 8)
    with torch.no_grad():
        probabilities = log_probabilities(model.vocabulary_head, hidden_states).exp()
        coefficients = model.vocabulary_head(hidden_states)  # what combines the language model's embeddings
    torch.testing.assert_close(probabilities[..., :BLANK], coefficients)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(2, 5))


def likelihood(probabilities: torch.Tensor, words: list[int]) -> float:
    """The probability of words, summed over every path of labels that is read as them."""
    paths = itertools.product(range(BLANK + 1), repeat=len(probabilities))
    return sum(
        torch.stack([row[label] for row, label in zip(probabilities, path, strict=True)]).prod().item()
        for path in paths
        if [heard.word for heard in decode(list(path), BLANK)] == words
    )


@pytest.mark.parametrize("words", [[0, 1], [1, 0], [2], [0, 0], []])
def test_the_loss_is_that_of_all_paths_that_are_decoded_as_the_words_in_their_order(words):
    log_probs = torch.randn(4, BLANK + 1, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    labels = torch.tensor([words + [IGNORED] * (3 - len(words)), [2, IGNORED, IGNORED]])
    padded = torch.stack([log_probs, log_probs])  # of the second row only the first step is real
    loss = ctc_loss(padded, torch.tensor([4, 1]), labels)
    expected = -torch.tensor(likelihood(log_probs.exp(), words)).log() - log_probs[0, 2]
    torch.testing.assert_close(loss, expected / (len(words) + 1))


def test_repeated_labels_are_one_word_unless_a_blank_parts_them():
    best = [BLANK, 0, 0, BLANK, 0, 1, 1, BLANK]
    assert decode(best, BLANK) == [HeardWord(0, 1, 3), HeardWord(0, 4, 5), HeardWord(1, 5, 7)]
    assert decode([0, 0], BLANK) == [HeardWord(0, 0, 2)]
    assert decode([BLANK], BLANK) == []


def test_more_words_than_time_steps_teach_nothing():
    log_probs = torch.zeros(1, 1, BLANK + 1).log_softmax(-1).requires_grad_()
    loss = ctc_loss(log_probs, torch.tensor([1]), torch.tensor([[0, 1]]))
    loss.backward()
    assert loss == 0 and not log_probs.grad.any()
