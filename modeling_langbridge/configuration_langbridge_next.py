# SPDX-License-Identifier: Apache-2.0 (trf-ignore: TRF028)
"""LangBridge-NeXT model configuration: LangBridge's, plus the resolutions that images may have, as LLaVA-NeXT's."""

from huggingface_hub.dataclasses import strict
from transformers import LlavaNextConfig
from transformers.utils.versions import require_version

from .configuration_langbridge import LangBridgeConfig


# Earlier versions copy no code that is named by imported code alone.
require_version("transformers>=5.10", "A LangBridge-NeXT needs it: pip install -U transformers")


# trf-ignore: TRF057, since `auto_docstring` does not find the descriptions of LangBridgeConfig's own fields.
@strict
class LangBridgeNextConfig(LangBridgeConfig, LlavaNextConfig):
    r"""
    The configuration of a [`LangBridgeNextForConditionalGeneration`].

    Args:
        image_grid_pinpoints (`list[list[int]]`, *optional*, defaults to LLaVA-NeXT's five, of tiles of 336 pixels):
            The resolutions `[height, width]` that an image may be brought to, each a whole number of tiles.
        kwargs: All fields of [`LangBridgeConfig`].

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

    def validate_architecture(self):
        """Raises `ValueError` for invalid fields. `PreTrainedConfig` calls it after initialisation."""
        super().validate_architecture()
        for pair in self.image_grid_pinpoints:
            if len(pair) != 2 or not all(type(length) is int and length > 0 for length in pair):
                raise ValueError(f"`image_grid_pinpoints` holds {pair}: give pairs of a height and a width in pixels.")


__all__ = ["LangBridgeNextConfig"]
