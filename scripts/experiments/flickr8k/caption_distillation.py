# SPDX-License-Identifier: Apache-2.0
"""Raw coefficients for another language model, from photos alone: they learn the captions that it makes of words.

Raw coefficients that give the visual tokens of words ([`~trainer.distillation.distil`]) hand over mixtures of words,
which language models read worse than words. So the language model captions the photos by their strongest words, and
the coefficients learn these captions through it: sequence-level knowledge distillation (Kim & Rush, "Sequence-Level
Knowledge Distillation", arXiv 1606.07947), with the frozen language model as its own teacher. No human's caption is
read here.
"""

import dataclasses
from pathlib import Path

from transformers import set_seed

from experiments.flickr8k.photo_adapters import load_adapter_onto, train_on_captions
from experiments.flickr8k.photo_captions import caption_photos
from experiments.flickr8k.photo_finetuning import distil_from_photos
from experiments.flickr8k.photo_world import PhotoWorld
from modeling_langbridge import LangBridgeAdapter


def distil_captions(world: PhotoWorld, language_model: str, seed: int, folder: Path) -> None:
    """The grounded adapter made raw coefficients for one language model, which learn its captions of their words."""
    set_seed(seed)
    sizes, grounded = world.sizes, f"grounded_{seed}"
    teacher, processor = load_adapter_onto(world, grounded, language_model, sizes.words_per_image)
    photos = world.photos("train")
    captions = caption_photos(teacher, processor, photos, world.features(teacher, processor))
    # An empty caption is no answer to learn.
    captioned = [
        dataclasses.replace(photo, captions=[captions[photo.name]]) for photo in photos if captions[photo.name]
    ]
    model, processor = load_adapter_onto(world, grounded, language_model)
    distil_from_photos(world, model, processor, seed, folder)
    steps, rate = sizes.caption_distillation_steps, sizes.finetuning_adapter_learning_rate
    if captioned:
        train_on_captions(world, model, processor, folder, seed, steps, rate, photos=captioned)
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(folder / "adapter")
