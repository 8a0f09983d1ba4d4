# SPDX-License-Identifier: Apache-2.0
"""Reads the files of the published LangBridge code: a checkpoint, its vocabulary, its word embeddings.

Each is checked to be complete and to fit the others. No code inside a file is run.
"""

import ast
from pathlib import Path
from pickle import UnpicklingError
from typing import NamedTuple

import torch
from torch import nn
from transformers import (
    CLIPVisionModel,
    LlamaForCausalLM,
    MistralForCausalLM,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    Qwen2ForCausalLM,
)

from ..utils.files import first_line, read_json, read_safetensors, require_file


LANGUAGE_MODELS = {
    "llava_llama": LlamaForCausalLM,
    "llava_mistral": MistralForCausalLM,
    "llava_qwen": Qwen2ForCausalLM,
}
# Supported settings; the first value is the original's default.
SUPPORTED = {
    "mm_projector_type": ["mm_vocab"],
    "mm_vision_select_feature": ["patch"],
    "mm_resampler_type": [None],
    "mm_use_im_start_end": [False],
}
# `mm_patch_merge_type` and `image_aspect_ratio`: LLaVA-1.5's, and LLaVA-NeXT's.
FLAT, SPATIAL = "flat", "spatial_unpad"
IMAGES = {FLAT: ["square", "pad", None], SPATIAL: ["anyres"]}
SIZES = ("mm_hidden_size", "mlp_hidden_size", "mm_vocab_size", "mm_vision_select_layer")
WEIGHTS = (
    "model.safetensors.index.json",
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
    "mm_projector.bin",  # the only weights after the first stage of training
)


# Older versions of transformers saved these with the weights.
CONSTANTS = (".rotary_emb.inv_freq", ".embeddings.position_ids")


class OriginalWeights(NamedTuple):
    """The tensors of a checkpoint by part, under the part's own names; empty for a part that it does not hold."""

    projector: dict[str, torch.Tensor]
    newline: dict[str, torch.Tensor]
    vision_tower: dict[str, torch.Tensor]
    language_model: dict[str, torch.Tensor]


PREFIXES = OriginalWeights("model.mm_projector.", "model.image_", "model.vision_tower.vision_tower.vision_model.", "")


def read_config(path: Path) -> dict:
    """Reads a checkpoint's `config.json`; raises `ValueError` for settings that this package does not support."""
    config = read_json_object(path)
    if config.get("model_type") not in LANGUAGE_MODELS:
        raise ValueError(
            f"`model_type` in {path} is {config.get('model_type')!r}, but checkpoints of the original have "
            f"{', '.join(LANGUAGE_MODELS)}: name a folder that its training wrote."
        )
    for field, values in SUPPORTED.items():
        if config.get(field, values[0]) not in values:
            raise ValueError(
                f"`{field}` is {config[field]!r} in {path}: only checkpoints with {values[0]!r} can be converted."
            )
    merge_type, aspect_ratio = config.get("mm_patch_merge_type", FLAT), config.get("image_aspect_ratio", "square")
    if aspect_ratio not in IMAGES.get(merge_type, []):
        raise ValueError(
            f"`mm_patch_merge_type` is {merge_type!r} and `image_aspect_ratio` {aspect_ratio!r} in {path}: only "
            f"checkpoints with {FLAT!r} and 'square' or 'pad', or with {SPATIAL!r} and 'anyres', can be converted."
        )
    if lacking := [field for field in SIZES if type(config.get(field)) is not int]:
        raise ValueError(f"{path} must give {', '.join(lacking)} as whole numbers: name a whole checkpoint.")
    return config


def reads_tiles(config: dict) -> bool:
    """Whether a checkpoint is of the original's LLaVA-NeXT tree."""
    return config.get("mm_patch_merge_type") == SPATIAL


def read_resolutions(config: dict, path: Path) -> list[list[int]]:
    """The resolutions `[height, width]` of a checkpoint whose images are tiles, in its order, which decides ties."""
    pairs = config.get("image_grid_pinpoints")
    try:
        pairs = ast.literal_eval(pairs) if isinstance(pairs, str) else pairs
        return [[int(height), int(width)] for width, height in pairs]
    except (ValueError, SyntaxError, TypeError) as error:
        raise ValueError(
            f"`image_grid_pinpoints` in {path} is {pairs!r}, but must list pairs of a width and a height: name a "
            "folder that the training wrote."
        ) from error


def read_text_config(config: dict) -> PreTrainedConfig:
    """The language model's configuration, without the fields of LLaVA and its training."""
    config_class = LANGUAGE_MODELS[config["model_type"]].config_class
    fields = config_class().to_dict().keys() - {"model_type", "transformers_version"} | {"rope_theta", "rope_scaling"}
    return config_class(**{field: config[field] for field in fields & config.keys()})


def read_vocabulary(path: Path, tokenizer: PreTrainedTokenizerBase, size: int) -> dict[str, int]:
    """The first V words of a vocabulary file, from spelling to token id; the ids must be the tokenizer's."""
    words = dict(list(read_json_object(path).items())[:size])
    if len(words) < size:
        raise ValueError(f"{path} holds {len(words)} words, fewer than `mm_vocab_size` in the checkpoint ({size}).")
    if wrong := [token_id for token_id in words.values() if type(token_id) is not int or token_id < 0]:
        raise ValueError(f"{path} must give each word's token id, a number from 0 on, and one is {wrong[0]!r}.")
    spellings = tokenizer.convert_ids_to_tokens(list(words.values()))
    if wrong := [(word, there) for word, there in zip(words, spellings, strict=True) if word != there]:
        some = ", ".join(f"{word!r} (its id is that of {there!r})" for word, there in wrong[:3])
        raise ValueError(
            f"{path} was made for another tokenizer than that of {tokenizer.name_or_path}, where {len(wrong)} of the "
            f"{size} words have other ids, such as {some}: give the training's own vocabulary or --language_model."
        )
    return words


def read_matrix(path: Path, num_words: int, width: int) -> torch.Tensor:
    """The word embeddings `(V, d)` from before the training."""
    matrix = read_tensors(path)
    if not isinstance(matrix, torch.Tensor) or not matrix.is_floating_point() or not matrix.isfinite().all():
        raise ValueError(f"{path} must hold one tensor of finite numbers, the training's `mm_vocab_matrix`.")
    if list(matrix.shape) != [num_words, width]:
        raise ValueError(
            f"{path} is {list(matrix.shape)}, but {num_words} words and a language model {width} wide ask for "
            f"{[num_words, width]}: give the training's `mm_vocab_matrix`."
        )
    return matrix


def read_weights(
    folder: Path, config: dict, vision_config: PreTrainedConfig, text_config: PreTrainedConfig
) -> OriginalWeights:
    """Reads a checkpoint's tensors; raises `ValueError` where one is missing, unknown or of another shape."""
    weights = OriginalWeights({}, {}, {}, {})
    for name, tensor in read_shards(folder).items():
        if not name.endswith(CONSTANTS):
            index = next(index for index, prefix in enumerate(PREFIXES) if name.startswith(prefix))
            weights[index][name.removeprefix(PREFIXES[index])] = tensor
    if text_config.tie_word_embeddings and "model.embed_tokens.weight" in weights.language_model:
        # Loading ties the output layer, whether or not it was saved.
        weights.language_model["lm_head.weight"] = weights.language_model["model.embed_tokens.weight"]

    d_v, H, V = config["mm_hidden_size"], config["mlp_hidden_size"], config["mm_vocab_size"]
    with torch.device("meta"):
        models = OriginalWeights(
            nn.Sequential(nn.Linear(d_v, H), nn.GELU(), nn.Linear(H, H), nn.Linear(H, V)),
            nn.ParameterDict({"newline": torch.empty(text_config.hidden_size)} if reads_tiles(config) else {}),
            CLIPVisionModel(vision_config),
            LANGUAGE_MODELS[config["model_type"]](text_config),
        )
    wrong = []
    for prefix, tensors, model in zip(PREFIXES, weights, models, strict=True):
        if not tensors and (tensors is weights.vision_tower or tensors is weights.language_model):
            continue
        expected = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
        for name in {**expected, **tensors}:
            there = list(tensors[name].shape) if name in tensors else "missing"
            if there != expected.get(name):
                wrong.append(f"`{prefix}{name}` is {there} but must be {expected.get(name, 'absent')}")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ValueError(f"The weights in {folder} do not fit its config.json: {', '.join(wrong[:3])}{more}.")
    return weights


def read_shards(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, from the first of the files `WEIGHTS` that exists."""
    path = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"There is none of {', '.join(WEIGHTS)} in {folder}: name a whole checkpoint (a LoRA has to be merged "
            "first, with the original's own script)."
        )
    shards = [path]
    if path.suffix == ".json":
        shards = sorted({folder / name for name in read_json_object(path).get("weight_map", {}).values()})
    weights = {}
    for shard in shards:
        tensors = read_tensors(shard)
        if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
            raise ValueError(f"{shard} must hold only named tensors: download it again.")
        weights.update(tensors)
    return weights


def read_tensors(path: Path):
    """Loads a file of tensors without running code."""
    if path.suffix == ".safetensors":
        return read_safetensors(path)
    require_file(path)
    try:
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    except UnpicklingError as error:  # torch's own message explains how to run the code
        raise ValueError(
            f"{path} holds objects other than tensors, which could run code and are not loaded: use safetensors."
        ) from error
    except (RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged, or of unknown format ({first_line(error)}): download it again."
        ) from error


def read_json_object(path: Path) -> dict:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, not a {type(content).__name__}: download it again.")
    return content
