# SPDX-License-Identifier: Apache-2.0
"""LangBridge's own adapter over a speech encoder, whose frames are handed over where pixels usually are."""

from pathlib import Path

from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
    SharedVocabulary,
)
from modeling_langbridge.adapter.placeholder import placeholder_language_model


Parts = tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]


def placeholder_tower(width: int) -> tuple[CLIPVisionModel, CLIPImageProcessorPil]:
    """A vision tower in name only: what LangBridge reads in its place are features of this width, computed before."""
    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=1, num_hidden_layers=0, num_attention_heads=1, image_size=2, patch_size=1
    )
    return CLIPVisionModel(config), CLIPImageProcessorPil(size={"height": 2, "width": 2}, do_center_crop=False)


def compose(width: int, vocabulary: SharedVocabulary, projector_hidden_size: int) -> Parts:
    """A LangBridge with a fresh adapter that reads features of a width, without a language model."""
    text, tokenizer = placeholder_language_model(vocabulary)
    tower, images = placeholder_tower(width)
    processor = LangBridgeProcessor.from_vision_text_pretrained(tower, text, images, tokenizer)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        tower,
        text,
        vocabulary,
        processor,
        coefficient_activation="gated_softmax",
        projector_hidden_size=projector_hidden_size,
    )
    return model, processor


def join(adapter: LangBridgeAdapter, language_model: Path) -> Parts:
    """The adapter with a language model that nothing is trained for."""
    tower, images = placeholder_tower(adapter.config.vision_feature_size)
    return adapter.join(tower, str(language_model), image_processor=images)
