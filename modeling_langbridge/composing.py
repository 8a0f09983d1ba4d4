# SPDX-License-Identifier: Apache-2.0
"""A new model of pretrained parts: a vision tower and a language model, joined by an untrained adapter."""

import os
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from .processing_langbridge import LangBridgeProcessor, load_vision_tower, measure_vision_tower
from .vocabulary_head import pack_token_ids


def compose(
    model_class: type[PreTrainedModel],
    vision: str | PreTrainedModel,
    text: str | PreTrainedModel,
    vocabulary: Any,
    processor: LangBridgeProcessor | None,
    split_words: str | None,
    **config_fields: Any,
) -> PreTrainedModel:
    """See [`LangBridgeForConditionalGeneration.from_vision_text_pretrained`]; `model_class` is that class or
    LangBridge-NeXT's."""
    adapter_type = config_fields.get("adapter_type", "langbridge")
    if adapter_type != "langbridge":
        vocabulary = []
    elif vocabulary is None:
        raise ValueError("`vocabulary` is missing: give one, or an `adapter_type` without words (mlp, linear).")
    if split_words == "combine":
        raise ValueError("`split_words` combine needs a trained adapter: use `LangBridgeAdapter.join` or `transfer`.")
    processor = processor or model_class.processor_class.from_vision_text_pretrained(vision, text)
    vision_tower = load_vision_tower(vision)
    language_model = text if isinstance(text, PreTrainedModel) else AutoModelForCausalLM.from_pretrained(text)
    if language_model.config.get_text_config() is not language_model.config:
        raise ValueError("`text` is itself a multimodal model: give its language model alone.")
    head, num_tokens = language_model.get_output_embeddings(), language_model.config.vocab_size
    if type(head) is not nn.Linear:
        what = type(head).__name__
        raise ValueError(f"The output layer of `text` is a {what}: load it unquantised, and merge a LoRA first.")
    if not isinstance(vocabulary, list | str | dict | os.PathLike):
        vocabulary = vocabulary.locate(processor.tokenizer, split_words)
    token_ids = pack_token_ids(vocabulary)  # (V,) or (V, pieces)
    outside = token_ids[(token_ids < (0 if token_ids.dim() == 1 else -1)) | (token_ids >= num_tokens)]
    if len(outside):
        raise ValueError(
            f"`vocabulary` holds {len(outside)} token ids outside the language model's {num_tokens} embeddings, "
            f"the first is {outside[0]}: it was made for another language model."
        )
    if "hidden_size" not in vision_tower.config.to_dict():  # convolutional towers do not state it
        _, features = measure_vision_tower(vision_tower.config, processor.image_processor)
        vision_tower.config.hidden_size = features[1]
    config = model_class.config_class.compose(
        vision_config=vision_tower.config,
        text_config=language_model.config,
        bridge_vocab_size=len(token_ids),
        pieces_per_word=1 if token_ids.dim() == 1 else token_ids.shape[1],
        split_words=split_words or "leave_out",
        lm_head_bias=head.bias is not None,
        **processor.get_config_fields(),
        asked=config_fields,
    )
    for part in (config.vision_config, config.text_config):
        if os.path.exists(part.name_or_path):
            part.name_or_path = ""  # a path of this machine has no place in a checkpoint; a Hub id stays
    with torch.device("meta"):
        model = model_class(config)
    bridge = model.model
    bridge.vision_tower = vision_tower
    bridge.language_model = language_model.base_model
    model.lm_head.weight, model.lm_head.bias = head.weight, head.bias
    place = {"device": language_model.device, "dtype": language_model.dtype}
    vision_tower.to(**place)
    for part in filter(None, (bridge.multi_modal_projector, bridge.vocabulary_head)):
        part.to_empty(device="cpu").apply(model._init_weights).to(**place)
    for name, parameter in list(bridge.named_parameters(recurse=False)):  # LangBridge-NeXT's newline
        bridge.register_parameter(name, nn.Parameter(torch.empty_like(parameter, device="cpu")))
        bridge._init_weights(bridge)
        bridge.get_parameter(name).data = bridge.get_parameter(name).data.to(**place)
    if adapter_type == "langbridge":
        bridge.vocabulary_head.token_ids.copy_(token_ids)
    # A language model's sampling and its limits of length were chosen for text.
    ids = ("bos_token_id", "eos_token_id", "decoder_start_token_id", "suppress_tokens")
    settings = GenerationConfig(**{name: getattr(language_model.generation_config, name) for name in ids})
    model.generation_config = processor.complete_generation_config(settings)
    model.eval()
    check_same_logits(model, language_model)
    if len(processor.tokenizer) > num_tokens:
        model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
        # Not random, so that the same parts always make the same model.
        for weight in (model.get_input_embeddings().weight, model.lm_head.weight):
            weight.data[num_tokens:] = weight.data[:num_tokens].mean(0, dtype=torch.float32)
    return model


@torch.no_grad()
def check_same_logits(model: PreTrainedModel, language_model: PreTrainedModel) -> None:
    """Refuses language models whose own class does more to the logits than [`LangBridgeLMHead`], as Cohere's."""
    input_ids = torch.arange(1, 5, device=language_model.device)[None]  # (1, 4)
    expected = language_model(input_ids=input_ids).logits
    difference = (model(input_ids=input_ids).logits - expected).abs().max()
    if not difference <= 1e-3 * expected.abs().max():
        raise ValueError(
            f"Language models of type `{language_model.config.model_type}` are not supported: they scale their "
            f"logits, which LangBridge does not (difference {difference:.2g})."
        )
