# SPDX-License-Identifier: Apache-2.0 (trf-ignore: TRF028)
"""PyTorch LangBridge-NeXT model: LangBridge over tiles of images of any resolution, as LLaVA-NeXT has them.

An image is seen as a whole, and again as tiles that lie side by side. Each row of patches over all tiles ends in a
newline. It is learned where the projector's output is, H wide, so that the vocabulary head makes it of words, too.
"""

import torch
from torch import nn
from transformers import LlavaNextForConditionalGeneration, LlavaNextModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults

from .configuration_langbridge_next import LangBridgeNextConfig
from .modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeModel, LangBridgePreTrainedModel
from .processing_langbridge_next import LangBridgeNextProcessor


@auto_docstring(custom_intro="The LangBridge-NeXT model without a language modeling head.")
class LangBridgeNextModel(LangBridgeModel, LlavaNextModel):
    config: LangBridgeNextConfig

    def __init__(self, config: LangBridgeNextConfig):
        super().__init__(config)
        width = config.projector_hidden_size if config.adapter_type == "langbridge" else config.text_config.hidden_size
        # CODEPATH: words of a whole image have no rows that could end.
        self.image_newline = nn.Parameter(torch.randn(width, dtype=self.dtype) / width**0.5) if config.words_per_image is None else None

    @merge_with_config_defaults
    @can_return_tuple
    @auto_docstring(custom_intro="Encodes images into visual tokens, by default made of the language model's words.")
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_sizes: torch.Tensor | None = None,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        pixel_values (`torch.Tensor` of shape `(images, tiles, channels, height, width)`):
            An overview and the tiles of each image, filled up to those of the image that has the most; or
            `(tiles, channels, height, width)`, one image after the other.
        image_sizes (`torch.Tensor` of shape `(images, 2)`):
            Height and width of each image as it was.
        """
        counts = [self.count_tiles(size, pixel_values.shape[-1]) for size in image_sizes]
        if pixel_values.dim() == 5:
            pixel_values = torch.cat([tiles[:count] for tiles, count in zip(pixel_values, counts, strict=True)])
        outputs = self.get_vision_features(
            pixel_values,
            vision_feature_layer=vision_feature_layer,
            vision_feature_select_strategy=vision_feature_select_strategy,
            **kwargs,
        )
        if self.image_newline is None:
            images = self.pack(self.multi_modal_projector(outputs.pooler_output).split(counts), image_sizes)
            embeddings = self.get_word_embeddings()
            outputs.pooler_output = [self.vocabulary_head(image[None], embeddings)[0] for image in images]
        else:
            newline = self.mix(self.image_newline[None])[0]  # (d,)
            outputs.pooler_output = self.pack(self.adapt(outputs.pooler_output).split(counts), image_sizes, newline)
        return outputs

    def pack(self, images, image_sizes, newline=None):
        packed, _ = self.pack_image_features(images, image_sizes, self.config.vision_feature_select_strategy, newline)
        return packed

    def count_tiles(self, image_size: torch.Tensor, tile_size: int) -> int:
        return image_size_to_num_patches(image_size, self.config.image_grid_pinpoints, tile_size)


@auto_docstring(
    custom_intro="The LangBridge-NeXT model: a vision tower that sees tiles, an adapter made of words and a language model."
)
class LangBridgeNextForConditionalGeneration(LangBridgeForConditionalGeneration, LlavaNextForConditionalGeneration):
    config: LangBridgeNextConfig
    model_class = LangBridgeNextModel
    processor_class = LangBridgeNextProcessor


__all__ = ["LangBridgeNextForConditionalGeneration", "LangBridgeNextModel"]
