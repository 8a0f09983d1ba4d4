# SPDX-License-Identifier: Apache-2.0
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
