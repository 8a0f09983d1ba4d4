# SPDX-License-Identifier: Apache-2.0
"""Model cards: the README.md of a model, an adapter alone, a shared vocabulary, a stock-LLaVA export, or a LoRA.

A card holds what the folder's own files and the given facts state, and nothing else.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, LlavaNextConfig

from modeling_langbridge import LangBridgeAdapter, LangBridgeAdapterConfig, SharedVocabulary
from modeling_langbridge.utils.files import read_json

from .eval_results import read_eval_results
from .facts import CardFacts, check_facts
from .markdown import one_line, render
from .repository import kind_of
from .tested_versions import find_tested_versions
from .tiles import read_tiles
from .training_record import (
    TRAINING_RECORD,
    TrainingRecord,
    hub_id,
    read_training_records,
)


PICTURE = "words.png"
TASK = "image-text-to-text"
SHAPE = ("projector_hidden_size", "bridge_vocab_size", "coefficient_activation")
FRONT_AND_BODY = "---\n{{ card_data }}\n---\n\n{{ body }}"

# LangBridge's own package loads an adapter and a vocabulary: with transformers as their library, the Hub would show
# code that cannot work.
LIBRARIES = {
    "model": "transformers",
    "llava": "transformers",
    "adapter": "langbridge",
    "vocabulary": "langbridge",
    "lora": "peft",
}


def make_card(folder: Path, facts: CardFacts) -> ModelCard:
    """
    Writes the card of a folder.

    Args:
        folder (`Path`):
            A model, an adapter, a vocabulary, an exported LLaVA or a LoRA. The card uses its `training_record.json`
            and shows its `words.png` and its `.eval_results/*.yaml` where it has them.
        facts ([`CardFacts`]):
            What the folder's files do not state.

    Returns:
        `ModelCard`, whose metadata follows the Hub's rules as far as they can be checked offline.

    Raises:
        `ValueError`: a fact does not have the form that the Hub takes, no base model is known, or a file is damaged.
    """
    check_facts(facts)
    kind = "lora" if (folder / "adapter_config.json").is_file() else kind_of(folder)
    records = read_records(folder)
    base_models = facts.base_models
    if kind == "vocabulary":
        if base_models:
            raise ValueError(f"{folder} holds a vocabulary, which has no base model: name no base model.")
        base_models = []
    elif base_models is None:
        base_models = find_base_models(folder)
        if not base_models:
            raise ValueError(
                f"No file in {folder} names the base models of the {kind} by Hub id, and a card must: give the ids of "
                "its base models (--base_model)."
            )
    if kind == "adapter" and len(base_models) > 1:
        raise ValueError(
            f"The adapter in {folder} does not depend on a language model: name its vision tower alone as its base "
            f"model, not {' and '.join(base_models)}."
        )
    card_data = make_metadata(kind, facts, base_models, records)
    trained_with = [record.parts["language_model"].hub_id for record in records if "language_model" in record.parts]
    body = render(
        f"{kind}.md.jinja",
        title=title_of(facts),
        name=facts.repo_id or "path/to/this/folder",
        revision=facts.revision,
        base_models=base_models,
        records=records,
        results=facts.results,
        hub_results=read_eval_results(folder, *facts.evaluations),
        tested=find_tested_versions(folder) if kind == "model" else None,
        transfers=facts.transfers,
        language_model=next(filter(hub_id, [*facts.transfers, *trained_with]), None),
        remote_code=kind == "model",
        has_picture=(folder / PICTURE).is_file(),
        **read_folder(folder, kind),
    )
    return ModelCard.from_template(card_data, template_str=FRONT_AND_BODY, body=body)


def find_base_models(folder: Path) -> list[str]:
    """
    The Hub ids of a folder's base models, as its own files name them; an empty list where they name none.

    The base model is the LangBridge that the last training started from, or else the language model and the vision
    tower; for an adapter, the vision tower.
    """
    config = folder / "config.json"
    content = read_json(config) if config.is_file() else {}
    last = next(reversed(read_records(folder)), None)
    trained = {} if last is None else {name: part.hub_id for name, part in last.parts.items()}
    if content.get("model_type") == LangBridgeAdapterConfig.model_type:
        names = [trained.get("vision_tower")]
    elif "text_config" in content:
        names = [(content.get(part) or {}).get("_name_or_path") for part in ("text_config", "vision_config")]
        # Unless a transfer has changed the language model since.
        if last is not None and last.started_from and trained.get("language_model") == hub_id(names[0]):
            names = [last.started_from]
    else:
        whole = last is not None and last.started_from
        names = [whole] if whole else [trained.get("language_model"), trained.get("vision_tower")]
    return [name for name in names if hub_id(name)]


def read_records(folder: Path) -> list[TrainingRecord]:
    path = folder / TRAINING_RECORD
    return read_training_records(path) if path.is_file() else []


def read_folder(folder: Path, kind: str) -> dict[str, Any]:
    """The template variables that come from the folder's own files."""
    if kind == "lora":
        return {}
    if kind == "vocabulary":
        return {"vocabulary": SharedVocabulary.from_pretrained(folder)}
    try:
        if kind == "adapter":
            return {"config": LangBridgeAdapter.from_pretrained(folder).config}
        config = CONFIG_MAPPING[read_json(folder / "config.json")["model_type"]].from_pretrained(folder)
    except (StrictDataclassError, AttributeError, TypeError) as error:
        reason = one_line(str(error.__cause__ or error))
        raise ValueError(f"{folder / 'config.json'} is damaged ({reason}): save it again.") from error
    return {"config": config, "tiles": read_tiles(folder, config) if isinstance(config, LlavaNextConfig) else None}


def make_metadata(kind: str, facts: CardFacts, base_models: list[str], records: list[TrainingRecord]) -> ModelCardData:
    """The YAML front matter. Outside text is reduced to one line, so that it cannot end the block."""
    datasets = facts.datasets or [name for record in records for name in record.datasets if hub_id(name)]
    results = [
        EvalResult(
            task_type=TASK,
            dataset_type=one_line(result.dataset),
            dataset_name=one_line(result.dataset),
            dataset_split=one_line(result.split),
            metric_type=one_line(result.metric).lower(),
            metric_name=one_line(result.metric),
            metric_value=one_line(result.value) if isinstance(result.value, str) else result.value,
        )
        for result in facts.results
    ]
    return ModelCardData(
        library_name=LIBRARIES[kind],
        pipeline_tag=None if kind == "vocabulary" else TASK,
        base_model=base_models or None,
        base_model_relation=choose_base_model_relation(kind, base_models),
        datasets=list(dict.fromkeys(datasets)) or None,
        license=facts.license,
        language=facts.language or None,
        tags=["langbridge", *map(one_line, facts.tags)],
        eval_results=results or None,
        model_name=title_of(facts) if results else None,
    )


def choose_base_model_relation(kind: str, base_models: list[str]) -> str | None:
    """The Hub's `base_model_relation`, one of adapter, finetune, merge and quantized."""
    if not base_models:
        return None
    if kind in ("adapter", "lora"):
        return "adapter"
    # The Hub treats several base models as a merge, as InternVL's cards do; a LangBridge that was trained further or
    # exported as a LLaVA is a finetune, the Hub's default.
    return "merge" if len(base_models) > 1 else "finetune"


def title_of(facts: CardFacts) -> str:
    return facts.repo_id.rpartition("/")[2] if facts.repo_id else "LangBridge"
