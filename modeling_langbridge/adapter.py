# SPDX-License-Identifier: Apache-2.0
"""The adapter on its own: saved as weights and words, without token ids, so that any language model can take it up."""

import json
import os
import shutil
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from .configuration_langbridge import LangBridgeConfig
from .hub import find_folder, push_saved
from .modeling_langbridge import (
    LangBridgeForConditionalGeneration,
    LangBridgeMultiModalProjector,
    LangBridgeVocabularyHead,
    find_token_ids,
)
from .vocabulary import VOCABULARY_FILE, SharedVocabulary


WEIGHTS = "adapter.safetensors"
CONFIGURATION = "config.json"
FILES = (CONFIGURATION, VOCABULARY_FILE, WEIGHTS)
OF_THE_LANGUAGE_MODEL = (".token_ids", ".remainder_weight")


class LangBridgeAdapterConfig(PreTrainedConfig):
    """Stands where transformers is asked for the model in an adapter's folder, to say what lies there instead."""

    model_type = "langbridge_adapter"

    @classmethod
    def from_dict(cls, config_dict: dict, **kwargs):
        raise ValueError(
            "This is a LangBridge adapter alone, without a vision tower and a language model: join it with both by "
            "`modeling_langbridge.from_adapter(this, vision, text)`, or scripts/transfer.py."
        )


def save_adapter(
    model: LangBridgeForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | os.PathLike,
    state_dict: dict[str, torch.Tensor] | None = None,
) -> None:
    """
    Writes the projector, the vocabulary head and the words they speak in to a new folder, whole or not at all.

    The folder holds `adapter.safetensors` (the weights), `vocabulary.json` (the surfaces of the V words, in the order
    of the coefficients) and `config.json` (the adapter's shape and what it reads). No token id is among them: they
    belong to one language model.

    Args:
        model (`LangBridgeForConditionalGeneration`):
            The model, in any dtype and on any device.
        tokenizer (`PreTrainedTokenizerBase`):
            The tokenizer of its language model, which says what the words `vocabulary_head.token_ids` are.
        folder (`str` or `os.PathLike`):
            The folder to be. It must not exist yet, or be empty.
        state_dict (`dict[str, torch.Tensor]`, *optional*):
            The full state of the model, where training has sharded or wrapped the parameters and gathers them
            elsewhere. The model's own when left out.

    Raises:
        `FileExistsError`: `folder` exists and is not an empty folder; nothing in it is touched.
        `ValueError`: a tensor of the adapter is missing or of another shape than the configuration says, or a token
        id is no ordinary word of the tokenizer, or the adapter is not made of words.
    """
    model.config.require_words("`save_adapter`")
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder: remove it or name another one.")
    tensors = take_adapter(model, state_dict)
    vocabulary = SharedVocabulary.from_token_ids(tokenizer, model.model.vocabulary_head.token_ids.tolist())

    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        configuration = {"model_type": LangBridgeAdapterConfig.model_type, **describe(model.config)}
        text = json.dumps(configuration, indent=2) + "\n"
        (unfinished / CONFIGURATION).write_text(text, encoding="utf-8", newline="\n")
        vocabulary.save(unfinished / VOCABULARY_FILE)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(tensors, unfinished / WEIGHTS, metadata={"format": "pt"})
        # Both mkdtemp's folders and safetensors' files are the owner's alone.
        (unfinished / WEIGHTS).chmod(0o644)
        unfinished.chmod(0o755)
        os.replace(unfinished, folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def is_adapter(name: str | os.PathLike, revision: str | None = None) -> bool:
    """Whether a folder or Hub id is an adapter's alone. Raises `OSError` where there is no `config.json`."""
    configuration, _ = PreTrainedConfig.get_config_dict(name, revision=revision)
    return configuration.get("model_type") == LangBridgeAdapterConfig.model_type


def push_adapter_to_hub(
    model: LangBridgeForConditionalGeneration, tokenizer: PreTrainedTokenizerBase, repo_id: str, **kwargs: Any
) -> CommitInfo:
    """
    Uploads what [`save_adapter`] writes to a repository of the Hub, which is made where it does not exist.

    Args:
        model (`LangBridgeForConditionalGeneration`), tokenizer (`PreTrainedTokenizerBase`):
            As for [`save_adapter`].
        repo_id (`str`):
            The repository.
        kwargs:
            `commit_message`, `private`, `token` and `create_pr`, as of
            [`~transformers.utils.PushToHubMixin.push_to_hub`].

    Returns:
        `CommitInfo`: the commit.

    Raises:
        `OSError`, `ValueError`: from the Hub, or as [`save_adapter`].
    """
    return push_saved(partial(save_adapter, model, tokenizer), repo_id, **kwargs)


def load_adapter(
    model: LangBridgeForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | os.PathLike,
    revision: str | None = None,
) -> None:
    """
    Puts a saved adapter into a model of the same shape, whichever its language model: copies the weights in place and
    points the words at this tokenizer's ids. Dtype, device and `requires_grad` stay the model's.

    Args:
        model (`LangBridgeForConditionalGeneration`):
            The model that takes the adapter up. Unchanged where an error is raised.
        tokenizer (`PreTrainedTokenizerBase`):
            The tokenizer of its language model.
        folder (`str` or `os.PathLike`):
            What [`save_adapter`] wrote, or its Hub id.
        revision (`str`, *optional*):
            Branch, tag or commit on the Hub.

    Raises:
        `OSError`: the folder or one of its three files is missing.
        `ValueError`: a file is damaged, the adapter does not fit the model, whose own may not be made of words, or the
        tokenizer lacks some of the words.
    """
    model.config.require_words("`load_adapter`")
    folder = find_folder(folder, FILES, revision)
    configuration, vocabulary = read_configuration(folder)
    if wrong := differences(configuration, describe(model.config)):
        raise ValueError(
            f"{folder / CONFIGURATION} does not fit the model ({wrong}): an adapter keeps its shape, and works only "
            "with the kind of vision tower that it was trained with."
        )
    path = folder / WEIGHTS
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged ({error}): save the adapter anew.") from None
    adapter = take_tensors(model.state_dict())
    if wrong := differences(take_shapes(tensors), take_shapes(adapter)):
        raise ValueError(
            f"{path} does not hold what the model asks for ({wrong}): the file must be what `save_adapter` wrote, and "
            "the model's adapter neither quantised nor wrapped."
        )
    head, num_words = model.model.vocabulary_head, model.config.text_config.vocab_size
    split_words = model.config.split_words if model.config.pieces_per_word > 1 else None
    token_ids = find_words(vocabulary, tokenizer, folder / VOCABULARY_FILE, split_words)
    if token_ids.max() >= num_words:
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path!r} keeps words of the adapter under ids up to {token_ids.max()}, "
            f"but the model has {num_words} embeddings: it belongs to another language model."
        )
    if token_ids.shape != head.token_ids.shape:
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path!r} cuts the adapter's words into other numbers of pieces than the "
            "model was made for: make another model by `from_adapter`."
        )

    put_in(model, tensors, token_ids)


def put_in(
    model: LangBridgeForConditionalGeneration, tensors: dict[str, torch.Tensor], token_ids: torch.Tensor
) -> None:
    """Copies an adapter's tensors into a model, outside of autograd, and says where its words are."""
    head = model.model.vocabulary_head
    places = take_tensors(model.state_dict())  # shares the parameters' memory
    for name, tensor in tensors.items():
        places[name].copy_(tensor)
    head.token_ids.copy_(token_ids)
    if head.remainder_weight is not None:
        head.remainder_weight.detach().zero_()  # it stood beside the adapter that was there before


def take_adapter(
    model: LangBridgeForConditionalGeneration, state_dict: dict[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """The adapter's tensors, of the shapes that the model's configuration asks for, see [`save_adapter`]."""
    tensors = take_tensors(model.state_dict() if state_dict is None else state_dict)
    if wrong := differences(take_shapes(tensors), expected_shapes(model.config)):
        raise ValueError(
            f"The adapter cannot be saved as it is ({wrong}): give the model's whole, plain weights as `state_dict`."
        )
    return tensors


def describe(config: LangBridgeConfig) -> dict:
    """What two models must agree in so that one's adapter works in the other; the adapter's `config.json` is this."""
    layers = config.vision_feature_layer
    return {
        "projector_hidden_size": config.projector_hidden_size,
        "bridge_vocab_size": config.bridge_vocab_size,
        "coefficient_activation": config.coefficient_activation,
        "projector_hidden_act": config.projector_hidden_act,
        "multimodal_projector_bias": config.multimodal_projector_bias,
        "vision_feature_layer": layers,
        "vision_feature_select_strategy": config.vision_feature_select_strategy,
        "vision_feature_size": config.vision_config.hidden_size * (1 if isinstance(layers, int) else len(layers)),
        "vision_model_type": config.vision_config.model_type,
    }


def read_configuration(folder: Path) -> tuple[dict, SharedVocabulary]:
    """What a saved adapter says about itself, and its words; makes sure that all three files are there."""
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise FileNotFoundError(f"There is no {', no '.join(missing)} in {folder}: name what `save_adapter` wrote.")
    path = folder / CONFIGURATION
    try:
        configuration = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # both what is not JSON and what is not UTF-8
        raise ValueError(f"{path} is damaged, it is not JSON ({error}): save the adapter anew.") from None
    fields = describe(LangBridgeConfig()).keys()
    if isinstance(configuration, dict) and configuration.pop("model_type", None) != LangBridgeAdapterConfig.model_type:
        raise ValueError(f"{path} is not that of an adapter alone: name what `save_adapter` wrote.")
    if not isinstance(configuration, dict) or fields - configuration.keys():
        raise ValueError(f"{path} is damaged, it must be a JSON object with the fields {', '.join(fields)}.")
    vocabulary = SharedVocabulary.from_file(folder / VOCABULARY_FILE)
    if len(vocabulary) != configuration["bridge_vocab_size"]:
        raise ValueError(
            f"{folder / VOCABULARY_FILE} holds {len(vocabulary)} words, but `bridge_vocab_size` in {path} is "
            f"{configuration['bridge_vocab_size']}: save the adapter anew."
        )
    return configuration, vocabulary


def find_words(
    vocabulary: SharedVocabulary, tokenizer: PreTrainedTokenizerBase, path: Path, split_words: str | None
) -> torch.Tensor:
    """Where the tokenizer keeps the words that lie in `path`, `(V,)` or `(V, pieces)`."""
    try:
        return find_token_ids(vocabulary, tokenizer, split_words)
    except ValueError as error:
        if split_words is not None:
            raise ValueError(f"{path}: {error}.") from None
        known = set(SharedVocabulary.build([tokenizer], []).surfaces)
        lacking = [surface for surface in vocabulary.surfaces if surface not in known]
        raise ValueError(
            f"The tokenizer {tokenizer.name_or_path!r} lacks {len(lacking)} of the {len(vocabulary)} words in {path} "
            f"as single tokens, such as {lacking[:5]}: say what becomes of these, `split_words` leave_out or mean "
            "(of scripts/transfer.py)."
        ) from None


def take_tensors(state_dict: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The adapter's tensors out of a whole model's, but for what belongs to its language model."""
    parts = ("model.multi_modal_projector.", "model.vocabulary_head.")
    return {
        name.removeprefix("model."): tensor
        for name, tensor in state_dict.items()
        if name.startswith(parts) and not name.endswith(OF_THE_LANGUAGE_MODEL)
    }


def take_shapes(tensors: dict[str, torch.Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def expected_shapes(config: LangBridgeConfig) -> dict[str, list[int]]:
    """The shapes of the adapter's tensors, by building it on the meta device, without weights or work."""
    with torch.device("meta"):
        parts = {
            "multi_modal_projector": LangBridgeMultiModalProjector(config),
            "vocabulary_head": LangBridgeVocabularyHead(config),
        }
    shapes = take_shapes(dict(torch.nn.ModuleDict(parts).named_parameters()))
    return {name: shape for name, shape in shapes.items() if not name.endswith(OF_THE_LANGUAGE_MODEL)}


def differences(adapter: dict, model: dict) -> str:
    """The first few entries in which the two differ, in words; empty where they agree."""
    pairs = {key: (adapter.get(key, "missing"), model.get(key, "missing")) for key in {**model, **adapter}}
    wrong = [f"`{key}` is {a} in the adapter but {b} in the model" for key, (a, b) in pairs.items() if a != b]
    return ", ".join(wrong[:3])
