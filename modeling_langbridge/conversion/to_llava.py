# SPDX-License-Identifier: Apache-2.0
"""Export: a LangBridge as a stock LLaVA, which needs none of this project's code and is served wherever LLaVA is.

After the projector's activation everything is affine, so the second layer, the vocabulary head and the word embeddings
fold into one map, and LLaVA's two-layer projector can hold it:

    x = E^T (W3 (W2 a + b2) + b3) = A a + b    a = act(W1 v + b1), H wide

LLaVA's layers are as wide as the language model, d. W1 and b1 get d - H rows of zeros; what the activation makes of
those, 0 or not, meets d - H columns of zeros in A.
"""

import copy

import torch
from torch.nn import functional as F
from transformers import LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.conversion_mapping import get_model_conversion_mapping

from ..configuration_langbridge import LangBridgeConfig
from ..folded_adapter import FoldedAdapter
from ..modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeLMHead
from ..processing_langbridge import LangBridgeProcessor, measure_vision_tower


@torch.no_grad()
def to_llava(
    model: LangBridgeForConditionalGeneration, processor: LangBridgeProcessor
) -> tuple[LlavaForConditionalGeneration, LlavaProcessor]:
    """
    Makes a stock LLaVA with the same logits. Its projector is folded in float64 and rounded once, to the model's
    dtype; the vision tower and the language model become part of it and stay the model's too.

    Args:
        model (`LangBridgeForConditionalGeneration`):
            A model whose adapter, of any `adapter_type`, fits stock LLaVA: see [`check_fits_llava`].
        processor (`LangBridgeProcessor`):
            Its processor.

    Returns:
        `tuple(LlavaForConditionalGeneration, LlavaProcessor)`: the LLaVA in eval mode, in the model's dtype and on its
        device, and its processor.

    Raises:
        `ValueError`: the model carries a LoRA, or [`check_fits_llava`] refuses it.
    """
    if not isinstance(model, LangBridgeForConditionalGeneration) or model._hf_peft_config_loaded:
        raise ValueError("The model carries a LoRA: merge it first, with scripts/merge_lora.py.")
    check_fits_llava(model.config, processor)
    config = make_llava_config(model)
    with torch.device("meta"):
        llava = LlavaForConditionalGeneration(config)
    llava.model.vision_tower = model.model.vision_tower
    llava.model.language_model = model.model.language_model
    llava.model.multi_modal_projector.load_state_dict(fold_projector(model), assign=True)
    llava.lm_head.weight = model.lm_head.weight
    if model.config.tie_word_embeddings and not config.tie_word_embeddings:
        # Only tensors that the class knows to be tied may be saved shared.
        llava.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    llava.generation_config = copy.deepcopy(model.generation_config)
    # Saved otherwise, the tower's weights lack the `vision_model.` by which published LLaVAs, and so vLLM, name them.
    llava._weight_conversions = get_model_conversion_mapping(llava, add_legacy=False)
    return llava.eval(), make_llava_processor(processor)


def check_fits_llava(config: LangBridgeConfig, processor: LangBridgeProcessor) -> None:
    """
    Refuses what a stock LLaVA cannot compute; no weights are needed to tell.

    Args:
        config (`LangBridgeConfig`):
            The model's configuration.
        processor (`LangBridgeProcessor`):
            Its processor.

    Raises:
        `ValueError`: the model is quantised, its coefficients are distributions, its projector is wider than the
        language model, its output layer does more than a product, or its vision tower gives a feature map. The
        sentence says what to do.
    """
    if "quantization_config" in config.to_dict():
        raise ValueError(
            "The model is quantised: export the same LangBridge in floating point, into which scripts/merge_lora.py "
            "merges a LoRA that was learnt on the quantised one."
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
    _, features = measure_vision_tower(config.vision_config, processor.image_processor)
    if len(features) == 4:
        raise ValueError(
            f"The vision tower, of type `{config.vision_config.model_type}`, gives a feature map, which stock LLaVA "
            "cannot read: serve the model as a LangBridge, with trust_remote_code=True."
        )


def check_adapter_fits(config: LangBridgeConfig) -> None:
    if config.coefficient_activation != "linear":
        what = f"`coefficient_activation` is {config.coefficient_activation}, but stock LLaVA knows no distributions"
        if config.words_per_image is not None:
            what = f"`words_per_image` is {config.words_per_image}, but stock LLaVA reads a token for every patch"
        raise ValueError(
            f"{what}: distil the adapter into linear coefficients first, with scripts/transfer.py --distill_images."
        )
    H, d = config.projector_hidden_size, config.text_config.hidden_size
    if H > d:
        raise ValueError(
            f"`projector_hidden_size` is {H}, but stock LLaVA's projector is as wide as the language model, {d}: "
            f"train with a `projector_hidden_size` of at most {d}."
        )


def make_llava_config(model: LangBridgeForConditionalGeneration) -> LlavaConfig:
    config, text_config = model.config, copy.deepcopy(model.config.text_config)
    # Stock LLaVA ties to an `embed_tokens`: beside GPT-2's `wte` it needs an output layer of its own.
    has_embed_tokens = model._tied_weights_keys == LlavaForConditionalGeneration._tied_weights_keys
    text_config.tie_word_embeddings = config.tie_word_embeddings and has_embed_tokens
    return LlavaConfig(
        vision_config=copy.deepcopy(config.vision_config),
        text_config=text_config,
        image_token_index=config.image_token_index,
        image_seq_length=config.image_seq_length,
        projector_hidden_act="linear" if config.adapter_type == "linear" else config.projector_hidden_act,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        vision_feature_layer=config.vision_feature_layer,
        # One flag for both layers, and the folded one needs its bias whatever `multimodal_projector_bias` says.
        multimodal_projector_bias=True,
        tie_word_embeddings=text_config.tie_word_embeddings,
    )


def fold_projector(model: LangBridgeForConditionalGeneration) -> dict[str, torch.Tensor]:
    """The state of a stock LLaVA projector that computes what the whole adapter does."""
    projector = model.model.multi_modal_projector
    first = projector.linear_1
    H, d = first.out_features, model.config.text_config.hidden_size
    if model.config.adapter_type == "langbridge":
        folded = FoldedAdapter().refresh(projector.linear_2, model.model.vocabulary_head, model.get_input_embeddings())
        weight, bias = folded.weight, folded.bias  # (d, H), (d,)
    elif model.config.adapter_type == "linear":
        weight, bias = torch.eye(d).to(first.weight), None
    else:
        weight, bias = projector.linear_2.weight, projector.linear_2.bias
    return {
        **projector.state_dict(),  # an activation may have a parameter of its own
        "linear_1.weight": F.pad(first.weight, (0, 0, 0, d - H)),  # (d, d_v)
        "linear_1.bias": first.weight.new_zeros(d) if first.bias is None else F.pad(first.bias, (0, d - H)),
        "linear_2.weight": F.pad(weight, (0, d - H)),  # (d, d)
        "linear_2.bias": first.weight.new_zeros(d) if bias is None else bias,
    }


def make_llava_processor(processor: LangBridgeProcessor) -> LlavaProcessor:
    image_processor, tokenizer = copy.deepcopy(processor.image_processor), copy.deepcopy(processor.tokenizer)
    # Loaded from a LangBridge, both would go on to name its code.
    vars(image_processor).pop("auto_map", None)
    tokenizer.init_kwargs.pop("auto_map", None)
    return LlavaProcessor(
        image_processor,
        tokenizer,
        patch_size=processor.patch_size,
        vision_feature_select_strategy=processor.vision_feature_select_strategy,
        chat_template=processor.chat_template,
        image_token=processor.image_token,
        num_additional_image_tokens=processor.num_additional_image_tokens,
    )
