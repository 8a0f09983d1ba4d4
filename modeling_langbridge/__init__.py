# SPDX-License-Identifier: Apache-2.0
"""LangBridge for transformers: importing this package registers its classes with the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

from .adapter.adapter import LangBridgeAdapter
from .adapter.configuration import LangBridgeAdapterConfig
from .adapter.transfer import transfer
from .configuration_langbridge import LangBridgeConfig
from .configuration_langbridge_next import LangBridgeNextConfig
from .conversion.from_llava import lift
from .conversion.to_llava import to_llava
from .modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeModel
from .modeling_langbridge_next import LangBridgeNextForConditionalGeneration, LangBridgeNextModel
from .processing_langbridge import LangBridgeProcessor
from .processing_langbridge_next import LangBridgeNextProcessor
from .vocabulary.shared_vocabulary import SharedVocabulary


AutoConfig.register("langbridge_adapter", LangBridgeAdapterConfig)
for config, model, processor in (
    (LangBridgeConfig, LangBridgeForConditionalGeneration, LangBridgeProcessor),
    (LangBridgeNextConfig, LangBridgeNextForConditionalGeneration, LangBridgeNextProcessor),
):
    AutoConfig.register(config.model_type, config)
    AutoProcessor.register(config, processor)
    # AutoModel, too, gives the generating class, which a pipeline can use.
    for auto_class in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto_class.register(config, model)
    config.register_for_auto_class()
    model.register_for_auto_class("AutoModelForImageTextToText")
    processor.register_for_auto_class()

__all__ = [
    "LangBridgeAdapter",
    "LangBridgeAdapterConfig",
    "LangBridgeConfig",
    "LangBridgeForConditionalGeneration",
    "LangBridgeModel",
    "LangBridgeNextConfig",
    "LangBridgeNextForConditionalGeneration",
    "LangBridgeNextModel",
    "LangBridgeNextProcessor",
    "LangBridgeProcessor",
    "SharedVocabulary",
    "lift",
    "to_llava",
    "transfer",
]
