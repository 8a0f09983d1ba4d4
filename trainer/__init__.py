# SPDX-License-Identifier: Apache-2.0
"""What teaches a LangBridge: data in, parts trained as stated, TRL's SFTTrainer."""

from importlib import import_module
from typing import Any


# Imported when asked for: all of it would take several seconds, and whoever checks data needs no trainer.
_SUBMODULES = {
    "GroundingConfig": "grounding",
    "GroundingTrainer": "grounding",
    "LangBridgeSFTConfig": "sft_config",
    "LangBridgeSFTTrainer": "sft_trainer",
    "PartArguments": "parts",
    "PhotoPreviewCallback": "callbacks.photo_preview",
    "SeveralLanguageModelsTrainer": "several.trainer",
    "check_file": "data.checking",
    "compose_for_grounding": "grounding",
    "describe_parts": "parts",
    "distil": "distillation",
    "distil_captions": "caption_distillation",
    "load_training_data": "data.sources",
    "merge_lora": "checkpointing.lora_merging",
    "prepare_parts": "parts",
    "share_adapter": "several.sharing",
    "write_clean_rows": "data.checking",
}

__all__ = list(_SUBMODULES)


def __getattr__(name: str) -> Any:
    if name not in _SUBMODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_SUBMODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
