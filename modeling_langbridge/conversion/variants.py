# SPDX-License-Identifier: Apache-2.0
"""The two LangBridges, each beside the stock model of transformers that it is made of and exported as."""

from typing import Any, NamedTuple

import torch
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedConfig,
)

from ..configuration_langbridge import LangBridgeConfig
from ..configuration_langbridge_next import LangBridgeNextConfig
from ..modeling_langbridge import LangBridgeForConditionalGeneration
from ..modeling_langbridge_next import LangBridgeNextForConditionalGeneration
from ..processing_langbridge import LangBridgeProcessor
from ..processing_langbridge_next import LangBridgeNextProcessor


class Variant(NamedTuple):
    """The classes of a LangBridge and of its stock LLaVA."""

    config: type[LangBridgeConfig]
    model: type[LangBridgeForConditionalGeneration]
    processor: type[LangBridgeProcessor]
    llava_config: type[LlavaConfig] | type[LlavaNextConfig]
    llava: type[LlavaForConditionalGeneration] | type[LlavaNextForConditionalGeneration]
    llava_processor: type[LlavaProcessor] | type[LlavaNextProcessor]

    @property
    def is_next(self) -> bool:
        return self.config is LangBridgeNextConfig


SINGLE_IMAGES = Variant(
    LangBridgeConfig,
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
TILES = Variant(
    LangBridgeNextConfig,
    LangBridgeNextForConditionalGeneration,
    LangBridgeNextProcessor,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
)
VARIANTS = {
    config.model_type: variant
    for variant in (SINGLE_IMAGES, TILES)
    for config in (variant.config, variant.llava_config)
}


def shared_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """What a LangBridge's and its LLaVA's configurations say alike of images, given either."""
    names = ["image_token_index", "image_seq_length", "vision_feature_layer", "vision_feature_select_strategy"]
    if VARIANTS[config.model_type].is_next:
        names.append("image_grid_pinpoints")
    return {name: getattr(config, name) for name in names}


def check_tiles(config: PreTrainedConfig, pixels: torch.Size, features: torch.Size) -> None:
    """
    Checks that stock LLaVA-NeXT can put tiles together, which it takes for the patches of `vision_config.image_size`.

    Args:
        config (`PreTrainedConfig`): Of a LangBridge-NeXT or a LLaVA-NeXT.
        pixels (`torch.Size`): The shape `(1, channels, height, width)` of a tile.
        features (`torch.Size`): The shape `(1, tokens, d_v)` that the vision tower gives for it.

    Raises:
        `ValueError`: tiles have another size, or the tower's features are those of other tokens, too.
    """
    side, size = pixels[-1], config.vision_config.image_size
    if side != size:
        raise ValueError(
            f"The image processor makes tiles of {side} pixels, but LLaVA-NeXT takes them for tiles of "
            f"`vision_config.image_size`, {size}: give an image processor that makes such tiles."
        )
    strategy, patches = config.vision_feature_select_strategy, (side // config.vision_config.patch_size) ** 2
    read = features[1] - (strategy == "default")
    if read != patches:
        raise ValueError(
            f"`vision_feature_select_strategy` is {strategy}, which leaves {read} features of a tile of {patches} "
            "patches: LLaVA-NeXT puts tiles together of patches alone."
        )
