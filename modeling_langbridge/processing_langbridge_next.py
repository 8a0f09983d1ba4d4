# SPDX-License-Identifier: Apache-2.0 (trf-ignore: TRF028)
"""LangBridge-NeXT processor: LangBridge's, with the tiles of LLaVA-NeXT's."""

import torch
from PIL import Image
from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor, PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor
from transformers.processing_utils import MultiModalData
from transformers.utils import auto_docstring

from .processing_langbridge import LangBridgeProcessor


# Rows and columns of tiles, LLaVA-NeXT's.
GRIDS = [(1, 2), (2, 1), (2, 2), (3, 1), (1, 3)]


@auto_docstring
class LangBridgeNextProcessor(LangBridgeProcessor, LlavaNextProcessor):
    images_kwargs = {}  # LLaVA-NeXT's repeats a default of its image processor

    # LLaVA's own methods come before LLaVA-NeXT's in the order of the bases.
    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        if self.words_per_image is not None:
            return self.image_token * self.words_per_image
        return LlavaNextProcessor.replace_image_token(self, image_inputs, image_idx, **kwargs)

    def _get_num_multimodal_tokens(self, image_sizes=None, **kwargs):
        counted = LlavaNextProcessor._get_num_multimodal_tokens(self, image_sizes, **kwargs)
        if image_sizes is None or self.words_per_image is None:
            return counted
        return MultiModalData(
            num_image_tokens=[self.words_per_image] * len(image_sizes), num_image_patches=counted.num_image_patches
        )

    @property
    def num_image_tokens(self) -> int | None:
        """Number of visual tokens per image, `words_per_image`; without it `None`: it depends on the image's size."""
        return self.words_per_image

    def get_config_fields(self) -> dict:
        tiles = self.image_processor
        of_a_tile = {"image_seq_length": (tiles.crop_size["height"] // self.patch_size) ** 2}
        return {**super().get_config_fields(), **of_a_tile, "image_grid_pinpoints": tiles.image_grid_pinpoints}

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision: str | PreTrainedModel,
        text: str | PreTrainedModel,
        image_processor: BaseImageProcessor | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        words_per_image: int | None = None,
        image_grid_pinpoints: list[list[int]] | None = None,
        pool_patches: int = 1,
    ) -> "LangBridgeNextProcessor":
        r"""Composes the processor of a vision tower and a language model.

        Args:
            vision, text, tokenizer, words_per_image, pool_patches:
                As of [`LangBridgeProcessor.from_vision_text_pretrained`].
            image_processor (`BaseImageProcessor`, *optional*):
                The tower's own, which says what a tile must be like, or LLaVA-NeXT's, which is taken as it is.
            image_grid_pinpoints (`list[list[int]]`, *optional*):
                The resolutions `[height, width]` that an image may be brought to, each a whole number of tiles.
                LLaVA-NeXT's five by default: two or three tiles in a row or a column, and two by two.

        Raises:
            `ValueError`: as [`LangBridgeProcessor.from_vision_text_pretrained`], or the tower does not read squares of
            patches, or its image processor does what LLaVA-NeXT's cannot, or a resolution is no whole number of tiles.
        """
        processor = super().from_vision_text_pretrained(
            vision, text, image_processor, tokenizer, words_per_image, pool_patches
        )
        if "image_sizes" not in processor.image_processor.model_input_names:
            processor.image_processor = cut_into_tiles(processor.image_processor, image_grid_pinpoints)
        side = processor.image_processor.crop_size["height"]
        for resolution in processor.image_processor.image_grid_pinpoints:
            if any(length % side for length in resolution):
                raise ValueError(
                    f"`image_grid_pinpoints` holds {resolution}: the vision tower's tiles are {side} wide."
                )
        if processor.num_additional_image_tokens > 1:
            raise ValueError(
                f"The vision tower has {processor.num_additional_image_tokens} tokens beside its patches: tiles are "
                "put together of patches, so LangBridge-NeXT reads towers with at most one, CLS."
            )
        return processor


def cut_into_tiles(
    image_processor: BaseImageProcessor, image_grid_pinpoints: list[list[int]] | None
) -> LlavaNextImageProcessorPil:
    """LLaVA-NeXT's image processor, whose tiles are what a vision tower's own makes of whole images."""
    image = Image.new("RGB", (64, 64), (200, 100, 50))  # of one colour, so that a crop makes no difference
    height, width = image_processor(image, return_tensors="pt")["pixel_values"].shape[-2:]
    if height != width:
        raise ValueError(f"The vision tower reads images of {height} x {width} pixels: tiles must be square.")
    same = ("resample", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
    tiles = LlavaNextImageProcessorPil(
        size={"height": height, "width": height},
        crop_size={"height": height, "width": height},
        image_grid_pinpoints=image_grid_pinpoints or [[rows * height, columns * height] for rows, columns in GRIDS],
        **{name: getattr(image_processor, name) for name in same},
    )
    own, overview = (
        one(image, return_tensors="pt")["pixel_values"].flatten(0, -4)[0] for one in (image_processor, tiles)
    )
    if not torch.allclose(own, overview, atol=1e-5):
        raise ValueError(
            f"{type(image_processor).__name__} does more to colours than to scale and to normalise them, which "
            "LLaVA-NeXT's tiles cannot follow: give another `image_processor`."
        )
    return tiles


__all__ = ["LangBridgeNextProcessor"]
