# SPDX-License-Identifier: Apache-2.0
"""The kind of a folder, told from its files alone, and the files that belong in a repository on the Hub."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from transformers.dynamic_module_utils import get_relative_imports

import modeling_langbridge
from modeling_langbridge import LangBridgeAdapter, LangBridgeAdapterConfig, LangBridgeNextConfig
from modeling_langbridge.adapter.adapter import FILES
from modeling_langbridge.adapter.kinds import LANGBRIDGES, LLAVAS
from modeling_langbridge.adapter.loading import check_weights, open_config
from modeling_langbridge.utils.files import read_json
from modeling_langbridge.utils.weights import find_weights, require_finite_files
from modeling_langbridge.vocabulary.shared_vocabulary import VOCABULARY_FILE

from .eval_results import EVAL_RESULTS


Kind = Literal["model", "adapter", "vocabulary", "llava"]

OF_MODEL_TYPE: dict[str, Kind] = {
    **dict.fromkeys(LANGBRIDGES, "model"),
    LangBridgeAdapterConfig.model_type: "adapter",
    **dict.fromkeys(LLAVAS, "llava"),
}

# The files that are saved with every LangBridge, and those that a LangBridge-NeXT has beside them.
CODE = [
    "chat_templates.py",
    "composing.py",
    "configuration_langbridge.py",
    "folded_adapter.py",
    "image_opening.py",
    "modeling_langbridge.py",
    "processing_langbridge.py",
    "video_opening.py",
    "vocabulary_head.py",
]
NEXT_CODE = ["configuration_langbridge_next.py", "modeling_langbridge_next.py", "processing_langbridge_next.py"]

# An allowlist of names: nothing else is uploaded.
CARD_AND_ITS_SOURCES = ["README.md", "LICENSE", "training_record.json", "words.png", f"{EVAL_RESULTS}/*.yaml"]
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
    "model": [*CARD_AND_ITS_SOURCES, *LLAVA, *CODE, *NEXT_CODE],
    "adapter": [*CARD_AND_ITS_SOURCES, *FILES],
    "vocabulary": [*CARD_AND_ITS_SOURCES, VOCABULARY_FILE],
    "llava": [*CARD_AND_ITS_SOURCES, *LLAVA],
}

# Files that loading needs, and what writes them.
LORA = {"adapter_config.json", "adapter_model.*"}
NEEDED: dict[Kind, dict[str, str]] = {
    "model": {
        "processor_config.json": "`processor.save_pretrained`",
        "tokenizer.json": "`processor.save_pretrained`",
        "modeling_langbridge.py": "`model.save_pretrained`",
        "processing_langbridge.py": "`processor.save_pretrained`",
    },
    "adapter": dict.fromkeys(FILES, "`LangBridgeAdapter.save_pretrained`"),
    "vocabulary": {},
    "llava": dict.fromkeys(("processor_config.json", "tokenizer.json"), "scripts/export.py"),
}
NEEDED_BY_NEXT = {
    "modeling_langbridge_next.py": "`model.save_pretrained`",
    "processing_langbridge_next.py": "`processor.save_pretrained`",
}


def kind_of(folder: Path) -> Kind:
    """
    The kind of a folder: a whole `"model"`, an `"adapter"` alone, a shared `"vocabulary"`, or a stock `"llava"`. A
    LangBridge-NeXT is a model, a LLaVA-NeXT a LLaVA.

    Args:
        folder (`Path`):
            The folder, as `save_pretrained`, the trainer or scripts/export.py wrote it.

    Raises:
        `ValueError`: it is none of these; the message names what it is instead, and what to do.
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
            f"`model_type` in {path} is {model_type!r}, but must be one of {', '.join(OF_MODEL_TYPE)}: only these "
            "can be published."
        )
    return OF_MODEL_TYPE[model_type]


def files_to_push(folder: Path, kind: Kind) -> list[str]:
    """
    The files of a folder that belong in a repository, by their paths inside it, sorted.

    Everything else is left out: pickles, the optimizer's state, logs, hidden files, other code.

    Args:
        folder (`Path`):
            The folder.
        kind (`Kind`):
            Its kind, see [`kind_of`].

    Raises:
        `ValueError`: a file that loading needs is missing or damaged.
    """
    files = {
        path.relative_to(folder).as_posix()
        for pattern in BELONGS[kind]
        for path in folder.glob(pattern)
        if path.is_file()
    }
    needed = NEEDED[kind]
    if kind == "model" and read_json(folder / "config.json")["model_type"] == LangBridgeNextConfig.model_type:
        needed = {**needed, **NEEDED_BY_NEXT}
    for name, writer in needed.items():
        if name not in files:
            raise ValueError(f"There is no {name} in {folder}, without which it cannot be loaded: {writer} writes it.")
    for name in sorted(files & {*CODE, *NEXT_CODE}):
        for module in get_relative_imports(folder / name):
            if f"{module}.py" not in files:
                raise ValueError(
                    f"There is no {module}.py in {folder}, which {name} imports: load model and processor, and save "
                    "them again."
                )
    if kind in ("model", "llava"):
        require_weights(folder, files)
    return sorted(files)


def may_be_loaded(path: str) -> bool:
    """Whether loading might read a file of this path: one that a push uploads, or a LoRA, which takes precedence."""
    patterns = {pattern for kind in BELONGS for pattern in BELONGS[kind]} - set(CARD_AND_ITS_SOURCES) | LORA
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def require_usable(folder: Path, kind: Kind) -> None:
    """
    Reads what a push would upload: the weights, and the code that loading runs.

    Args:
        folder (`Path`):
            The folder.
        kind (`Kind`):
            Its kind, see [`kind_of`]. A vocabulary is read for the card.

    Raises:
        `ValueError`: weights are not finite or not those that config.json describes, or a code file is not this
        package's own.
    """
    if kind == "adapter":
        LangBridgeAdapter.from_pretrained(folder)
    if kind == "llava":
        require_finite_files(find_weights(folder))
    if kind != "model":
        return
    package = Path(modeling_langbridge.__file__).parent
    for name in [*CODE, *NEXT_CODE]:
        if (folder / name).is_file() and (folder / name).read_bytes() != (package / name).read_bytes():
            raise ValueError(
                f"{folder / name} is not the {name} of this LangBridge: load model and processor, and save them again."
            )
    check_weights(str(folder), open_config(str(folder)))


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
        raise ValueError(f"{path} is damaged, it has no `weight_map`: save the model again.") from None
    if missing := sorted(shards - files):
        raise ValueError(f"There is no {missing[0]} in {folder}, which its index names: save the model again.")
