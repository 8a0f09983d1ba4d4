# SPDX-License-Identifier: Apache-2.0
"""Random models of the paper's shapes, whole or smaller in proportion: LangBridges and LLaVAs of the same parts."""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import (
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedModel,
    Qwen2Config,
)

from modeling_langbridge import LangBridgeConfig, LangBridgeForConditionalGeneration
from modeling_langbridge.vocabulary_head import LangBridgeVocabularyHead


@dataclass
class Shapes:
    """CLIP-L/336 and Qwen2 0.5B under the paper's adapter, all widths times `scale`; numbers of layers stay."""

    scale: float = 1.0
    image_size: int = 336
    layers: int = 24
    words: int = 19200
    projector_hidden_size: int = 5120
    vocabulary: int = 151_936

    def times(self, width: int) -> int:
        return round(width * self.scale)

    @property
    def num_image_tokens(self) -> int:
        return (self.image_size // 14) ** 2

    def parts(self) -> dict:
        """The configurations of tower and language model, and the image token's id."""
        vision = CLIPVisionConfig(
            hidden_size=self.times(1024),
            intermediate_size=self.times(4096),
            num_attention_heads=16,
            num_hidden_layers=self.layers,
            image_size=self.image_size,
            patch_size=14,
        )
        text = Qwen2Config(
            hidden_size=self.times(896),
            intermediate_size=self.times(4864),
            num_attention_heads=14,
            num_key_value_heads=2,
            num_hidden_layers=self.layers,
            vocab_size=self.times(self.vocabulary),
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
        )
        return {"vision_config": vision, "text_config": text, "image_token_index": text.vocab_size - 1}


class OriginalOrder(LangBridgeVocabularyHead):
    """The published code's order: coefficients of every token first, then their combination of embeddings."""

    def reassociation_pays(self, num_tokens: int, embedding_size: int) -> bool:
        return False


def make_langbridge(shapes: Shapes, **fields) -> LangBridgeForConditionalGeneration:
    """A LangBridge of these shapes."""
    fields = {"bridge_vocab_size": shapes.times(shapes.words), **fields}
    fields.setdefault("projector_hidden_size", shapes.times(shapes.projector_hidden_size))
    return LangBridgeForConditionalGeneration(LangBridgeConfig(**shapes.parts(), **fields))


def with_parts_of(model: PreTrainedModel, other: PreTrainedModel) -> PreTrainedModel:
    """The model with the tower and the language model of another, not copied."""
    model.model.vision_tower, model.model.language_model = other.model.vision_tower, other.model.language_model
    model.lm_head.weight = other.lm_head.weight
    return model


def make_llava(shapes: Shapes, parts_of: PreTrainedModel) -> LlavaForConditionalGeneration:
    """transformers' LLaVA, whose MLP is as wide as its language model, with another model's parts."""
    return with_parts_of(LlavaForConditionalGeneration(LlavaConfig(**shapes.parts())), parts_of)


def in_original_order(langbridge: LangBridgeForConditionalGeneration) -> LangBridgeForConditionalGeneration:
    """The same adapter, computed as the published code does."""
    with torch.device("meta"):
        other = type(langbridge)(langbridge.config)
    with_parts_of(other, langbridge)
    other.model.multi_modal_projector = langbridge.model.multi_modal_projector
    head = other.model.vocabulary_head = OriginalOrder(langbridge.config)
    head.load_state_dict(langbridge.model.vocabulary_head.state_dict())
    return other


def make_batch(shapes: Shapes, images: int, text_tokens: int = 64, device: str = "cpu") -> dict[str, torch.Tensor]:
    """Samples of one image and a text, of which the second half is the answer."""
    image_token, num_image_tokens = shapes.parts()["image_token_index"], shapes.num_image_tokens
    text = torch.randint(image_token, (images, text_tokens))  # (images, text tokens)
    input_ids = torch.cat([torch.full((images, num_image_tokens), image_token), text], dim=1)  # (images, sequence)
    labels = input_ids.clone()
    labels[:, : num_image_tokens + text_tokens // 2] = -100
    pixel_values = torch.randn(images, 3, shapes.image_size, shapes.image_size)
    batch = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids), "labels": labels}
    return {name: tensor.to(device) for name, tensor in {**batch, "pixel_values": pixel_values}.items()}


def freeze_but(model: nn.Module, *trained: str) -> None:
    """Freezes all parameters but those of modules of these names."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name.split(".") for part in trained))
