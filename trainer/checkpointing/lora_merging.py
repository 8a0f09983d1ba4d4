# SPDX-License-Identifier: Apache-2.0
"""Merges a LoRA into its base: one floating-point model without PEFT, whose logits are checked against the two."""

from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.utils import CONFIG_NAME, SAFETENSORS_WEIGHTS_NAME
from torch import nn
from transformers import AutoConfig

from modeling_langbridge import LangBridgeConfig, LangBridgeForConditionalGeneration, LangBridgeProcessor
from modeling_langbridge.adapter.adapter import WEIGHTS
from modeling_langbridge.adapter.loading import load_model, open_config
from modeling_langbridge.conversion.logit_probe import LogitDifference, compare_logits, probe
from modeling_langbridge.utils.files import first_line, read_safetensors
from modeling_langbridge.utils.weights import require_finite

from .lora_base import find_base


WORD_IDS = ("vocabulary_head.token_ids", "vocabulary_head.combined_ids")


def merge_lora(
    folder: str | Path, base: str | Path | None = None
) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor, LogitDifference]:
    """
    Merges a LoRA, and the parts that were trained in full beside it, into the LangBridge that it belongs to.

    The base is loaded in float32 whatever it was trained in: a merge into 4 bits would round the LoRA away. A QLoRA
    was trained on the rounded base; the result is the unrounded base with the same update, whose logits are not
    those of the 4-bit model.

    Args:
        folder (`str` or `Path`):
            What [`LangBridgeSFTTrainer`] saved in a run with LoRA: its output or one of its checkpoints.
        base (`str` or `Path`, *optional*):
            Folder or Hub id of the LangBridge the LoRA was trained on. What the LoRA's `base_model_name_or_path`
            names when left out, a path that begins with a dot from the LoRA's own folder.

    Returns:
        `tuple(LangBridgeForConditionalGeneration, LangBridgeProcessor, LogitDifference)`: the merged model in float32
        and in eval mode, the processor it was trained with, and how far its logits lie from those of base and LoRA.

    Raises:
        `FileNotFoundError`: there is no LoRA in `folder`, or its base is not found.
        `ValueError`: the base is no LangBridge, is quantised, or does not fit; or the merge changes the logits.

    Source: Hu et al., "LoRA", arXiv 2106.09685, section 4.1 (W + BA merged for inference).
    """
    folder = Path(folder)
    config = read_lora_config(folder)
    tensors = read_lora_tensors(folder)
    model = load_base(folder, config, base)
    processor = load_processor(folder, model.processor_class)
    num_tokens, num_embeddings = len(processor.tokenizer), model.get_input_embeddings().num_embeddings
    if num_tokens > num_embeddings:
        raise ValueError(
            f"{folder} does not fit the base {model.name_or_path} (its tokenizer has {num_tokens} tokens, the base "
            f"{num_embeddings} embeddings): give the LangBridge that it was trained on as --base."
        )
    model = attach_lora(model, config, tensors, folder)
    before = probe(model, processor)
    model = model.merge_and_unload()
    difference = compare_logits(probe(model, processor), before)
    if not difference.is_small():
        raise ValueError(f"The merge of {folder} changes the logits by {difference}: nothing is written.")
    return model, processor, difference


def read_lora_config(folder: Path) -> LoraConfig:
    if not (folder / CONFIG_NAME).is_file():
        raise FileNotFoundError(
            f"There is no {CONFIG_NAME} in {folder}, so nothing to merge: {describe_folder(folder)}."
        )
    try:
        config = PeftConfig.from_pretrained(folder)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / CONFIG_NAME} is damaged ({error}): name a folder with a whole LoRA.") from error
    if not isinstance(config, LoraConfig):
        raise ValueError(f"{folder / CONFIG_NAME} is of type {config.peft_type.value}: only a LoRA can be merged.")
    return config


def describe_folder(folder: Path) -> str:
    """What a folder without a LoRA is, and what to do with it."""
    if not folder.is_dir():
        return "there is no such folder"
    if (folder / WEIGHTS).is_file():
        return "it is an adapter alone, which `LangBridgeAdapter.join` joins with a language model"
    if (folder / "config.json").is_file():
        return "it is a complete model, which needs no merging"
    if checkpoints := sorted(path.parent.name for path in folder.glob(f"checkpoint-*/{CONFIG_NAME}")):
        return f"it is a run that did not end, name one of its checkpoints ({', '.join(checkpoints)})"
    return "name the output folder of a run with --train_language_model lora, or one of its checkpoints"


def read_lora_tensors(folder: Path) -> dict[str, torch.Tensor]:
    tensors = read_safetensors(folder / SAFETENSORS_WEIGHTS_NAME)
    require_finite(tensors.items(), folder / SAFETENSORS_WEIGHTS_NAME)
    return tensors


def load_processor(folder: Path, processor_class: type[LangBridgeProcessor]) -> LangBridgeProcessor:
    try:
        return processor_class.from_pretrained(folder)
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(
            f"There is no LangBridge processor in {folder} ({first_line(error)}): the LoRA must be one that was "
            "trained on a LangBridge, as it was saved."
        ) from error


def load_base(folder: Path, lora: LoraConfig, base: str | Path | None) -> LangBridgeForConditionalGeneration:
    """Loads the base in float32, and refuses one that is no LangBridge or that is not floating-point."""
    name = lora.base_model_name_or_path if base is None else str(base)
    origin = "`base_model_name_or_path` in the LoRA's adapter_config.json" if base is None else "--base"
    if not name:
        raise ValueError(f"{origin} names no model: give the LangBridge that the LoRA was trained on as --base.")
    if base is None:
        name = find_base(folder, name)
    if Path(name, CONFIG_NAME).is_file():
        raise ValueError(f"{name}, which {origin} names, is itself a LoRA: merge that one into its base first.")
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        gone = Path(name).is_absolute() and not Path(name).exists()
        reason = "there is no such folder" if gone else first_line(error)
        raise FileNotFoundError(
            f"No model can be found at {name}, which {origin} names ({reason}): give the folder or Hub id of the "
            "LangBridge that the LoRA was trained on as --base."
        ) from error
    if not isinstance(config, LangBridgeConfig):
        raise ValueError(
            f"{name}, which {origin} names, is a model of type {config.model_type}, no LangBridge: a LoRA that was "
            "trained on it can only be merged by other means."
        )
    if "quantization_config" in config.to_dict():
        raise ValueError(
            f"{name}, which {origin} names, was saved quantised, and a merge into rounded weights would change the "
            "logits: give the same LangBridge in floating point as --base."
        )
    try:
        return load_model(name, open_config(name), device_map=None, dtype=torch.float32)
    except ValueError as error:
        raise ValueError(f"The base {name} cannot be loaded ({first_line(error)}): give a whole one.") from error


def attach_lora(
    model: LangBridgeForConditionalGeneration, config: LoraConfig, tensors: dict[str, torch.Tensor], folder: Path
) -> nn.Module:
    """PEFT alone would ignore tensors that the base has no parameter for, and leave untrained what has no tensor."""
    name = config.base_model_name_or_path = model.name_or_path
    try:
        model = get_peft_model(model, config)
    except ValueError as error:
        raise ValueError(
            f"{folder} does not fit the base {name} ({first_line(error)}): give the LangBridge that it was trained on."
        ) from error
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    for key in sorted({*tensors, *expected}):
        if key not in expected or key not in tensors or tensors[key].shape != expected[key].shape:
            there, here = (list(of[key].shape) if key in of else "missing" for of in (tensors, expected))
            raise ValueError(
                f"{folder} does not fit the base {name} (`{key}` is {there} in the LoRA but {here} in the base): "
                "give the LangBridge that it was trained on as --base."
            )
        if key.endswith(WORD_IDS) and not torch.equal(tensors[key], expected[key]):
            raise ValueError(
                f"{folder} does not fit the base {name} (their coefficients run over different words): give the "
                "LangBridge that it was trained on as --base."
            )
    set_peft_model_state_dict(model, tensors)
    return model.eval()
