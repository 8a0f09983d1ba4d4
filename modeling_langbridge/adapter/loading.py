# SPDX-License-Identifier: Apache-2.0
"""The one loader of checkpoints: what it returns is whole, finite and as its files say, or one sentence says why not.

transformers fills in what a checkpoint lacks: a `config.json` without `text_config` becomes a Llama of 7B, missing
weights become random numbers. Here both are refused, from the files' headers, before anything is allocated.
"""

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
from transformers.utils import WEIGHTS_INDEX_NAME, WEIGHTS_NAME

from ..configuration_langbridge import LangBridgeConfig
from ..modeling_langbridge import LangBridgeForConditionalGeneration
from ..processing_langbridge import LangBridgeProcessor
from ..utils.files import first_line
from ..utils.weights import find_weights, read_shapes, require_finite_files
from .adapter import PARTS
from .kinds import LANGBRIDGES, check_language_model, describe, read_model_config


DAMAGED = (OSError, ValueError, TypeError, AttributeError, KeyError, StrictDataclassError)


def open_config(name: str, revision: str | None = None) -> LangBridgeConfig:
    """
    Loads the configuration of a LangBridge checkpoint.

    Args:
        name (`str`): Hub id or folder.
        revision (`str`, *optional*): Branch, tag or commit on the Hub.

    Raises:
        `ValueError`: `name` is not the folder or Hub id of a LangBridge checkpoint, or its `config.json` is damaged.
    """
    try:
        content = read_model_config(name, revision)
    except OSError as error:
        raise not_a_checkpoint(name, error) from error
    if content.get("model_type") not in LANGBRIDGES:
        what, advice = describe(content)
        raise ValueError(f"{name} is {what}, not a LangBridge checkpoint: {advice}.")
    for part in ("text_config", "vision_config"):
        if not isinstance(content.get(part), dict) or "model_type" not in content[part]:
            raise ValueError(
                f"config.json in {name} is damaged, it has no `{part}` with a `model_type`: save the model again."
            )
        if (part_type := content[part]["model_type"]) not in CONFIG_MAPPING:
            raise ValueError(
                f"`{part}.model_type` in config.json of {name} is {part_type!r}, which transformers does not have: "
                "save the model again, or update transformers."
            )
    try:
        return CONFIG_MAPPING[content["model_type"]].from_pretrained(name, revision=revision)
    except DAMAGED as error:
        cause = error.__cause__ if isinstance(error, StrictDataclassError) else None
        raise ValueError(f"config.json in {name} is damaged ({first_line(cause or error)}): save it again.") from error


def open_processor(name: str, revision: str | None = None) -> tuple[LangBridgeConfig, LangBridgeProcessor]:
    """
    Loads the configuration and the processor of a LangBridge checkpoint, of any adapter type.

    Args:
        name (`str`), revision (`str`, *optional*): As of [`open_config`].

    Raises:
        `ValueError`: as [`open_config`], or the processor is missing or damaged.
    """
    config = open_config(name, revision)
    try:
        return config, PROCESSOR_MAPPING[type(config)].from_pretrained(name, revision=revision)
    except DAMAGED as error:
        raise ValueError(
            f"The processor in {name} cannot be loaded ({first_line(error)}): save it again, with "
            "`processor.save_pretrained`."
        ) from error


def open_model(
    name: str, revision: str | None = None, device_map: str | None = "auto", **options: Any
) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]:
    """
    Loads a LangBridge checkpoint, of any adapter type, with its processor.

    Every weight is read once before it is loaded, 0.3 s per GB where the files are in the system's cache.

    Args:
        name (`str`), revision (`str`, *optional*): As of [`open_config`].
        device_map (`str`, *optional*, defaults to `"auto"`): As of `from_pretrained`; `None` is the CPU.
        options: Others of `from_pretrained`, such as `dtype` or `quantization_config`.

    Returns:
        `tuple(LangBridgeForConditionalGeneration, LangBridgeProcessor)`: the model in eval mode, and its processor.

    Raises:
        `ValueError`: as [`open_processor`] and [`check_weights`].
    """
    config, processor = open_processor(name, revision)
    return load_model(name, config, revision, device_map=device_map, **options), processor


def load_model(
    name: str, config: LangBridgeConfig, revision: str | None = None, **options: Any
) -> LangBridgeForConditionalGeneration:
    """[`open_model`] without the processor, of a configuration that [`open_config`] has read."""
    check_weights(name, config, revision)
    try:
        model, info = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)].from_pretrained(
            name, revision=revision, output_loading_info=True, **options
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"{name} cannot be loaded ({first_line(error)}).") from error
    require_whole(name, info)
    return model


def open_language_model(name: str, **options: Any) -> PreTrainedModel:
    """
    Loads a language model, and checks that it is one and lacks no weight.

    Args:
        name (`str`): Hub id or folder.
        options: Of `from_pretrained`, such as `dtype`.

    Raises:
        `ValueError`: `name` is something else, is damaged, or its weights are not whole and finite.
    """
    try:
        check_language_model(name)
    except OSError as error:
        raise ValueError(
            f"{name!r} must be a Hub id or a local folder that holds a language model ({first_line(error)})."
        ) from error
    require_finite_files(find_weights(name))
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            name, trust_remote_code=False, output_loading_info=True, **options
        )
    except (*DAMAGED, RuntimeError, SafetensorError) as error:
        raise ValueError(f"The language model {name} cannot be loaded ({first_line(error)}).") from error
    if missing := sorted(info["missing_keys"]):
        raise lacks_weights(name, missing)
    return model


def check_weights(name: str, config: LangBridgeConfig, revision: str | None = None) -> None:
    """
    Compares the weights of a checkpoint with its configuration, and reads them once, before a model is built of them.

    Args:
        name (`str`), revision (`str`, *optional*): As of [`open_config`].
        config ([`LangBridgeConfig`]): Its configuration.

    Raises:
        `ValueError`: a file is missing, cut short or no safetensors; a tensor is missing, foreign, of another shape
        than the configuration says, or not finite. The message names the file or the tensor.
    """
    files = require_weights(name, revision)
    shapes = read_shapes(files)
    if "quantization_config" not in config.to_dict():  # packed weights have names and shapes of their own
        check_shapes(name, config, shapes)
    require_finite_files(files)


def require_weights(name: str, revision: str | None = None) -> list[Path]:
    """The safetensors files of a model, see [`find_weights`]; raises `ValueError` where there are none."""
    if files := find_weights(name, revision):
        return files
    if pickled := [file for file in (WEIGHTS_NAME, WEIGHTS_INDEX_NAME) if Path(name, file).is_file()]:
        raise ValueError(
            f"{name} holds {pickled[0]}, a pickle, which could run code: convert it to safetensors where it was made, "
            "by loading it and `save_pretrained`."
        )
    raise ValueError(f"There is no model.safetensors in {name}: save the model with `model.save_pretrained`.")


def check_shapes(name: str, config: LangBridgeConfig, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raises `ValueError` where a configuration describes another model than the tensors of these shapes."""
    model = build_empty(name, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)], config, shapes)
    expected = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    if wrong := [key for key in expected if key in shapes and list(shapes[key]) != expected[key]]:
        raise ValueError(
            f"`{wrong[0]}` in {name} is {list(shapes[wrong[0]])}, but its config.json says {expected[wrong[0]]}: give "
            "the config.json that the weights were saved with."
        )
    # Other parts' names may be those of an older transformers, which loading translates; it says what is missing then.
    missing = [key for key in expected if key not in shapes and key not in model.all_tied_weights_keys]
    if missing and (is_far_larger(model, shapes) or any(key.startswith(PARTS) for key in missing)):
        raise lacks_weights(name, missing)
    if foreign := [key for key in shapes if key.startswith(PARTS) and key not in expected]:
        raise has_foreign_weights(name, foreign)


def build_empty(
    name: str, model_class: type[PreTrainedModel], config: PreTrainedConfig, shapes: Mapping[str, Sequence[int]]
) -> PreTrainedModel:
    """A model without weights, on the meta device; raises `ValueError` where the configuration makes no sense."""
    for part in (config.text_config, config.vision_config):
        layers = getattr(part, "num_hidden_layers", 0)  # convolutional towers have none
        if layers > len(shapes):  # even without weights, a million layers take hours
            raise ValueError(
                f"config.json in {name} describes {layers:,} layers, but its weights are {len(shapes):,} tensors: "
                "give the config.json that they were saved with."
            )
    try:
        with torch.device("meta"):
            return model_class(copy.deepcopy(config))
    except (RuntimeError, ZeroDivisionError, *DAMAGED) as error:
        raise ValueError(f"config.json in {name} describes no model ({first_line(error)}): save it again.") from error


def is_far_larger(model: PreTrainedModel, shapes: Mapping[str, Sequence[int]]) -> bool:
    """Whether a model has so many more parameters than tensors of these shapes hold that it must not be allocated."""
    held = sum(torch.Size(shape).numel() for shape in shapes.values())
    return sum(parameter.numel() for parameter in model.parameters()) > 2 * held


def require_whole(name: str, info: Mapping[str, set[str]]) -> None:
    """Raises `ValueError` where loading has filled in weights at random, or left some out, by its `loading_info`."""
    if missing := sorted(info["missing_keys"]):
        raise lacks_weights(name, missing)
    if foreign := sorted(info["unexpected_keys"]):
        raise has_foreign_weights(name, foreign)


def lacks_weights(name: str, missing: Sequence[str]) -> ValueError:
    return ValueError(
        f"{name} lacks {len(missing)} weights that its config.json describes, such as `{missing[0]}`: give a whole "
        "checkpoint."
    )


def has_foreign_weights(name: str, foreign: Sequence[str]) -> ValueError:
    return ValueError(
        f"{name} has {len(foreign)} weights that its config.json does not describe, such as `{foreign[0]}`: give the "
        "config.json that they were saved with."
    )


def not_a_checkpoint(name: str, error: Exception) -> ValueError:
    return ValueError(f"{name} must be the folder or Hub id of a LangBridge checkpoint ({first_line(error)}).")
