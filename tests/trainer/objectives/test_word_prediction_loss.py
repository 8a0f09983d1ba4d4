# SPDX-License-Identifier: Apache-2.0
"""Word prediction: captions' words found, weighed and predicted by pooled coefficients."""

import pytest
import torch

from modeling_langbridge import SharedVocabulary
from trainer.data.caption_words import CaptionWords
from trainer.objectives.word_prediction import word_prediction_loss, word_targets, word_weights


WORDS = CaptionWords(
    SharedVocabulary([" dog", ".", "dog", " Dog", " cat", " run", "ning", " red", " 5", " über", " the"])
)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("the dog", {0}),  # not what says nothing of a picture
        ("Dog runs. Cat. DOG!", {0, 4}),  # in any case, and each once
        ("dogs running in red5", set()),  # no parts of words, which also have other meanings
        ("über-dog", {0, 9}),
        ("", set()),
    ],
)
def test_a_captions_words_are_found_whole_and_in_any_case(caption, expected):
    found = WORDS.find(caption)
    assert set(found) == expected and len(found) == len(expected)


def test_frequent_words_weigh_less_and_unused_ones_nothing():
    counts = WORDS.count(["cat dog", "cat red dog", "cat dog", "cat the"])
    assert counts.tolist() == [3, 0, 0, 0, 4, 0, 0, 1, 0, 0, 0]
    weights = word_weights(counts, power=0.5)
    assert weights[[0, 4, 7]].tolist() == pytest.approx([3**-0.5, 0.5, 1.0])
    assert weights.count_nonzero() == 3
    assert word_weights(counts, power=0.0)[[0, 4, 7]].tolist() == [1, 1, 1]


def test_targets_are_the_captions_words_by_their_weights():
    weights = torch.tensor([3.0, 1.0, 0.0, 2.0])
    targets = word_targets([[0, 1], [3], [], [2], [0, 1, 1]], weights)
    expected = [[0.75, 0.25, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0], [0.6, 0.4, 0, 0]]
    torch.testing.assert_close(targets, torch.tensor(expected))


def test_the_loss_is_the_cross_entropy_of_images_whose_caption_has_a_word():
    pooled = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [1.0, 0.0, 0.0]])
    targets = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    expected = -(0.5 * torch.tensor(0.5).log() + 0.5 * torch.tensor(0.25).log())
    torch.testing.assert_close(word_prediction_loss(pooled, targets), expected)


def test_nothing_to_predict_and_certain_mistakes_give_finite_losses_and_gradients():
    pooled = torch.tensor([[1.0, 0.0]], requires_grad=True)
    nothing = word_prediction_loss(pooled, torch.zeros(1, 2))
    assert nothing == 0
    wrong = word_prediction_loss(pooled, torch.tensor([[0.0, 1.0]]))
    (nothing + wrong).backward()
    assert wrong.isfinite() and pooled.grad.isfinite().all()
