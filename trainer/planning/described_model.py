# SPDX-License-Identifier: Apache-2.0
"""The model that a run would train, without weights: from configurations, a tokenizer and an image processor."""

from pathlib import Path

import torch
from PIL import Image
from transformers import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from modeling_langbridge import LangBridgeProcessor, SharedVocabulary
from modeling_langbridge.adapter.adapter import CONFIGURATION
from modeling_langbridge.adapter.configuration import read_config
from modeling_langbridge.adapter.loading import open_processor
from modeling_langbridge.processing_langbridge import find_vision_config, measure_vision_tower
from modeling_langbridge.utils.files import find_folder

from ..model_loading import ModelArguments, check_places, compose_processor, quantize
from .four_bits import quantize_empty


def describe_model(
    arguments: ModelArguments, needs_folder: bool, num_words: int | None = None
) -> tuple[PreTrainedModel, LangBridgeProcessor]:
    """
    As [`~trainer.model_loading.load_model`], with the model on the meta device; no file with weights is read. A new
    model has `num_words` words where another language model's tokenizer has chosen them.

    Raises:
        `OSError`, `ValueError`: as `load_model`.
    """
    check_places(arguments, needs_folder)
    if arguments.model is not None:
        config, processor = open_processor(arguments.model, arguments.model_revision)
        model_class, saved_in = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)], config.dtype
    else:
        config, processor, saved_in = compose_config(arguments, num_words)
        model_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
    dtype = saved_in or torch.float32 if arguments.dtype == "auto" else getattr(torch, arguments.dtype)
    with torch.device("meta"):
        model = model_class._from_config(config, dtype=dtype)
    if arguments.attn_implementation is not None:
        model.set_attn_implementation(arguments.attn_implementation)
    quantization = quantize(arguments)
    if quantization is not None:
        quantize_empty(model, quantization)
    return model, processor


def compose_config(
    arguments: ModelArguments, num_words: int | None
) -> tuple[PreTrainedConfig, LangBridgeProcessor, torch.dtype | None]:
    """The configuration and the processor of a new model, and the dtype that its language model is saved in."""
    adapter = None
    if arguments.adapter is not None:
        adapter = read_config(Path(find_folder(arguments.adapter, [CONFIGURATION]), CONFIGURATION))
    variant, processor = compose_processor(arguments, arguments.language_model, adapter)
    text_config = AutoConfig.from_pretrained(arguments.language_model)
    vision_config = find_vision_config(AutoConfig.from_pretrained(arguments.vision_tower))
    if "hidden_size" not in vision_config.to_dict():  # convolutional towers do not state it
        _, features = measure_vision_tower(vision_config, processor.image_processor)
        vision_config.hidden_size = features[1]
    with torch.device("meta"):
        head = AutoModelForCausalLM.from_config(text_config).get_output_embeddings()
    text_config.vocab_size = max(text_config.vocab_size, len(processor.tokenizer))
    if adapter is not None:
        shape = {name: value for name, value in adapter.to_shape().items() if not name.startswith("vision_feature_s")}
        shape.pop("vision_model_type")
        words = {"bridge_vocab_size": shape.pop("bridge_vocab_size")}
    else:
        shape = {
            "adapter_type": arguments.adapter_type,
            "projector_hidden_size": arguments.projector_hidden_size,
            "coefficient_activation": arguments.coefficient_activation,
        }
        words = {}
        if num_words is not None:
            words = {"bridge_vocab_size": num_words}
        elif arguments.adapter_type == "langbridge":
            vocabulary = SharedVocabulary.load(arguments.vocabulary, arguments.vocab_size)
            words = {"bridge_vocab_size": len(vocabulary.locate(processor.tokenizer))}
    config = variant.config.compose(
        vision_config=vision_config,
        text_config=text_config,
        lm_head_bias=head.bias is not None,
        **words,
        **processor.get_config_fields(),
        asked=shape,
    )
    return config, processor, text_config.dtype


def largest_image(model: PreTrainedModel, processor: LangBridgeProcessor) -> tuple[dict[str, torch.Tensor], int]:
    """What the image processor makes of an image that takes most visual tokens, and how many these are."""
    sizes = getattr(model.config, "image_grid_pinpoints", None) or [(64, 64)]
    most = 0
    for height, width in sizes:
        inputs = processor.image_processor(Image.new("RGB", (width, height)), return_tensors="pt")
        num_tokens = processor.replace_image_token(inputs, 0).count(processor.image_token)
        if num_tokens > most:
            largest, most = dict(inputs), num_tokens
    return largest, most
