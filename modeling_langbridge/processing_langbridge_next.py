# SPDX-License-Identifier: Apache-2.0 (trf-ignore: TRF028)
"""LangBridge-NeXT processor: LangBridge's, with LLaVA-NeXT's tiles."""

import numpy as np
import torch
from PIL import Image
from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor, PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import MultiModalData
from transformers.utils import auto_docstring

from .processing_langbridge import LangBridgeProcessor


# LLaVA-NeXT's, in tiles: rows and columns.
GRIDS = [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]


@auto_docstring
class LangBridgeNextProcessor(LangBridgeProcessor, LlavaNextProcessor):
    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        if self.words_per_image is not None:
            return self.image_token * self.words_per_image
        return LlavaNextProcessor.replace_image_token(self, image_inputs, image_idx, **kwargs)

    def _get_num_multimodal_tokens(self, image_sizes=None, **kwargs):
        counted = LlavaNextProcessor._get_num_multimodal_tokens(self, image_sizes, **kwargs)
        if self.words_per_image is None or image_sizes is None:
            return counted
        return MultiModalData(
            num_image_tokens=[self.words_per_image] * len(image_sizes), num_image_patches=counted.num_image_patches
        )

    def get_config_fields(self) -> dict:
        return {**super().get_config_fields(), "image_grid_pinpoints": self.image_processor.image_grid_pinpoints}

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | PreTrainedModel,
        text: str | PreTrainedModel,
        image_processor: BaseImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        words_per_image: int | None = None,
        image_grid_pinpoints: list[list[int]] | None = None,
    ) -> "LangBridgeNextProcessor":
        r"""Composes the processor of a vision tower and a language model.

        Args:
            vision, text, image_processor, tokenizer, words_per_image:
                As of [`LangBridgeProcessor.from_vision_text_pretrained`]. The image processor is the tower's own, whose
                images become the tiles.
            image_grid_pinpoints (`list[list[int]]`, *optional*):
                The resolutions `[height, width]` that an image may be brought to, each a whole number of tiles.
                LLaVA-NeXT's five by default: two or three tiles beside or above each other, and two by two.

        Raises:
            `ValueError`: as [`LangBridgeProcessor.from_vision_text_pretrained`], or the tower's tiles are no square
            grid of patches, or its image processor does what LLaVA-NeXT's cannot.
        """
        processor = super().from_vision_text_pretrained(vision, text, image_processor, tokenizer, words_per_image)
        processor.image_processor = cut_into_tiles(processor.image_processor, image_grid_pinpoints)
        if processor.num_additional_image_tokens > 1:
            raise ValueError("The vision tower has registers, ")
        return processor


def cut_into_tiles(
    image_processor: BaseImageProcessor, image_grid_pinpoints: list[list[int]] | None
) -> LlavaNextImageProcessorPil:
    """LLaVA-NeXT's image processor, whose tiles are what a vision tower's own makes of whole images."""
    if isinstance(image_processor, LlavaNextImageProcessorPil) :
        return image_processor
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    side, width = image_processor(Image.fromarray(noise), return_tensors="pt")["pixel_values"].shape[-2:]
    if side != width:
        raise ValueError(f"The vision tower reads images of {side} x {width} pixels: tiles must be square.")
    tiles = LlavaNextImageProcessorPil(
        size={"shortest_edge": side},
        crop_size={"height": side, "width": side},
        image_grid_pinpoints=image_grid_pinpoints or [[rows * side, columns * side] for rows, columns in GRIDS],
        **{name: getattr(image_processor, name) for name in ("resample", "image_mean", "image_std", "rescale_factor", "do_normalize")},
    )
    image = Image.fromarray(noise).resize((side, side))
    own, tile = (one(image, return_tensors="pt")["pixel_values"].flatten(0, -4)[0] for one in (image_processor, tiles))
    if not torch.allclose(own, tile, atol=1e-5):
        raise ValueError(
            f"{type(image_processor).__name__} does more to an image than to resize and to normalise it, which "
            "LLaVA-NeXT's tiles do not: give another `image_processor`."
        )
    return tiles


__all__ = ["LangBridgeNextProcessor"]
