# SPDX-License-Identifier: Apache-2.0
"""Captions of the test photos: through adapters, and by the language models alone."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from experiments.flickr8k.caption_corpora import most_used_words
from experiments.flickr8k.few_shot import see_photos
from experiments.flickr8k.grouped_patches import see_grouped_words
from experiments.flickr8k.photo_adapters import load_adapter_onto
from experiments.flickr8k.photo_world import PhotoWorld
from experiments.small_language_model import word_prompt
from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
from trainer.data.captioned_photos import CaptionedPhoto
from trainer.data.feature_cache import FeatureCache
from trainer.evaluation.captioning import ask_about_tokens, complete_prompts, generate_answers


# Of `mlp` and `distilled` each language model has its own; the others are A's or nobody's.
ADAPTERS = ("mlp", "langbridge", "grounded", "grounded_words", "grounded_groups", "distilled", "tuned_words")


def caption_without_adapter(world: PhotoWorld, folder: Path) -> None:
    """Captions by the bare language models: of nothing, and of words that people used."""
    photos, captions = world.photos("test"), {}
    for name in "ab":
        text = world.language_model(name)
        model = AutoModelForCausalLM.from_pretrained(text).to(torch.accelerator.current_accelerator() or "cpu")
        tokenizer = AutoTokenizer.from_pretrained(text)
        blind = complete_prompts(model, tokenizer, [_prompt(tokenizer, "")])
        told = complete_prompts(model, tokenizer, [_prompt(tokenizer, _human_words(photo)) for photo in photos])
        captions[f"blind_{name}"] = {photo.name: blind[0] for photo in photos}
        captions[f"told_{name}"] = {photo.name: caption for photo, caption in zip(photos, told, strict=True)}
    _write_captions(folder, captions)


def _prompt(tokenizer: PreTrainedTokenizerBase, content: str) -> str:
    message = {"role": "user", "content": content}
    return tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)


def _human_words(photo: CaptionedPhoto, count: int = 5) -> str:
    return word_prompt(most_used_words(photo.captions, count))


def caption_with_adapters(world: PhotoWorld, seed: int, folder: Path) -> None:
    """Captions through every adapter of one seed, with A and with B."""
    captions = {f"{adapter}_{name}": _caption(world, adapter, name, seed) for adapter in ADAPTERS for name in "ab"}
    _write_captions(folder, captions)


def _caption(world: PhotoWorld, adapter: str, language_model: str, seed: int) -> dict[str, str]:
    sizes, photos, see = world.sizes, world.photos("test"), see_photos
    if adapter == "mlp":
        checkpoint = world.output_dir / f"mlp_{language_model}_{seed}"
        model = LangBridgeForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
        processor = LangBridgeProcessor.from_pretrained(checkpoint)
    elif adapter == "distilled":
        model, processor = load_adapter_onto(world, f"distilled_{language_model}_{seed}", language_model)
    else:
        stage, _, form = adapter.partition("_")
        words = sizes.words_per_image if form == "words" else None
        model, processor = load_adapter_onto(world, f"{stage}_{seed}", language_model, words)
        if form == "groups":
            distance, count = sizes.group_distance, sizes.grouped_words
            see = partial(see_grouped_words, distance=distance, count=count, in_reading_order=False)
    model.to(torch.accelerator.current_accelerator() or "cpu")
    tokens = see(model, processor, photos, world.features(model, processor))
    return _caption_tokens(model, processor, photos, tokens)


def caption_photos(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    photos: Sequence[CaptionedPhoto],
    features: FeatureCache,
) -> dict[str, str]:
    """Captions by photo name, the photo alone being the prompt, as `caption_dataset` trains it."""
    return _caption_tokens(model, processor, photos, see_photos(model, processor, photos, features))


def _caption_tokens(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    photos: Sequence[CaptionedPhoto],
    tokens: Sequence[torch.Tensor],
) -> dict[str, str]:
    """Captions by photo name, given each photo's visual tokens `(tokens, d)`, of all photos as many."""
    answers: list[str] = []
    for batch in tqdm(torch.stack(list(tokens)).split(50), desc="captioning", delay=5):  # (photos, tokens, d)
        inputs = ask_about_tokens(processor, batch, question="")
        answers += generate_answers(model, processor.tokenizer, inputs, max_new_tokens=30)
    return {photo.name: answer for photo, answer in zip(photos, answers, strict=True)}


def _write_captions(folder: Path, captions: dict[str, dict[str, str]]) -> None:
    text = json.dumps(captions, indent=1, ensure_ascii=False) + "\n"
    (folder / "captions.json").write_text(text, encoding="utf-8")
