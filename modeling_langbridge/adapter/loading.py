# SPDX-License-Identifier: Apache-2.0
"""Loads a checkpoint for inference, with a readable error."""

from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from ..modeling_langbridge import LangBridgeForConditionalGeneration
from ..processing_langbridge import LangBridgeProcessor
from ..utils.files import first_line


def open_model(
    name: str, device_map: str | None = "auto"
) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]:
    """
    Loads a LangBridge checkpoint, of any adapter type, for inference, with its processor.

    Args:
        name (`str`): Hub id or folder.
        device_map (`str`, *optional*, defaults to `"auto"`): As of `from_pretrained`; `None` is the CPU.

    Raises:
        `ValueError`: `name` is not the folder or Hub id of a LangBridge checkpoint.
    """
    try:
        AutoConfig.from_pretrained(name, trust_remote_code=False)  # raises an error for an adapter alone
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
        model = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=False, device_map=device_map)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name} must be the folder or Hub id of a LangBridge checkpoint ({first_line(error)})."
        ) from error
    if not isinstance(model, LangBridgeForConditionalGeneration):
        raise ValueError(f"{name} holds a {type(model).__name__}: give a LangBridge checkpoint.")
    return model, processor
