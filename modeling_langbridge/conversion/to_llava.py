# SPDX-License-Identifier: Apache-2.0
"""Export: converts a LangBridge into a stock LLaVA, or LLaVA-NeXT, which needs none of this project's code.

After the projector's activation everything is affine, so the second layer, the vocabulary head and the word embeddings
fold into one map, which fits into LLaVA's two-layer projector:

    x = E^T (W3 (W2 a + b2) + b3) = A a + b    a = act(W1 v + b1), H wide

LLaVA's layers are as wide as the language model, d. W1 and b1 are padded with d - H rows of zeros, and A with d - H
columns of zeros, so that the activation of the padding has no effect. LLaVA-NeXT's newline is a visual token.
"""

import copy

import torch
from torch.nn import functional as F
from transformers import (
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
)
from transformers.conversion_mapping import get_model_conversion_mapping

from ..configuration_langbridge import LangBridgeConfig
from ..folded_adapter import fold
from ..modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeLMHead
from ..processing_langbridge import LangBridgeProcessor, measure_vision_tower
from ..utils.weights import require_finite
from .variants import VARIANTS, check_tiles, shared_fields


@torch.no_grad()
def to_llava(
    model: LangBridgeForConditionalGeneration, processor: LangBridgeProcessor
) -> tuple[LlavaForConditionalGeneration | LlavaNextForConditionalGeneration, LlavaProcessor | LlavaNextProcessor]:
    """
    Converts a LangBridge into a stock LLaVA with the same logits, a LangBridge-NeXT into a LLaVA-NeXT. The projector
    is folded in float64 and rounded once, to the model's dtype; the vision tower and the language model are shared
    with the LangBridge.

    Args:
        model (`LangBridgeForConditionalGeneration` or `LangBridgeNextForConditionalGeneration`):
            A model with an adapter of any `adapter_type` that stock LLaVA can hold, see [`check_fits_llava`].
        processor (`LangBridgeProcessor`):
            Its processor.

    Returns:
        `tuple(LlavaForConditionalGeneration, LlavaProcessor)`, or the same of LLaVA-NeXT: the LLaVA in eval mode, in
        the model's dtype and on its device, and its processor.

    Raises:
        `ValueError`: the model has a LoRA or is wrapped otherwise, stock LLaVA cannot compute it (see
        [`check_fits_llava`]), or the folded weights are not finite.
    """
    check_is_plain(model)
    check_fits_llava(model.config, processor)
    variant, config = VARIANTS[model.config.model_type], make_llava_config(model)
    with torch.device("meta"):
        llava = variant.llava(config)
    llava.model.vision_tower = model.model.vision_tower
    llava.model.language_model = model.model.language_model
    projector = fold_projector(model)
    require_finite(projector.items(), f"the folded projector, in {model.dtype},")
    llava.model.multi_modal_projector.load_state_dict(projector, assign=True)
    if variant.is_next:
        llava.model.image_newline = torch.nn.Parameter(model.model.mix(model.model.image_newline))  # (d,)
    llava.lm_head.weight = model.lm_head.weight
    if model.config.tie_word_embeddings and not config.tie_word_embeddings:
        # Only weights that the class lists as tied may share memory when saved.
        llava.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    llava.generation_config = copy.deepcopy(model.generation_config)
    # Without it, the names of the tower's weights lack the `vision_model.` of published LLaVAs, which vLLM expects.
    llava._weight_conversions = get_model_conversion_mapping(llava, add_legacy=False)
    return llava.eval(), make_llava_processor(processor, variant.llava_processor)


def check_is_plain(model: LangBridgeForConditionalGeneration) -> None:
    """Raises `ValueError` where PEFT, a parametrization or another wrapper holds weights that a LangBridge has not."""
    with torch.device("meta"):
        expected = VARIANTS[model.config.model_type].model(copy.deepcopy(model.config)).state_dict()
    if added := [name for name in model.state_dict() if name not in expected]:
        raise ValueError(
            f"The model has a LoRA or another wrapper, whose `{added[0]}` stock LLaVA does not know: merge it first, "
            "with scripts/merge_lora.py."
        )


def check_fits_llava(config: LangBridgeConfig, processor: LangBridgeProcessor) -> None:
    """
    Raises an error for a model that stock LLaVA cannot compute. No weights are needed.

    Args:
        config (`LangBridgeConfig`):
            The model's configuration.
        processor (`LangBridgeProcessor`):
            Its processor.

    Raises:
        `ValueError`: the model is quantised, its patches are pooled, its coefficients are distributions, its projector
        is wider than the language model, its output layer has a bias or caps its logits, its vision tower returns a
        feature map, or its tiles are not those that LLaVA-NeXT puts together. The message names the solution.
    """
    if "quantization_config" in config.to_dict():
        raise ValueError(
            "The model is quantised: export the same LangBridge in floating point, into which scripts/merge_lora.py "
            "merges a LoRA that was trained on the quantised one."
        )
    if config.pool_patches > 1:
        raise ValueError(
            f"`pool_patches` is {config.pool_patches}, but stock LLaVA reads a token per patch: serve the model as a "
            "LangBridge, with trust_remote_code=True."
        )
    if config.adapter_type == "langbridge":
        check_adapter_fits(config)
    with torch.device("meta"):
        head = LangBridgeLMHead(config)
    if head.bias is not None or head.softcapping is not None:
        what = "adds a bias to its logits" if head.softcapping is None else "caps its logits"
        raise ValueError(
            f"The language model, of type `{config.text_config.model_type}`, {what}, which stock LLaVA does not: "
            "serve the model as a LangBridge, with trust_remote_code=True."
        )
    pixels, features = measure_vision_tower(config.vision_config, processor.image_processor)
    if len(features) == 4:
        raise ValueError(
            f"The vision tower, of type `{config.vision_config.model_type}`, returns a feature map, which stock LLaVA "
            "cannot read: serve the model as a LangBridge, with trust_remote_code=True."
        )
    if VARIANTS[config.model_type].is_next:
        check_tiles(config, pixels, features)


def check_adapter_fits(config: LangBridgeConfig) -> None:
    if config.coefficient_activation != "linear":
        what = f"`coefficient_activation` is {config.coefficient_activation}, but stock LLaVA has no distributions"
        if config.words_per_image is not None:
            what = f"`words_per_image` is {config.words_per_image}, but stock LLaVA reads a token per patch"
        raise ValueError(
            f"{what}: distil the adapter into linear coefficients first, with scripts/transfer.py --distill_images."
        )
    H, d = config.projector_hidden_size, config.text_config.hidden_size
    if H > d:
        raise ValueError(
            f"`projector_hidden_size` is {H}, but stock LLaVA's projector is as wide as the language model, {d}: "
            f"train with a `projector_hidden_size` of at most {d}."
        )


def make_llava_config(model: LangBridgeForConditionalGeneration) -> LlavaConfig | LlavaNextConfig:
    config, text_config = model.config, copy.deepcopy(model.config.text_config)
    # Stock LLaVA ties to an `embed_tokens`: a language model with GPT-2's `wte` needs an output layer of its own.
    has_embed_tokens = model._tied_weights_keys == LlavaForConditionalGeneration._tied_weights_keys
    text_config.tie_word_embeddings = config.tie_word_embeddings and has_embed_tokens
    return VARIANTS[config.model_type].llava_config(
        vision_config=copy.deepcopy(config.vision_config),
        text_config=text_config,
        **shared_fields(config),
        projector_hidden_act="linear" if config.adapter_type == "linear" else config.projector_hidden_act,
        # One flag for both layers, and the folded one always needs its bias.
        multimodal_projector_bias=True,
        tie_word_embeddings=text_config.tie_word_embeddings,
    )


def fold_projector(model: LangBridgeForConditionalGeneration) -> dict[str, torch.Tensor]:
    """The state dict of a stock LLaVA projector that computes the whole adapter."""
    projector = model.model.multi_modal_projector
    first = projector.linear_1
    H, d = first.out_features, model.config.text_config.hidden_size
    if model.config.adapter_type == "langbridge":
        weight, bias = fold(projector.linear_2, model.model.vocabulary_head, model.get_input_embeddings())
    elif model.config.adapter_type == "linear":
        weight, bias = torch.eye(d).to(first.weight), None
    else:
        weight, bias = projector.linear_2.weight, projector.linear_2.bias
    return {
        **projector.state_dict(),  # an activation may have parameters
        "linear_1.weight": F.pad(first.weight, (0, 0, 0, d - H)),  # (d, d_v)
        "linear_1.bias": first.weight.new_zeros(d) if first.bias is None else F.pad(first.bias, (0, d - H)),
        "linear_2.weight": F.pad(weight, (0, d - H)),  # (d, d)
        "linear_2.bias": first.weight.new_zeros(d) if bias is None else bias,
    }


def make_llava_processor(
    processor: LangBridgeProcessor, llava_processor: type[LlavaProcessor] | type[LlavaNextProcessor]
) -> LlavaProcessor | LlavaNextProcessor:
    image_processor, tokenizer = copy.deepcopy(processor.image_processor), copy.deepcopy(processor.tokenizer)
    # Loaded from a LangBridge, both would still name its code.
    vars(image_processor).pop("auto_map", None)
    tokenizer.init_kwargs.pop("auto_map", None)
    return llava_processor(
        image_processor,
        tokenizer,
        patch_size=processor.patch_size,
        vision_feature_select_strategy=processor.vision_feature_select_strategy,
        chat_template=processor.chat_template,
        image_token=processor.image_token,
        num_additional_image_tokens=processor.num_additional_image_tokens,
    )
