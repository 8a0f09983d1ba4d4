# SPDX-License-Identifier: Apache-2.0
"""What teaches a LangBridge: data in, parts trained as stated, TRL's SFTTrainer."""

from .callbacks.photo_preview import PhotoPreviewCallback
from .data.sources import load_training_data
from .parts import PartArguments, describe_parts, prepare_parts
from .sft_trainer import LangBridgeSFTConfig, LangBridgeSFTTrainer


__all__ = [
    "LangBridgeSFTConfig",
    "LangBridgeSFTTrainer",
    "PartArguments",
    "PhotoPreviewCallback",
    "describe_parts",
    "load_training_data",
    "prepare_parts",
]
