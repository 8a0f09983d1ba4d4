# Copyright 2026 The LangBridge team. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
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
