# SPDX-License-Identifier: Apache-2.0 (trf-ignore: TRF028)
"""PyTorch LangBridge-NeXT model: LangBridge on images of any resolution, as LLaVA-NeXT reads them.

An image is seen as a whole, the overview, and again as tiles that lie side by side. Each row of patches across the
tiles ends in a newline. It is learned where the projector's output is, H wide, so that it, too, is made of words.
"""

import math

import torch
from torch import nn
from transformers import LlavaNextForConditionalGeneration, LlavaNextModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava_next.modeling_llava_next import (
    get_anyres_image_grid_shape,
    image_size_to_num_patches,
    unpad_image,
)
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring
from transformers.utils.generic import can_return_tuple

from .configuration_langbridge_next import LangBridgeNextConfig
from .modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeModel
from .processing_langbridge_next import LangBridgeNextProcessor


@auto_docstring(custom_intro="The LangBridge-NeXT model without a language modeling head.")
class LangBridgeNextModel(LangBridgeModel, LlavaNextModel):
    config: LangBridgeNextConfig

    def __init__(self, config: LangBridgeNextConfig):
        super().__init__(config)
        newline = torch.randn(self.multi_modal_projector.width, dtype=self.dtype)
        newline *= config.text_config.hidden_size**-0.5  # LLaVA-NeXT's
        # CODEPATH: words of a whole image, `words_per_image`, have no rows that could end.
        has_rows = self.vocabulary_head is None or config.words_per_image is None
        self.image_newline = nn.Parameter(newline) if has_rows else None

    @can_return_tuple
    @auto_docstring(custom_intro="Encodes images into visual tokens, by default made of the language model's words.")
    def get_image_features(
        self,
        pixel_values: torch.Tensor,
        image_sizes: torch.Tensor,
        vision_feature_layer: int | list[int] | None = None,
        vision_feature_select_strategy: str | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple | BaseModelOutputWithPooling:
        r"""
        pixel_values (`torch.Tensor` of shape `(images, tiles, channels, height, width)`):
            The overview and the tiles of each image, filled up to the number of the image that has the most.
        image_sizes (`torch.Tensor` of shape `(images, 2)`):
            Height and width that each image had.
        """
        tiles = self.split_into_tiles(pixel_values, image_sizes)  # (tiles, channels, height, width)
        no_images = len(tiles) == 0  # see LangBridgeModel.get_image_features
        outputs = self.get_vision_features(
            tiles.new_zeros(1, *tiles.shape[1:]) if no_images else tiles,
            vision_feature_layer=vision_feature_layer,
            vision_feature_select_strategy=vision_feature_select_strategy,
            **kwargs,
        )
        features, side = outputs.pooler_output, tiles.shape[-1]  # (tiles, patches, d_v)
        if self.image_newline is None:
            hidden_states = self.multi_modal_projector(features)  # (tiles, patches, H)
            images = [hidden_states[0]] if no_images else self.pack(hidden_states, image_sizes, side)
            embeddings = self.get_word_embeddings()
            images = [self.vocabulary_head(image[None], embeddings)[0] for image in images]  # images x (words, d)
        else:
            newline = self.mix(self.image_newline[None])[0]  # (d,)
            patches = self.adapt(features)  # (tiles, patches, d)
            if no_images:
                images = [torch.cat([patches[0], newline[None]])]  # both, so that gradients reach them
            else:
                images = self.pack(patches, image_sizes, side, newline)
        outputs.pooler_output = [images[0][:0]] if no_images else images  # images x (tokens, d)
        return outputs

    def get_patch_features(self, pixel_values: torch.Tensor, image_sizes: torch.Tensor) -> list[torch.Tensor]:
        """What the adapter reads of each image, images x `(patches, d_v)`, in the order of `pack`."""
        tiles = self.split_into_tiles(pixel_values, image_sizes)
        return self.pack(self.get_vision_features(tiles).pooler_output, image_sizes, tiles.shape[-1])

    def get_image_coefficients(self, pixel_values: torch.Tensor, image_sizes: torch.Tensor) -> list[torch.Tensor]:
        """Returns the coefficients of each image's patches, images x `(patches, V)`, newlines left out.

        See [`LangBridgeModel.get_image_coefficients`] and, for the order, [`LangBridgeNextModel.pack`].
        """
        self.config.require_words("`get_image_coefficients`")
        images = self.get_patch_features(pixel_values, image_sizes)
        return [self.vocabulary_head(self.multi_modal_projector(features)) for features in images]

    def split_into_tiles(self, pixel_values: torch.Tensor, image_sizes: torch.Tensor) -> torch.Tensor:
        """The overviews and tiles `(tiles, channels, height, width)` of all images, without what fills them up."""
        if pixel_values.dim() == 4:
            return pixel_values
        counts = [self.count_tiles(size, pixel_values.shape[-1]) for size in image_sizes.tolist()]
        filled = [tiles[:count] for tiles, count in zip(pixel_values, counts, strict=True)]
        return torch.cat(filled) if filled else pixel_values.flatten(0, 1)

    def count_tiles(self, image_size: list[int], side: int) -> int:
        """How many tiles of `side` pixels, the overview included, an image of this height and width is cut into."""
        return image_size_to_num_patches(image_size, self.config.image_grid_pinpoints, side)

    def pack(
        self, tiles: torch.Tensor, image_sizes: torch.Tensor, side: int, newline: torch.Tensor | None = None
    ) -> list[torch.Tensor]:
        """Puts the patches of images' tiles in order: the overview's, then the tiles', row by row across them.

        Patches of the padding around an image are left out.

        Args:
            tiles (`torch.Tensor` of shape `(tiles, patches, width)`): What stands for the patches of all tiles.
            image_sizes (`torch.Tensor` of shape `(images, 2)`): Height and width that each image had.
            side (`int`): Height and width of a tile in pixels.
            newline (`torch.Tensor` of shape `(width,)`, *optional*): Ends each row of the tiles' patches.

        Returns:
            `list[torch.Tensor]`: for each image what stands for its patches and newlines, `(tokens, width)`.
        """
        length = math.isqrt(tiles.shape[1])  # patches of a tile's row
        sizes, packed = image_sizes.tolist(), []
        for size, image in zip(sizes, tiles.split([self.count_tiles(size, side) for size in sizes]), strict=True):
            grid = get_anyres_image_grid_shape(size, self.config.image_grid_pinpoints, side)  # rows, columns of tiles
            rows = image[1:].unflatten(0, grid)  # (rows, columns, patches, width)
            rows = rows.unflatten(2, (length, length))  # (rows, columns, length, length, width)
            rows = rows.permute(4, 0, 2, 1, 3).flatten(3, 4).flatten(1, 2)  # (width, rows, columns)
            rows = unpad_image(rows, size)
            if newline is not None:
                ends = newline[:, None, None].expand(-1, rows.shape[1], 1)
                rows = torch.cat([rows, ends], dim=-1)  # (width, rows, columns + 1)
            packed.append(torch.cat([image[0], rows.flatten(1).T]))  # (tokens, width)
        return packed


@auto_docstring(
    custom_intro="The LangBridge-NeXT model: a vision tower for tiles, an adapter made of words and a language model."
)
class LangBridgeNextForConditionalGeneration(LangBridgeForConditionalGeneration, LlavaNextForConditionalGeneration):
    config: LangBridgeNextConfig
    model_class = LangBridgeNextModel
    processor_class = LangBridgeNextProcessor
    get_image_features = LlavaNextForConditionalGeneration.get_image_features


__all__ = ["LangBridgeNextForConditionalGeneration", "LangBridgeNextModel"]
