# SPDX-License-Identifier: Apache-2.0
"""What a folder is, told from its files alone, and which of them belong in a repository on the Hub."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from modeling_langbridge import LangBridgeConfig
from modeling_langbridge.adapter.adapter import FILES, LangBridgeAdapterConfig
from modeling_langbridge.utils.files import read_json
from modeling_langbridge.vocabulary.shared_vocabulary import VOCABULARY_FILE


Kind = Literal["model", "adapter", "vocabulary", "llava"]

OF_MODEL_TYPE: dict[str, Kind] = {
    LangBridgeConfig.model_type: "model",
    LangBridgeAdapterConfig.model_type: "adapter",
    "llava": "llava",
}

CODE = ["configuration_langbridge.py", "modeling_langbridge.py", "processing_langbridge.py", "vocabulary_head.py"]

# Names, not endings: what is not listed stays behind, whatever it is called.
CARD_AND_ITS_SOURCES = ["README.md", "LICENSE", "training_record.json", "words.png"]
WEIGHTS = ["model.safetensors", "model.safetensors.index.json", "model-*-of-*.safetensors"]
PROCESSOR = [
    "processor_config.json",
    "preprocessor_config.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
]
LLAVA = ["config.json", "generation_config.json", *WEIGHTS, *PROCESSOR]
BELONGS: dict[Kind, list[str]] = {
    "model": [*CARD_AND_ITS_SOURCES, *LLAVA, *CODE],
    "adapter": [*CARD_AND_ITS_SOURCES, *FILES],
    "vocabulary": [*CARD_AND_ITS_SOURCES, VOCABULARY_FILE],
    "llava": [*CARD_AND_ITS_SOURCES, *LLAVA],
}

# What loading cannot do without, and what writes it.
LORA = {"adapter_config.json", "adapter_model.*"}
NEEDED: dict[Kind, dict[str, str]] = {
    "model": {
        "processor_config.json": "`processor.save_pretrained`",
        "tokenizer.json": "`processor.save_pretrained`",
        **dict.fromkeys(CODE, "`model.save_pretrained`"),
    },
    "adapter": dict.fromkeys(FILES, "`LangBridgeAdapter.save_pretrained`"),
    "vocabulary": {},
    "llava": dict.fromkeys(("processor_config.json", "tokenizer.json"), "scripts/export.py"),
}


def kind_of(folder: Path) -> Kind:
    """
    Tells what a folder is: a whole `"model"`, an `"adapter"` alone, a shared `"vocabulary"`, or a stock `"llava"`.

    Args:
        folder (`Path`):
            The folder, as `save_pretrained`, the trainer or scripts/export.py wrote it.

    Raises:
        `ValueError`: it is none of these; the sentence says what it is instead, and what to do.
    """
    if not folder.is_dir():
        raise ValueError(f"There is no folder {folder}: name one that holds a model, an adapter or a vocabulary.")
    if (folder / "adapter_config.json").is_file():
        raise ValueError(f"{folder} holds a LoRA: merge it into its base first, with scripts/merge_lora.py.")
    path = folder / "config.json"
    if not path.is_file():
        if (folder / "adapter.safetensors").is_file():
            raise ValueError(
                f"{folder} holds an adapter without its config.json: save it again, with "
                "`LangBridgeAdapter.save_pretrained`."
            )
        if (folder / VOCABULARY_FILE).is_file():
            return "vocabulary"
        raise ValueError(
            f"{folder} holds neither a config.json nor a vocabulary.json: name the folder of a model, of an adapter "
            "or of a shared vocabulary."
        )
    config = read_json(path)
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type not in OF_MODEL_TYPE:
        raise ValueError(
            f"`model_type` in {path} is {model_type!r}, but must be one of {', '.join(OF_MODEL_TYPE)}: other models "
            "are published by other means."
        )
    return OF_MODEL_TYPE[model_type]


def files_to_push(folder: Path, kind: Kind) -> list[str]:
    """
    The files of a folder that belong in a repository, by their paths inside it, sorted.

    Everything else stays behind: pickles, the optimizer's state, logs, hidden files, other code.

    Args:
        folder (`Path`):
            The folder.
        kind (`Kind`):
            What it is, see [`kind_of`].

    Raises:
        `ValueError`: a file is missing or cut short that loading cannot do without.
    """
    files = {
        path.relative_to(folder).as_posix()
        for pattern in BELONGS[kind]
        for path in folder.glob(pattern)
        if path.is_file()
    }
    for name, writer in NEEDED[kind].items():
        if name not in files:
            raise ValueError(f"There is no {name} in {folder}, without which it cannot be loaded: {writer} writes it.")
    if kind in ("model", "llava"):
        require_weights(folder, files)
    return sorted(files)


def may_be_loaded(path: str) -> bool:
    """Whether loading might read a file of this path: what some push puts there, or a LoRA, which comes first."""
    patterns = {pattern for kind in BELONGS for pattern in BELONGS[kind]} - set(CARD_AND_ITS_SOURCES) | LORA
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def require_weights(folder: Path, files: set[str]) -> None:
    if "model.safetensors" in files:
        return
    if "model.safetensors.index.json" not in files:
        raise ValueError(f"There is no model.safetensors in {folder}: save the model with `model.save_pretrained`.")
    path = folder / "model.safetensors.index.json"
    index = read_json(path)
    try:
        shards = set(index["weight_map"].values())
    except (TypeError, KeyError, AttributeError):
        raise ValueError(f"{path} is damaged, it has no `weight_map`: save the model anew.") from None
    if missing := sorted(shards - files):
        raise ValueError(f"There is no {missing[0]} in {folder}, which its index names: save the model anew.")
