# SPDX-License-Identifier: Apache-2.0
"""The forms in which a photo is handed to a language model that its adapter was not trained with."""

from collections.abc import Sequence
from functools import partial

import torch

from experiments.flickr8k.few_shot import see_photos
from experiments.flickr8k.grouped_patches import see_grouped_words
from experiments.matrix.world import MatrixWorld
from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
    lift,
)
from trainer.data.captioned_photos import CaptionedPhoto


Parts = tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]

# Grounded adapters know no language model: whichever comes is new to them.
WITHOUT_SOURCE = {
    "words": "grounded words",
    "named_words": "grounded words, likelier in the caption",
    "groups": "grounded words of groups of like patches, in reading order",
    "patches": "grounded, a token per patch",
}
WITH_SOURCE = {
    "tuned_words": "grounded words, tuned through the source",
    "raw": "raw coefficients of the source",
    "lifted": "MLP of the source, lifted into words",
}
FORMS = {**WITHOUT_SOURCE, **WITH_SOURCE}


def cells_of(world: MatrixWorld) -> list[tuple[str, str | None]]:
    """Each form with each of its sources: what is measured with every target."""
    moved = [(form, source) for form in WITH_SOURCE for source in world.sizes.sources]
    return [*((form, None) for form in WITHOUT_SOURCE), *moved]


def join_form(world: MatrixWorld, form: str, source: str | None, target: str, seed: int) -> Parts:
    """The adapter of a form and a source, joined to the target without any training."""
    if form == "lifted":
        adapter = lift_mlp(world, source, seed)
    else:
        stages = {"tuned_words": f"tuned_{source}_{seed}", "raw": f"raw_{source}_{seed}"}
        stage = stages.get(form, f"grounded_{seed}")
        adapter = LangBridgeAdapter.from_pretrained(world.output_dir / stage / "adapter")
    sizes = world.sizes
    words = dict.fromkeys(("words", "named_words", "tuned_words"), sizes.words_per_image)
    counts = {**words, "groups": sizes.grouped_words}
    return adapter.join(world.tower, world.language_model(target), words_per_image=counts.get(form))


def load_mlp(world: MatrixWorld, language_model: str, seed: int) -> Parts:
    """The MLP that was trained through a language model, with that language model."""
    checkpoint = world.output_dir / f"mlp_{language_model}_{seed}"
    model = LangBridgeForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    return model, LangBridgeProcessor.from_pretrained(checkpoint)


def lift_mlp(world: MatrixWorld, language_model: str, seed: int) -> LangBridgeAdapter:
    """The MLP that was trained through a language model, as an adapter of words that does the same there."""
    model, processor, _ = lift(*load_mlp(world, language_model, seed), world.vocabulary)
    return LangBridgeAdapter.from_model(model, processor.tokenizer)


def see(world: MatrixWorld, form: str, parts: Parts, photos: Sequence[CaptionedPhoto]) -> list[torch.Tensor]:
    """The visual tokens `(tokens, d)` of each photo in a form."""
    sizes, read = world.sizes, see_photos
    if form == "groups":
        read = partial(see_grouped_words, distance=sizes.group_distance, count=sizes.grouped_words)
    return read(*parts, photos=photos, features=world.features(*parts))
