# SPDX-License-Identifier: Apache-2.0
"""Tiny random LangBridges for reading: each patch says something else, and what they write is made of words."""

import torch

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor, SharedVocabulary


def compose(vision, text, image_processor=None, words_per_image=None, **fields):
    processor = LangBridgeProcessor.from_vision_text_pretrained(
        vision, text, image_processor=image_processor, words_per_image=words_per_image
    )
    tokens = processor.tokenizer.get_vocab()
    whole_words = [f" {word.removeprefix('Ġ')}" for word in sorted(tokens) if word.startswith("Ġ") and len(word) > 3]
    vocabulary = SharedVocabulary(whole_words)
    torch.manual_seed(0)
    fields = {"projector_hidden_size": 40, **fields}
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, vocabulary, processor, **fields
    )
    if model.config.adapter_type == "langbridge":
        for weight in (model.model.vocabulary_head.weight, model.model.vocabulary_head.gate_weight):
            if weight is not None:
                torch.nn.init.normal_(weight, std=20)
    writable = set(vocabulary.token_ids(processor.tokenizer))
    model.generation_config.suppress_tokens = sorted(set(range(model.config.text_config.vocab_size)) - writable)
    return model, processor
