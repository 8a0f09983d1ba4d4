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
"""What teaches a LangBridge: data in, parts trained as stated, TRL's SFTTrainer."""

from .data import load_training_data
from .parts import PartArguments, describe_parts, prepare_parts
from .sft_trainer import LangBridgeSFTConfig, LangBridgeSFTTrainer
from .word_watching import WordWatchingCallback


__all__ = [
    "LangBridgeSFTConfig",
    "LangBridgeSFTTrainer",
    "PartArguments",
    "WordWatchingCallback",
    "describe_parts",
    "load_training_data",
    "prepare_parts",
]
