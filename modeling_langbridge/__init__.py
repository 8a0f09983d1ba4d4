# SPDX-License-Identifier: Apache-2.0
"""LangBridge for transformers: importing this package registers its classes with the Auto classes."""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM, AutoProcessor

from .adapter import LangBridgeAdapterConfig, load_adapter, push_adapter_to_hub, save_adapter
from .configuration_langbridge import LangBridgeConfig
from .export import to_llava
from .lifting import lift
from .modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeModel
from .processing_langbridge import LangBridgeProcessor
from .transfer import from_adapter, transfer
from .vocabulary import SharedVocabulary


AutoConfig.register("langbridge", LangBridgeConfig)
AutoConfig.register("langbridge_adapter", LangBridgeAdapterConfig)
AutoProcessor.register(LangBridgeConfig, LangBridgeProcessor)
# AutoModel, too, gives the generating class, so that its result can be handed to a pipeline.
for auto_class in (AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM):
    auto_class.register(LangBridgeConfig, LangBridgeForConditionalGeneration)

LangBridgeConfig.register_for_auto_class()
LangBridgeForConditionalGeneration.register_for_auto_class("AutoModelForImageTextToText")
LangBridgeProcessor.register_for_auto_class()

__all__ = [
    "LangBridgeConfig",
    "LangBridgeForConditionalGeneration",
    "LangBridgeModel",
    "LangBridgeProcessor",
    "SharedVocabulary",
    "from_adapter",
    "lift",
    "load_adapter",
    "push_adapter_to_hub",
    "save_adapter",
    "to_llava",
    "transfer",
]
