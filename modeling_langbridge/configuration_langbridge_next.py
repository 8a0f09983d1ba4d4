# SPDX-License-Identifier: Apache-2.0 (trf-ignore: TRF028)
"""LangBridge-NeXT model configuration: LangBridge's, plus the resolutions that images may have, as LLaVA-NeXT's."""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import LlavaNextConfig
from transformers.utils import auto_docstring

from .configuration_langbridge import LangBridgeConfig


@auto_docstring(checkpoint="langbridge-next")
@strict
class LangBridgeNextConfig(LangBridgeConfig, LlavaNextConfig):
    r"""
    image_grid_pinpoints (`list[list[int]]`, *optional*, defaults to LLaVA-NeXT's five for tiles of 336 pixels):
        The resolutions `[height, width]` that an image may be brought to, each a whole number of tiles.

    The other fields are those of [`LangBridgeConfig`].

    Example:

    ```python
    >>> from transformers import CLIPVisionConfig, Qwen2Config
    >>> from modeling_langbridge import LangBridgeNextConfig, LangBridgeNextForConditionalGeneration

    >>> config = LangBridgeNextConfig(
    ...     vision_config=CLIPVisionConfig(image_size=336, patch_size=14),
    ...     text_config=Qwen2Config(),
    ...     image_token_index=151646,
    ...     projector_hidden_size=896,
    ... )
    >>> model = LangBridgeNextForConditionalGeneration(config)
    ```"""

    model_type = "langbridge_next"

    def __post_init__(self, **kwargs: Any):
        super().__post_init__(**kwargs)


__all__ = ["LangBridgeNextConfig"]
