# SPDX-License-Identifier: Apache-2.0
"""The baseline of every LangBridge: transformers' own LLaVA, with an MLP adapter, over the same parts."""

from typing import Any

from transformers import LlavaConfig, LlavaForConditionalGeneration

from modeling_langbridge import LangBridgeForConditionalGeneration


def build_mlp_baseline(
    langbridge: LangBridgeForConditionalGeneration, **config_fields: Any
) -> LlavaForConditionalGeneration:
    """
    Joins the parts of a LangBridge by LLaVA's two-layer MLP, untrained and as wide as the language model.

    LLaVA reads token states: a tower that gives a feature map does not fit.

    Args:
        langbridge ([`LangBridgeForConditionalGeneration`]):
            Gives its vision tower and its language model, which the two share afterwards. The language model must be
            of a family whose output layer is a plain linear one, such as Qwen2 or Llama.
        config_fields:
            Further fields of [`LlavaConfig`], such as `vision_feature_layer`, in place of the LangBridge's own.

    Returns:
        [`LlavaForConditionalGeneration`] in eval mode.
    """
    config = langbridge.config
    fields = {
        "image_token_index": config.image_token_index,
        "image_seq_length": config.image_seq_length,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "vision_feature_layer": config.vision_feature_layer,
        **config_fields,
    }
    model = LlavaForConditionalGeneration(
        LlavaConfig(vision_config=config.vision_config, text_config=config.text_config, **fields)
    )
    model.to(langbridge.dtype)
    model.model.vision_tower = langbridge.model.vision_tower
    model.model.language_model = langbridge.model.language_model
    model.lm_head.weight = langbridge.lm_head.weight
    model.generation_config = langbridge.generation_config
    return model.eval()


def freeze_all_but_mlp(model: LlavaForConditionalGeneration) -> None:
    """Lets gradients reach the MLP only, as [`LangBridgeSFTTrainer`] does for its own adapter."""
    model.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)
