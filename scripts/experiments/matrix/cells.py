# SPDX-License-Identifier: Apache-2.0
"""The cells of the matrix: what a language model makes of photos in every form and from every source."""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from experiments.flickr8k.few_shot import FewShot, caption_examples, caption_prompt, see_photos
from experiments.flickr8k.pretrained_rows import caption_losses
from experiments.matrix.forms import Parts, cells_of, join_form, load_mlp, see
from experiments.matrix.naming import Seen, answer_by_naming
from experiments.matrix.prognosis import foretell
from experiments.matrix.world import MatrixWorld
from trainer.data.captioned_photos import CaptionedPhoto
from trainer.evaluation.caption_metrics import caption_scores
from trainer.evaluation.word_bias import first_tokens_of_words


class Photos(NamedTuple):
    """The photos that are examples, on which prompts and answers are chosen, and which are measured; or something of
    each of them."""

    examples: Sequence[Any]
    dev: Sequence[Any]
    test: Sequence[Any]


NONE_NAMED = Photos(None, None, None)


def photos_of(world: MatrixWorld, target: str) -> Photos:
    """The photos for a target; reading them takes a while."""
    examples = world.photos("train")[: world.sizes.examples]
    return Photos(examples, world.photos("dev")[: world.sizes.dev_photos], world.test_photos_of(target))


def measure_own(world: MatrixWorld, target: str, seed: int, folder: Path) -> None:
    """The target's own MLP, which the cells are compared with."""
    parts, photos = load_mlp(world, target, seed), photos_of(world, target)
    seen = Photos(*(see_photos(*parts, some, world.features(*parts)) for some in photos))
    write(folder, [measure(world, target, parts, photos, seen)])


def measure_cells(world: MatrixWorld, target: str, seed: int, folder: Path) -> None:
    """Every form from every source, with nothing trained for the target."""
    cells, photos = [], photos_of(world, target)
    for form, source in tqdm(cells_of(world), desc="cells"):
        parts = join_form(world, form, source, target, seed)
        seen = Photos(*(see(world, form, parts, some) for some in photos))
        named = Photos(*(read_words(world, parts, some) for some in photos)) if form == "named_words" else NONE_NAMED
        measured = measure(world, target, parts, photos, seen, named)
        prognosis = foretell(world, form, source, seed, parts, photos.dev)
        cells.append({"form": form, "source": source, **measured, "prognosis": prognosis})
    write(folder, cells)


def measure(
    world: MatrixWorld,
    target: str,
    parts: Parts,
    photos: Photos,
    seen: Photos,
    named: Photos = NONE_NAMED,
) -> dict:
    """
    What [`measure_captions`] measures, and yes/no accuracy.

    Args:
        photos ([`Photos`]), seen ([`Photos`]): As of [`measure_captions`].
        named ([`Photos`], *optional*): For each photo the tokens that captions and answers rather have.
    """
    measured = measure_captions(world, target, parts, photos, seen, named.test)
    dev, test = Seen(photos.dev, seen.dev, named.dev), Seen(photos.test, seen.test, named.test)
    answers = answer_by_naming(parts, dev, test, world.bf16, world.sizes.word_bias)
    right = sum(is_yes == says_yes for is_yes, says_yes in answers) / max(1, len(answers))
    return {**measured, "yes/no": right, "questions": len(answers)}


def measure_captions(
    world: MatrixWorld,
    target: str,
    parts: Parts,
    photos: Photos,
    seen: Photos,
    named: Sequence[Sequence[int]] | None = None,
) -> dict:
    """
    CIDEr, and the loss per token of first captions.

    Args:
        photos ([`Photos`]): Of [`photos_of`].
        seen ([`Photos`]): What stands for each of them, `(tokens, d)` each, in their order.
        named (`Sequence[Sequence[int]]`, *optional*): Of each test photo the tokens that captions rather have; the
            loss is measured without that.
    """
    few_shot_of = partial(FewShot, *parts, bf16=world.bf16)
    prefixes = {"alone": []}
    if target in world.pretrained:
        prefixes["examples"] = caption_examples([photo.captions[0] for photo in photos.examples], seen.examples)
    losses = {
        name: caption_losses(few_shot_of(prefix), (photos.dev, seen.dev)).mean().item()
        for name, prefix in prefixes.items()
    }
    prompt = min(losses, key=losses.get)
    few_shot = few_shot_of(prefixes[prompt])
    prompts = [few_shot.embed(caption_prompt(tokens)) for tokens in seen.test]
    completed = few_shot.complete(prompts, words=named, word_bias=world.sizes.word_bias)
    captions = dict(zip([photo.name for photo in photos.test], completed, strict=True))
    return {
        "CIDEr": caption_scores(captions, {photo.name: photo.captions for photo in photos.test})["CIDEr"],
        "loss": caption_losses(few_shot, (photos.test, seen.test)).mean().item(),
        "tokens": sum(map(len, seen.test)) / len(seen.test),
        "prompt": prompt,
        "captions": captions,
    }


def read_words(world: MatrixWorld, parts: Parts, photos: Sequence[CaptionedPhoto]) -> list[list[int]]:
    """The first token of each of the words that stand for a photo."""
    return first_tokens_of_words(*parts, [photo.image for photo in photos], world.features(*parts))


def write(folder: Path, cells: list[dict]) -> None:
    text = json.dumps(cells, indent=1, ensure_ascii=False) + "\n"
    (folder / "cells.json").write_text(text, encoding="utf-8")
