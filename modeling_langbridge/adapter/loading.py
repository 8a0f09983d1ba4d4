# SPDX-License-Identifier: Apache-2.0
"""A checkpoint loaded for inference, or one sentence that gives the reason why not."""

from pathlib import Path

from transformers import AutoConfig

from ..configuration_langbridge import LangBridgeConfig
from ..modeling_langbridge import LangBridgeForConditionalGeneration
from ..processing_langbridge import LangBridgeProcessor
from ..utils.files import first_line


LORA_CONFIG = "adapter_config.json"  # PEFT's


def open_processor(name: str) -> tuple[LangBridgeConfig, LangBridgeProcessor]:
    """
    Loads the configuration and the processor of a LangBridge checkpoint, of any adapter type.

    Args:
        name (`str`): Hub id or folder.

    Raises:
        `ValueError`: `name` is not the folder or Hub id of a LangBridge checkpoint.
    """
    if Path(name, LORA_CONFIG).is_file():
        raise ValueError(f"{name} holds a LoRA: merge it into its base first, with scripts/merge_lora.py.")
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)  # raises an error for an adapter alone
        processor = LangBridgeProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise not_a_checkpoint(name, error) from error
    if not isinstance(config, LangBridgeConfig):
        raise ValueError(f"{name} holds a model of type {config.model_type}: give a LangBridge checkpoint.")
    return config, processor


def open_model(
    name: str, device_map: str | None = "auto"
) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]:
    """
    Loads a LangBridge checkpoint, of any adapter type, for inference, with its processor.

    Args:
        name (`str`): Hub id or folder.
        device_map (`str`, *optional*, defaults to `"auto"`): As of `from_pretrained`; `None` is the CPU.

    Raises:
        `ValueError`: as [`open_processor`].
    """
    _, processor = open_processor(name)
    try:
        return LangBridgeForConditionalGeneration.from_pretrained(name, device_map=device_map), processor
    except (OSError, ValueError) as error:
        raise not_a_checkpoint(name, error) from error


def not_a_checkpoint(name: str, error: Exception) -> ValueError:
    return ValueError(f"{name} must be the folder or Hub id of a LangBridge checkpoint ({first_line(error)}).")
