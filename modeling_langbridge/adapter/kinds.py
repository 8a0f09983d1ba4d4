# SPDX-License-Identifier: Apache-2.0
"""What a folder or Hub id holds, told from its `config.json` alone, and which place it is given in by mistake."""

from pathlib import Path
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils.hub import cached_file

from ..configuration_langbridge import LangBridgeConfig
from ..configuration_langbridge_next import LangBridgeNextConfig
from ..utils.files import find_folder, is_hub_id, read_json
from .configuration import LangBridgeAdapterConfig


LANGBRIDGES = (LangBridgeConfig.model_type, LangBridgeNextConfig.model_type)
LLAVAS = ("llava", "llava_next")
LORA_CONFIG = "adapter_config.json"  # PEFT's


def is_lora(name: str, revision: str | None = None) -> bool:
    """Whether a folder or Hub id holds a LoRA, in whose place transformers would load its base."""
    if Path(name).is_dir():
        return Path(name, LORA_CONFIG).is_file()
    if not is_hub_id(name):  # the path of a folder that is not there
        return False
    found = cached_file(
        name,
        LORA_CONFIG,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return found is not None


def read_model_config(name: str, revision: str | None = None) -> dict[str, Any]:
    """
    The content of a model's `config.json`, without a configuration class, which would fill in what is missing.

    Args:
        name (`str`): Folder or Hub id.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Raises:
        `OSError`: there is no such folder or repository, or no `config.json` in it.
        `ValueError`: `name` is a file or a LoRA, or `config.json` is damaged.
    """
    if Path(name).is_file():
        raise ValueError(f"{name} is a file: name the folder that it lies in.")
    if is_lora(name, revision):
        raise ValueError(f"{name} holds a LoRA: merge it into its base first, with scripts/merge_lora.py.")
    path = find_folder(name, ["config.json"], revision) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"There is no config.json in {name}: name the folder of a model.")
    config = read_json(path)
    if not isinstance(config, dict):
        raise ValueError(f"{path} is damaged, it must hold a JSON object: save or download it again.")
    return config


def describe(config: dict[str, Any]) -> tuple[str, str]:
    """What a model is by its `config.json`, and what to do with it instead of giving it as something else."""
    model_type = config.get("model_type")
    if model_type in LANGBRIDGES:
        return "a whole LangBridge", "give it as the model (--model)"
    if model_type == LangBridgeAdapterConfig.model_type:
        return "an adapter alone", "join it with a vision tower and a language model by scripts/transfer.py"
    if model_type in LLAVAS:
        return "a stock LLaVA", "make a LangBridge of it first, with scripts/lift.py"
    if model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return f"a language model of type {model_type}", "give it as the language model (--language_model)"
    return f"a model of type {model_type}", "give it as the vision tower (--vision_tower) if it is one"


def check_language_model(name: str) -> None:
    """Raises `ValueError` where a folder or Hub id, which is to be a language model, is something else."""
    config = read_model_config(name)
    if config.get("model_type") not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        what, advice = describe(config)
        raise ValueError(f"The language model {name} is {what}: {advice}.")


def check_vision_tower(name: str) -> None:
    """Raises `ValueError` where a folder or Hub id, which is to be a vision tower, is something else."""
    config = read_model_config(name)
    others = {*LANGBRIDGES, LangBridgeAdapterConfig.model_type, *LLAVAS}
    if config.get("model_type") in others | MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys():
        what, advice = describe(config)
        raise ValueError(f"The vision tower {name} is {what}: {advice}.")


def is_adapter(name: str) -> bool:
    """Whether a folder or Hub id is an adapter's alone. Raises as [`read_model_config`]."""
    return read_model_config(name).get("model_type") == LangBridgeAdapterConfig.model_type
