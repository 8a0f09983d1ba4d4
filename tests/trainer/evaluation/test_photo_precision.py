# SPDX-License-Identifier: Apache-2.0
"""Precision: which of a photo's strongest words its human captions use."""

import pytest
import torch
from tiny_parts import make_image
from wordy_models import compose

from modeling_langbridge import SharedVocabulary
from modeling_langbridge.reading.explaining import explain
from modeling_langbridge.reading.patch_words import name_words
from trainer.data.caption_words import CaptionWords
from trainer.evaluation.word_scores import count_right_words, find_used_words, photo_strengths


def test_words_of_any_caption_count_each_once():
    words = CaptionWords(SharedVocabulary([" dog", " cat", " the", "dog", " ball"]))
    used = find_used_words(words, [["The dog.", "a dog and a ball"], ["the grass"]])
    assert used.tolist() == [[True, False, False, False, True], [False] * 5]
    strengths = torch.tensor([[0.1, 0.5, 0.3, 0.0, 0.4], [1.0, 0.0, 0.0, 0.0, 0.0]])
    assert count_right_words(strengths, used, 1).tolist() == [0, 0]
    assert count_right_words(strengths, used, 2).tolist() == [1, 0]
    assert count_right_words(strengths, used, 4).tolist() == [2, 0]


@pytest.mark.parametrize("activation", ["linear", "gated_softmax"])
def test_photos_are_ranked_as_their_explanations_rank_them(vision, text, activation):
    model, processor = compose(vision, text, coefficient_activation=activation)
    images = [make_image("red"), make_image("blue")]
    strengths = photo_strengths(model.model, processor.image_processor, images)
    names = name_words(processor.tokenizer, model.model.get_word_ids())
    for image, strength in zip(images, strengths, strict=True):
        expected = [word for word, _ in explain(model, processor, image, top=3, num_layers=0).photo]
        assert [names[word] for word in strength.topk(6).indices] == expected
