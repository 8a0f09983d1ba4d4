# SPDX-License-Identifier: Apache-2.0
"""
Answers that name what the adapter sees: the words of the images become likelier, each until it is written.

A language model passes over words that stand before its answer, the more so where it has never read lists of words. As
the words are its own, their logits can be raised instead. Words that are found in an image also steer the captions of
Fang et al., "From captions to visual concepts and back", arXiv 1411.4952, where a language model is trained for that.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import BatchFeature, LogitsProcessor, LogitsProcessorList, PreTrainedModel, ProcessorMixin

from modeling_langbridge import LangBridgeConfig, LangBridgeNextConfig

from ..data.feature_cache import FeatureCache
from .word_scores import gives_distributions, pool_photos


WORDS = 8  # of an image, where the model does not say how many it reads


class WordBiasLogitsProcessor(LogitsProcessor):
    """
    Adds a bias to the logits of words that are not written yet.

    Args:
        words (`Sequence[Sequence[int]]`):
            The first token of each word, for each row of the batch. With beams they are those of each of its beams.
        word_bias (`float`):
            What is added, in nats: 2 makes a word 7.4 times as likely, beside what is not named.
        prompt_length (`int`, *optional*, defaults to 0):
            The tokens that `generate` was given, whose words do not count as written; 0 with `inputs_embeds` alone.
    """

    def __init__(self, words: Sequence[Sequence[int]], word_bias: float, prompt_length: int = 0):
        self.words, self.word_bias, self.prompt_length = words, word_bias, prompt_length

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        beams = len(scores) // len(self.words)
        written = input_ids[:, self.prompt_length :].tolist()
        bias = torch.zeros_like(scores)  # (batch * beams, vocabulary)
        for row, ids in enumerate(written):
            bias[row, list(set(self.words[row // beams]) - set(ids))] = self.word_bias
        return scores + bias


def bias_words(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    conversations: Sequence[Sequence[dict[str, Any]]],
    inputs: BatchFeature,
    word_bias: float,
) -> dict[str, Any]:
    """
    Arguments of `generate` that make the words of the images that are asked about likelier in the answer.

    Args:
        model ([`LangBridgeForConditionalGeneration`]): Whose `generate` takes them, with readable words.
        processor ([`ProcessorMixin`]): The model's.
        conversations (`Sequence`): Of each the turns; the last one with images, each under `image`, is asked about.
        inputs ([`BatchFeature`]): What [`prepare_conversations`] made of them.
        word_bias (`float`): As of [`WordBiasLogitsProcessor`].

    Raises:
        `ValueError`: the adapter is not made of words, or its coefficients are raw, which cannot be read as words.
    """
    require_readable_words(model)
    asked_about = [images_asked_about(turns) for turns in conversations]
    images = [image for of_conversation in asked_about for image in of_conversation]
    found = iter(first_tokens_of_words(model, processor, images))
    words = [[token for _ in of_conversation for token in next(found)] for of_conversation in asked_about]
    bias = WordBiasLogitsProcessor(words, word_bias, prompt_length=inputs["input_ids"].shape[1])
    return {"logits_processor": LogitsProcessorList([bias])}


def require_readable_words(model: PreTrainedModel) -> None:
    """Raises `ValueError` where a model's coefficients are not distributions over words."""
    if model.config.model_type not in (LangBridgeConfig.model_type, LangBridgeNextConfig.model_type):
        raise ValueError(f"`word_bias` reads a LangBridge's words, not {model.config.model_type}: leave it out.")
    model.config.require_words("`word_bias`")
    if not gives_distributions(model.config):
        raise ValueError(
            "`word_bias` needs words that can be read, but this adapter's coefficients are raw "
            "(`coefficient_activation` linear): use an adapter of scripts/ground.py."
        )


def images_asked_about(conversation: Sequence[dict[str, Any]]) -> list[Any]:
    """The images of the last turn that has any; those of examples before it are not asked about."""
    for turn in reversed(conversation):
        content = [] if isinstance(turn["content"], str) else turn["content"]
        if images := [piece["image"] for piece in content if piece["type"] == "image"]:
            return images
    return []


def first_tokens_of_words(
    model: PreTrainedModel, processor: ProcessorMixin, images: Sequence[Any], features: FeatureCache | None = None
) -> list[list[int]]:
    """
    Of each image the first tokens of its strongest words, of as many as the model reads.

    Args:
        model, processor: As of [`bias_words`].
        images, features: As of [`~word_scores.pool_photos`].
    """
    if not images:
        return []
    ids = model.model.get_word_ids()
    number = min(model.config.words_per_image or WORDS, len(ids))
    strengths = pool_photos(model.model, processor.image_processor, images, features)  # (images, V)
    return [[ids[word][0] for word in words] for words in strengths.topk(number).indices.tolist()]
