# SPDX-License-Identifier: Apache-2.0
"""Models of random weights: LangBridges and LLaVAs of the same parts."""

import copy

import torch
from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration, PreTrainedModel
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

from modeling_langbridge import LangBridgeConfig, LangBridgeForConditionalGeneration
from modeling_langbridge.vocabulary_head import LangBridgeVocabularyHead

from .shapes import Shapes


class OriginalOrder(LangBridgeVocabularyHead):
    """The published code's order: coefficients of every token first, then their combination of embeddings."""

    def reassociation_pays(self, num_tokens: int, embedding_size: int) -> bool:
        return False


def make_langbridge(shapes: Shapes, **fields) -> LangBridgeForConditionalGeneration:
    """A LangBridge of these shapes."""
    fields = {"bridge_vocab_size": shapes.words, **fields}
    fields.setdefault("projector_hidden_size", shapes.times(shapes.projector_hidden_size))
    return LangBridgeForConditionalGeneration(LangBridgeConfig(**shapes.parts(), **fields))


def with_parts_of(model: PreTrainedModel, other: PreTrainedModel) -> PreTrainedModel:
    """The model with the tower and the language model of another, not copied."""
    model.model.vision_tower, model.model.language_model = other.model.vision_tower, other.model.language_model
    model.lm_head.weight = other.lm_head.weight
    return model


def make_llava(shapes: Shapes, parts_of: PreTrainedModel) -> LlavaForConditionalGeneration:
    """transformers' LLaVA, whose MLP is as wide as its language model, with another model's parts."""
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(LlavaConfig(**shapes.parts()))
    llava.model.multi_modal_projector = LlavaMultiModalProjector(llava.config)
    return with_parts_of(llava, parts_of)


def with_head(
    langbridge: LangBridgeForConditionalGeneration,
    head_class: type[LangBridgeVocabularyHead] = LangBridgeVocabularyHead,
    **fields,
) -> LangBridgeForConditionalGeneration:
    """The same parts and projector, and a vocabulary head of the same weights: of another class, or other fields."""
    config = copy.deepcopy(langbridge.config)
    config.update(fields)
    with torch.device("meta"):
        other = type(langbridge)(config)
    other.model.multi_modal_projector = langbridge.model.multi_modal_projector
    head = other.model.vocabulary_head = head_class(config)
    head.load_state_dict(langbridge.model.vocabulary_head.state_dict())
    return with_parts_of(other, langbridge)


def make_batch(
    shapes: Shapes, images: int, text_tokens: int = 64, image_tokens: int | None = None, device: str = "cpu"
) -> dict[str, torch.Tensor]:
    """Samples of one image and a text, of which the second half is the answer."""
    image_tokens = image_tokens or shapes.num_image_tokens
    image_token, side = shapes.parts()["image_token_index"], shapes.vision().image_size
    text = torch.randint(image_token, (images, text_tokens))  # (images, text tokens)
    input_ids = torch.cat([torch.full((images, image_tokens), image_token), text], dim=1)  # (images, sequence)
    labels = input_ids.clone()
    labels[:, : image_tokens + text_tokens // 2] = -100
    pixel_values = torch.randn(images, 3, side, side)
    batch = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}
    return {name: tensor.to(device) for name, tensor in {**batch, "pixel_values": pixel_values}.items()}


def freeze_but(model: nn.Module, *trained: str) -> None:
    """Freezes all parameters but those of modules of these names."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name.split(".") for part in trained))
