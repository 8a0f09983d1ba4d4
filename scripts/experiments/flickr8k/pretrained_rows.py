# SPDX-License-Identifier: Apache-2.0
"""The rows of the table on pretrained parts: what a language model makes of what an adapter hands over of a photo."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.flickr8k.caption_corpora import most_used_words
from experiments.flickr8k.few_shot import FewShot, Tokens, caption_examples, caption_prompt, see_photos
from experiments.flickr8k.photo_adapters import load_adapter_onto
from experiments.flickr8k.pretrained_world import PretrainedWorld
from experiments.flickr8k.yes_no_questions import ask_about
from experiments.small_language_model import word_prompt
from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
from modeling_langbridge.utils.files import read_json
from trainer.data.captioned_photos import CaptionedPhoto
from trainer.evaluation.word_scores import pool_photos


Parts = tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]
# What stands for each of several photos; nothing does for a blind model.
See = Callable[[Sequence[CaptionedPhoto]], list[Tokens] | None]
Seen = tuple[Sequence[CaptionedPhoto], list[Tokens] | None]  # photos, and what stands for each


def measure_without_adapter(world: PretrainedWorld, name: str, folder: Path) -> None:
    """A language model without an adapter: shown nothing, words of neighbours, words of people; also taught."""
    neighbours = read_json(world.output_dir / "neighbours" / "words.json")
    count = world.sizes.words_per_image
    rows: dict[str, See] = {
        "blind": lambda photos: None,
        "neighbours": lambda photos: [word_prompt(neighbours[photo.name][:count]) for photo in photos],
        "people": lambda photos: [word_prompt(most_used_words(photo.captions[1:], count)) for photo in photos],
    }
    found = {}
    for which, prefix in ((name, ""), (f"taught_{name}", "taught_")):
        parts = load_adapter_onto(world, f"grounded_{world.adapter_seeds[0]}", which)
        for row, see in rows.items():
            found[f"{prefix}{row}"] = measure(world, parts, see)
    write_measures(folder, found)


def measure_words(world: PretrainedWorld, name: str, seed: int, folder: Path) -> None:
    """A language model with the words of every adapter of one seed: its own, another's, and nobody's."""
    words = world.sizes.words_per_image
    rows = {
        "grounded": (f"grounded_{seed}", name, words),
        "taught_grounded": (f"grounded_{seed}", f"taught_{name}", words),
    }
    for trained_with in world.language_models:
        whose = "own" if trained_with == name else "other"
        rows[f"tuned_{whose}"] = (f"tuned_{trained_with}_{seed}", name, words)
    found = {row: measure_with(world, load_adapter_onto(world, *how)) for row, how in rows.items()}
    write_measures(folder, found)


def measure_baselines(world: PretrainedWorld, name: str, seed: int, folder: Path) -> None:
    """A language model with raw coefficients and with an MLP of one seed."""
    first = world.language_models[0]
    raw = load_adapter_onto(world, f"langbridge_{first}_{seed}", name)
    found = {"raw_own" if name == first else "raw_other": measure_with(world, raw)}
    checkpoint = world.output_dir / f"mlp_{name}_{seed}"
    mlp = LangBridgeForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    found["mlp"] = measure_with(world, (mlp, LangBridgeProcessor.from_pretrained(checkpoint)))
    write_measures(folder, found)


def measure_with(world: PretrainedWorld, parts: Parts) -> dict:
    """Measures what an adapter hands over, and the words it picks."""
    found = measure(world, parts, partial(see_photos, *parts, features=world.features(*parts)))
    if parts[0].config.words_per_image is not None:
        found["words"] = find_words(world, parts)
    return found


def measure(world: PretrainedWorld, parts: Parts, see: See) -> dict:
    """
    Captions, losses and answers about the test photos.

    Examples come before a photo where the captions of the dev photos are likelier after them.
    """
    test, dev, sizes = world.photos("test"), world.photos("dev"), world.sizes
    examples = world.photos("train")[: sizes.examples]
    shown, dev_tokens, tokens = see(examples), see(dev), see(test)
    few_shot_of = partial(FewShot, *parts, bf16=world.bf16)
    captions = [photo.captions[0] for photo in examples]
    variants = {"examples": few_shot_of(caption_examples(captions, shown)), "alone": few_shot_of()}
    dev_losses = {
        name: caption_losses(few_shot, (dev, dev_tokens)).mean().item() for name, few_shot in variants.items()
    }
    chosen = min(dev_losses, key=dev_losses.get)
    few_shot, measured = variants[chosen], test[: sizes.loss_photos]
    prompts = [few_shot.embed(caption_prompt(tokens and tokens[i])) for i in range(len(test))]
    answers = [f" {photo.captions[0]}" for photo in measured]
    half = len(measured) // 2
    others = prompts[half : len(measured)] + prompts[:half]
    return {
        "prompt": chosen,
        "dev_losses": dev_losses,
        "losses": few_shot.losses(prompts[: len(measured)], answers).tolist(),
        "losses_of_other": few_shot.losses(others, answers).tolist(),
        "captions": dict(zip([photo.name for photo in test], few_shot.complete(prompts), strict=True)),
        "answers": answer_questions(few_shot_of, (examples, shown), (dev, dev_tokens), (measured, tokens)),
    }


def caption_losses(few_shot: FewShot, seen: Seen) -> torch.Tensor:
    """The losses of photos' first captions, `(photos,)`."""
    photos, tokens = seen
    prompts = [few_shot.embed(caption_prompt(tokens and tokens[i])) for i in range(len(photos))]
    return few_shot.losses(prompts, [f" {photo.captions[0]}" for photo in photos])


def answer_questions(
    few_shot_of: Callable[[Sequence[Tokens]], FewShot], examples: Seen, dev: Seen, test: Seen
) -> list[tuple[bool, bool]]:
    """
    Whether each question's answer is yes, and whether the model says so; those about the examples come first.

    Models this small say the same to nearly every question, as in Zhao et al., 2021 (arXiv 2102.09690). An answer is a
    yes where "yes" leads "no" by more than for half of the questions about the dev photos, which are balanced too.
    """
    pieces: list[Tokens] = []
    for question in ask_about(examples[0]):
        pieces += [*question_prompt(question, examples), f" {question['label']}\n\n"]
    few_shot = few_shot_of(pieces)
    says_yes = (yes_leads(few_shot, test) > yes_leads(few_shot, dev).median()).tolist()
    return [
        (question["label"] == "yes", answer) for question, answer in zip(ask_about(test[0]), says_yes, strict=True)
    ]


def yes_leads(few_shot: FewShot, seen: Seen) -> torch.Tensor:
    """By how much "yes" is likelier than "no", in nats, for each question about photos, `(questions,)`."""
    prompts = [few_shot.embed(question_prompt(question, seen)) for question in ask_about(seen[0])]
    yes, no = few_shot.rate(prompts, [" yes", " no"]).unbind(-1)
    return yes - no


def question_prompt(question: dict[str, Any], seen: Seen) -> list[Tokens]:
    """What stands before the answer to a question about one of several photos."""
    photos, tokens = seen
    asked = f"Question: {question['text']} Answer:"
    if tokens is None:
        return [asked]
    place = [photo.name for photo in photos].index(question["image"])
    return ["Words:", tokens[place], f"\n{asked}"]


def find_words(world: PretrainedWorld, parts: Parts) -> dict[str, list[str]]:
    """The ten strongest words of each test photo."""
    model, processor = parts
    photos = world.photos("test")
    images = [photo.image for photo in photos]
    pooled = pool_photos(model.model, processor.image_processor, images, world.features(*parts))  # (photos, V)
    surfaces = world.vocabulary.surfaces
    return {
        photo.name: [surfaces[word].strip() for word in words]
        for photo, words in zip(photos, pooled.topk(10).indices.tolist(), strict=True)
    }


def write_measures(folder: Path, found: dict[str, dict]) -> None:
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    (folder / "measures.json").write_text(text, encoding="utf-8")
