# SPDX-License-Identifier: Apache-2.0
"""The cells of the matrix: what a language model makes of photos in every form and from every source."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from tqdm import tqdm

from experiments.flickr8k.few_shot import FewShot, caption_examples, caption_prompt, see_photos
from experiments.flickr8k.pretrained_rows import caption_losses
from experiments.matrix.forms import CELLS, Parts, join_form, load_mlp, see
from experiments.matrix.naming import answer_by_naming
from experiments.matrix.prognosis import foretell
from experiments.matrix.world import MatrixWorld
from trainer.data.captioned_photos import CaptionedPhoto
from trainer.evaluation.caption_metrics import caption_scores


def measure_own(world: MatrixWorld, target: str, seed: int, folder: Path) -> None:
    """The target's own MLP, which the cells are compared with."""
    parts = load_mlp(world, target, seed)
    seen = [see_photos(*parts, photos, world.features(*parts)) for photos in photos_of(world, target)]
    write(folder, [measure(world, target, parts, seen)])


def measure_cells(world: MatrixWorld, target: str, seed: int, folder: Path) -> None:
    """Every form from every source, with nothing trained for the target."""
    cells = []
    for form, source in tqdm(CELLS, desc="cells"):
        parts = join_form(world, form, source, target, seed)
        seen = [see(world, form, parts, photos) for photos in photos_of(world, target)]
        measured = measure(world, target, parts, seen)
        prognosis = foretell(world, form, source, seed, parts)
        cells.append({"form": form, "source": source, **measured, "prognosis": prognosis})
    write(folder, cells)


def photos_of(world: MatrixWorld, target: str) -> tuple[Sequence[CaptionedPhoto], ...]:
    """The photos that are examples, on which prompt and answers are chosen, and which are measured."""
    examples = world.photos("train")[: world.sizes.examples]
    return examples, world.photos("dev"), world.test_photos_of(target)


def measure(world: MatrixWorld, target: str, parts: Parts, seen: Sequence[Sequence[torch.Tensor]]) -> dict:
    """
    CIDEr, the loss per token of first captions, and yes/no accuracy.

    Args:
        seen (`Sequence[Sequence[torch.Tensor]]`): What stands for each photo of [`photos_of`], `(tokens, d)` each.
    """
    examples, dev, test = photos_of(world, target)
    shown, dev_tokens, tokens = seen
    few_shot_of = partial(FewShot, *parts, bf16=world.bf16)
    prefixes = {"alone": []}
    if target in world.pretrained:
        prefixes["examples"] = caption_examples(examples, shown)
    losses = {
        name: caption_losses(few_shot_of(prefix), (dev, dev_tokens)).mean().item() for name, prefix in prefixes.items()
    }
    prompt = min(losses, key=losses.get)
    few_shot = few_shot_of(prefixes[prompt])
    prompts = [few_shot.embed(caption_prompt(of_photo)) for of_photo in tokens]
    captions = dict(zip([photo.name for photo in test], few_shot.complete(prompts), strict=True))
    answers = answer_by_naming(parts, world.bf16, (dev, dev_tokens), (test, tokens))
    return {
        "CIDEr": caption_scores(captions, {photo.name: photo.captions for photo in test})["CIDEr"],
        "loss": caption_losses(few_shot, (test, tokens)).mean().item(),
        "yes/no": sum(is_yes == says_yes for is_yes, says_yes in answers) / max(1, len(answers)),
        "questions": len(answers),
        "tokens": sum(map(len, tokens)) / len(tokens),
        "prompt": prompt,
        "captions": captions,
    }


def write(folder: Path, cells: list[dict]) -> None:
    text = json.dumps(cells, indent=1, ensure_ascii=False) + "\n"
    (folder / "cells.json").write_text(text, encoding="utf-8")
