# SPDX-License-Identifier: Apache-2.0
"""Pretrained parts on real photos: EfficientNet-Lite0, SmolLM2 and, where its terms are accepted, Gemma 3."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from transformers import AutoTokenizer

from experiments.flickr8k.photo_world import AdapterSizes, AdapterWorld
from modeling_langbridge import LangBridgeAdapter, SharedVocabulary
from trainer.data.captioned_photos import CaptionedPhoto
from trainer.device import has_bfloat16


# What adapters and language models are trained on reads as the prompts of few_shot.py do.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ 'Words:' + message['content'] + '\\nCaption:' if message['role'] == 'user' "
    "else ' ' + message['content'] + eos_token }}"
    "{% endfor %}"
)


@dataclass(frozen=True)
class PretrainedSizes(AdapterSizes):
    """How large everything is and how long it learns."""

    projector_hidden_size: int = 512
    test_photos: int = 200
    dev_photos: int = 40  # on which a row's prompt is chosen
    loss_photos: int = 100  # of the test photos, for losses and questions
    adapter_steps: int = 100
    adapter_batch_size: int = 16
    grounding_steps: int = 375  # four passes
    patch_dropout: float = 0.5
    tuning_steps: int = 60
    tuning_learning_rate: float = 1e-4
    examples: int = 4  # before a photo
    teaching_steps: int = 100  # of a language model on words and captions
    teaching_batch_size: int = 16
    teaching_learning_rate: float = 5e-4


QUICK = PretrainedSizes(
    projector_hidden_size=64,
    train_photos=60,
    test_photos=6,
    dev_photos=4,
    loss_photos=6,
    adapter_steps=2,
    adapter_batch_size=2,
    grounding_steps=4,
    tuning_steps=2,
    examples=2,
    teaching_steps=2,
    teaching_batch_size=2,
)


@dataclass(frozen=True)
class PretrainedWorld(AdapterWorld):
    """
    Pretrained language models over a pretrained tower.

    Args:
        data (`Path`): holds `caption_text` and `flickr8k`.
        sizes ([`PretrainedSizes`]): of everything.
        parts (`Mapping[str, Path]`): the folders of `efficientnet_lite0` and of each language model.
        words_only (`bool`): whether the MLPs and the raw coefficients are left out.
    """

    splits: ClassVar = ("train", "dev", "test")
    bf16: ClassVar = has_bfloat16()

    sizes: PretrainedSizes
    parts: Mapping[str, Path]
    words_only: bool

    @property
    def settings(self) -> dict:
        """All that decides the results, except which adapters there are: more of them may be added later."""
        return {"sizes": dataclasses.asdict(self.sizes), "parts": sorted(self.parts), "bf16": self.bf16}

    @property
    def tower(self) -> str:
        return str(self.parts["efficientnet_lite0"])

    @property
    def language_models(self) -> list[str]:
        return [name for name in self.parts if name != "efficientnet_lite0"]

    @property
    def vocabulary(self) -> SharedVocabulary:
        return LangBridgeAdapter.grounded_efficientnet_lite0().vocabulary

    def language_model(self, name: str) -> str:
        """The folder of a language model, or of one that was taught (`taught_smollm2`)."""
        return str(self.output_dir / (name if name.startswith("taught_") else f"language_models/{name}"))

    def photos(self, split: str) -> list[CaptionedPhoto]:
        photos = super().photos(split)
        return photos[: self.sizes.dev_photos] if split == "dev" else photos


def prepare_language_models(world: PretrainedWorld, folder: Path) -> None:
    """The language models, with a chat template that is the prompt of captions."""
    for name in world.language_models:
        prepare_language_model(world.parts[name], folder / name)


def prepare_language_model(part: Path, folder: Path) -> None:
    """A pretrained language model whose chat template is the prompt of captions."""
    tokenizer = AutoTokenizer.from_pretrained(part)
    begin = tokenizer.decode(tokenizer("")["input_ids"])
    tokenizer.chat_template = begin + CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)
    for file in ("config.json", "generation_config.json", "model.safetensors"):
        (folder / file).symlink_to(part.resolve() / file)
