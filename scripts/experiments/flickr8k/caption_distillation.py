# SPDX-License-Identifier: Apache-2.0
"""Raw coefficients for another language model, from photos alone: they learn what it says of each by its words."""

import dataclasses
from functools import partial
from pathlib import Path

from transformers import set_seed

from experiments.flickr8k.photo_adapters import load_adapter_onto, train_on_captions
from experiments.flickr8k.photo_captions import caption_photos
from experiments.flickr8k.photo_finetuning import distil_from_photos
from experiments.flickr8k.photo_world import PhotoWorld
from modeling_langbridge import LangBridgeAdapter
from trainer.caption_distillation import CaptionDistillationTrainer


def distil_captions(world: PhotoWorld, language_model: str, seed: int, folder: Path) -> None:
    """The grounded adapter made raw coefficients for one language model, which learn its captions of their words."""
    set_seed(seed)
    sizes, grounded = world.sizes, f"grounded_{seed}"
    teacher, its_processor = load_adapter_onto(world, grounded, language_model, sizes.words_per_image)
    photos = world.photos("train")
    captions = caption_photos(teacher, its_processor, photos, world.features(teacher, its_processor))
    # An empty caption is no answer to learn.
    captioned = [
        dataclasses.replace(photo, captions=[captions[photo.name]]) for photo in photos if captions[photo.name]
    ]
    model, processor = load_adapter_onto(world, grounded, language_model)
    distil_from_photos(world, model, processor, seed, folder)
    if captioned:
        train_on_captions(
            world,
            model,
            processor,
            folder,
            seed,
            sizes.caption_distillation_steps,
            sizes.finetuning_adapter_learning_rate,
            photos=captioned,
            judged_on=None,
            trainer_class=partial(CaptionDistillationTrainer, teacher=(teacher, its_processor)),
        )
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(folder / "adapter")
