# SPDX-License-Identifier: Apache-2.0
"""LangBridge for transformers: importing this package registers its classes with the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

from .adapter.adapter import LangBridgeAdapter
from .adapter.configuration import LangBridgeAdapterConfig
from .adapter.transfer import transfer
from .configuration_langbridge import LangBridgeConfig
from .conversion.from_llava import lift
from .conversion.to_llava import to_llava
from .modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeModel
from .processing_langbridge import LangBridgeProcessor
from .vocabulary.shared_vocabulary import SharedVocabulary


AutoConfig.register("langbridge", LangBridgeConfig)
AutoConfig.register("langbridge_adapter", LangBridgeAdapterConfig)
AutoProcessor.register(LangBridgeConfig, LangBridgeProcessor)
# AutoModel, too, gives the generating class, which a pipeline can use.
for auto_class in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_class.register(LangBridgeConfig, LangBridgeForConditionalGeneration)

LangBridgeConfig.register_for_auto_class()
LangBridgeForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
LangBridgeProcessor.register_for_auto_class()

__all__ = [
    "LangBridgeAdapter",
    "LangBridgeAdapterConfig",
    "LangBridgeConfig",
    "LangBridgeForConditionalGeneration",
    "LangBridgeModel",
    "LangBridgeProcessor",
    "SharedVocabulary",
    "lift",
    "to_llava",
    "transfer",
]
