# SPDX-License-Identifier: Apache-2.0
"""The embeddings of the shared words are gathered once where the language model stays as it is."""

import pytest
import torch


@pytest.fixture
def frozen(model):
    model.get_input_embeddings().requires_grad_(False)
    return model.train()


def gather(model) -> torch.Tensor:
    return model.get_input_embeddings().weight[100:160].clone()


def test_steps_with_a_frozen_language_model_share_them(frozen):
    assert frozen.model.get_word_embeddings() is frozen.model.get_word_embeddings()


def test_steps_that_train_it_gather_them_anew(model):
    model.train()
    assert model.model.get_word_embeddings() is not model.model.get_word_embeddings()
    model.get_input_embeddings().weight.data.mul_(2)  # as some optimizers step
    assert model.model.get_word_embeddings().equal(gather(model))


def test_a_change_of_the_embedding_is_seen_at_once(frozen):
    frozen.model.get_word_embeddings()
    with torch.no_grad():
        frozen.get_input_embeddings().weight[107] += 1
    assert frozen.model.get_word_embeddings().equal(gather(frozen))


def test_other_words_are_seen_at_once(frozen):
    frozen.model.get_word_embeddings()
    frozen.model.vocabulary_head.token_ids.add_(1)
    assert frozen.model.get_word_embeddings().equal(frozen.get_input_embeddings().weight[101:161])


def test_what_a_caller_does_to_them_does_not_reach_the_next(frozen):
    frozen.model.get_word_embeddings().mul_(5)
    assert frozen.model.get_word_embeddings().equal(gather(frozen))


def test_words_gathered_in_inference_mode_serve_training_after(frozen):
    with torch.inference_mode():
        frozen.model.get_word_embeddings()
    features = torch.randn(1, 4, 24)
    frozen.model.adapt(features).sum().backward()
    assert frozen.model.vocabulary_head.weight.grad.abs().sum() > 0
