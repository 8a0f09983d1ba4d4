# SPDX-License-Identifier: Apache-2.0
"""The base that a LoRA's folder names: whether it is the model that is trained, and where it lies."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from peft.utils import CONFIG_NAME
from safetensors import safe_open
from torch import nn
from transformers import AutoConfig, PreTrainedModel
from transformers.integrations import is_deepspeed_zero3_enabled

from modeling_langbridge.utils.files import atomic_file, first_line, read_json
from modeling_langbridge.utils.weights import find_weights


# Fields of a configuration that say how a model is kept, or what processor and generation settings say too.
NOT_THE_MODELS = {
    "_name_or_path",
    "architectures",
    "auto_map",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "llava",
    "llava_next",
    "pad_token_id",
    "quantization_config",
    "transformers_version",
    "use_cache",
}


def check_base(model: PreTrainedModel) -> None:
    """
    Compares a model that is to be trained by LoRA with what its `name_or_path`, which the LoRA's folder will name,
    holds. Trained parameters may differ: the LoRA's folder keeps them. The others' files are read once.

    Args:
        model (`PreTrainedModel`):
            A LangBridge, not yet wrapped by PEFT, whose frozen parameters require no gradient.

    Raises:
        `ValueError`: the model was not loaded from a folder or the Hub, or has been changed since.
    """
    if difference := find_difference(model):
        raise ValueError(
            f"A LoRA's folder only names the model it was trained on, and {difference}: save the model and its "
            "processor (`save_pretrained`), and train what is loaded from there."
        )


def find_difference(model: PreTrainedModel) -> str | None:
    """What keeps `name_or_path` from being the model in memory, for the sentence above; `None` where nothing does."""
    name = model.name_or_path
    if not name:
        return "this one was composed in memory"
    if model._hf_peft_config_loaded:
        return f"this one is {name} with another LoRA (scripts/merge_lora.py merges that one first)"
    try:
        saved = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        return f"there is no model at {name}, from which this one was loaded ({first_line(error)})"
    for field, ours, theirs in different_fields(model.config.to_dict(), saved.to_dict()):
        return f"`{field}` is {ours!r} here but {theirs!r} in {name}"
    # ZeRO-3 has sharded what it loaded.
    if not is_deepspeed_zero3_enabled() and (changed := find_changed_tensor(model, find_weights(name))):
        return f"`{changed}` is not as it is in {name}"
    return None


def different_fields(ours: Any, theirs: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The paths of the fields in which two configurations differ, with their values."""
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        if ours != theirs:
            yield path, ours, theirs
        return
    for field in sorted({*ours, *theirs} - NOT_THE_MODELS):
        inner = f"{path}.{field}" if path else field
        yield from different_fields(ours.get(field), theirs.get(field), inner)


def find_changed_tensor(model: nn.Module, files: list[Path]) -> str | None:
    """The name of a tensor whose shape, or, where it stays untrained, whose values are not those in the files."""
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(file, framework="pt")) for file in files]
        where = {name: file for file in opened for name in file.keys()}  # noqa: SIM118
        for name, tensor in chain(model.named_parameters(), model.named_buffers()):
            # A quantised tensor is of a class of its own, and not what the file holds.
            if name not in where or tensor.is_meta or type(tensor) not in (nn.Parameter, nn.Buffer, torch.Tensor):
                continue
            if list(tensor.shape) != where[name].get_slice(name).get_shape():
                return name
            if not tensor.requires_grad and not is_cast_of(tensor.detach().cpu(), where[name].get_tensor(name)):
                return name
    return None


def is_cast_of(tensor: torch.Tensor, saved: torch.Tensor) -> bool:
    """Whether a tensor is a saved one in the dtype that it was loaded in, or has been cast to since."""
    dtypes = (tensor.dtype, torch.bfloat16, torch.float16) if tensor.is_floating_point() else (tensor.dtype,)
    return any(torch.equal(tensor, saved.to(dtype).to(tensor.dtype)) for dtype in dtypes)


def point_to_base(folder: Path, place: Path) -> None:
    """
    Writes the base in a saved LoRA's `adapter_config.json`, where it is a local folder, as a path from the LoRA's own.

    PEFT writes the path from the working folder, `runs/base`, which is taken for a repository of the Hub from
    everywhere else. A path that begins with `./` or `../` never is. Does nothing in a folder without a LoRA.

    Args:
        folder (`Path`): Where the LoRA was saved.
        place (`Path`): Where the folder's files will be in the end.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        return
    config = read_json(path)
    name = config["base_model_name_or_path"]
    if not name or name.startswith(".") or not Path(name).is_dir():
        return
    relative = Path(os.path.relpath(Path(name).resolve(), place.resolve())).as_posix()
    config["base_model_name_or_path"] = relative if relative.startswith("..") else f"./{relative}"
    with atomic_file(path) as unfinished:
        unfinished.write_text(json.dumps(config, indent=2), encoding="utf-8")


def find_base(folder: Path, name: str) -> str:
    """
    The folder or Hub id of a LoRA's base.

    Args:
        folder (`Path`): The LoRA's folder.
        name (`str`): What its `base_model_name_or_path` says; a path that begins with a dot counts from the folder.

    Raises:
        `ValueError`: the name is that of a folder here, and may be that of a repository on the Hub.
    """
    if name.startswith("."):
        return str((folder / name).resolve())
    if not Path(name).is_absolute() and Path(name).exists():
        raise ValueError(
            f"`base_model_name_or_path` in {folder / CONFIG_NAME} is {name!r}, which may be the folder of that name "
            "here or a repository on the Hub: give the one that the LoRA was trained on as --base."
        )
    return name
