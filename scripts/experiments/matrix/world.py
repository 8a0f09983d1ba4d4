# SPDX-License-Identifier: Apache-2.0
"""What the stages of the matrix share: its language models, its words, its photos, and how long everything learns."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from transformers import EarlyStoppingCallback

from experiments.flickr8k.photo_world import AdapterSizes, SmallWorld
from trainer.data.captioned_photos import CaptionedPhoto
from trainer.device import has_bfloat16


@dataclass(frozen=True)
class MatrixSizes(AdapterSizes):
    """Which small language models there are, how large everything is and how long it learns."""

    language_models: tuple[str, ...] = ("small_qwen2", "small_llama", "small_gpt_neox", "small_gemma3")
    sources: tuple[str, ...] = ("small_qwen2", "small_llama", "small_gpt_neox")  # that adapters are trained through
    shared_words: int = 2000  # V
    num_hidden_layers: int = 4  # of a small language model
    language_model_steps: int = 1000
    language_model_batch_size: int = 48
    language_model_learning_rate: float = 6e-3
    train_photos: int = 6000
    judging_photos: int = 100  # of the dev split, on which it is judged whether an adapter has converged
    dev_photos: int = 40  # the first of these, for the choice of prompts and the threshold of answers
    test_photos: int = 400
    pretrained_photos: int = 200  # of the test photos, for pretrained language models
    adapter_steps: int = 1000  # at most; see `least_gain`
    pretrained_adapter_steps: int = 600  # likewise, through a pretrained language model
    pretrained_batch_size: int = 16
    adapter_learning_rate: float = 1e-2
    judging_steps: int = 50
    least_gain: float = 0.005  # nats per token; see `adapter_schedule`
    grounding_steps: int = 360
    patch_dropout: float = 0.5
    tuning_steps: int = 150
    tuning_learning_rate: float = 3e-4
    group_distance: float = 0.25  # of patches in one group, 1 - the cosine of their coefficients
    word_bias: float = 2.0  # nats; of the words that captions rather have
    grouped_words: int = 12  # per image, of groups of patches
    examples: int = 8  # before a photo, where a pretrained language model does better after them
    prognosis_photos: int = 20
    gromov_words: int = 200
    newcomer: str = "small_olmo2"  # that no adapter of several language models is trained with
    several_steps: int = 200  # of such an adapter, in all, however many language models take turns
    several_learning_rate: float = 2e-2
    several_tuning_steps: int = 100  # of the grounded adapter, likewise
    several_tuning_learning_rate: float = 1e-3
    several_batch_size: int = 16


QUICK = MatrixSizes(
    language_models=("small_qwen2", "small_gpt_neox"),
    sources=("small_gpt_neox",),
    shared_words=300,
    num_hidden_layers=1,
    language_model_steps=2,
    language_model_batch_size=4,
    projector_hidden_size=16,
    train_photos=12,
    judging_photos=6,
    dev_photos=6,
    test_photos=6,
    pretrained_photos=6,
    adapter_steps=2,
    pretrained_adapter_steps=2,
    pretrained_batch_size=4,
    adapter_batch_size=4,
    judging_steps=1,
    grounding_steps=2,
    grounding_batch_size=4,
    tuning_steps=2,
    words_per_image=3,
    grouped_words=5,
    examples=2,
    prognosis_photos=3,
    gromov_words=20,
    several_steps=2,
    several_tuning_steps=2,
    several_batch_size=4,
)


@dataclass(frozen=True)
class MatrixWorld(SmallWorld):
    """
    Small language models that are trained here, and pretrained ones, over MobileNetV2.

    Args:
        data (`Path`): holds `caption_text`, `flickr8k` and `mobilenetv2_imagenet`.
        sizes ([`MatrixSizes`]): of everything.
        pretrained (`Mapping[str, Path]`): the folders of the pretrained language models, by name.
    """

    splits: ClassVar = ("train", "dev", "test")
    bf16: ClassVar = has_bfloat16()

    sizes: MatrixSizes
    pretrained: Mapping[str, Path]

    @property
    def settings(self) -> dict:
        """All that decides the results, except the adapters' seeds: more of them may be added later."""
        return {"sizes": dataclasses.asdict(self.sizes), "pretrained": sorted(self.pretrained), "bf16": self.bf16}

    @property
    def targets(self) -> list[str]:
        return [*self.sizes.language_models, *self.pretrained]

    def photos(self, split: str) -> list[CaptionedPhoto]:
        photos = super().photos(split)
        return photos[: self.sizes.judging_photos] if split == "dev" else photos

    def test_photos_of(self, language_model: str) -> list[CaptionedPhoto]:
        """The photos that a language model is measured on: fewer for a pretrained one, which is slow."""
        photos = self.photos("test")
        return photos[: self.sizes.pretrained_photos] if language_model in self.pretrained else photos

    def sizes_for(self, language_model: str) -> MatrixSizes:
        """The sizes, with fewer and smaller steps through a pretrained language model, which is slow."""
        sizes = self.sizes
        if language_model not in self.pretrained:
            return sizes
        steps, batch_size = sizes.pretrained_adapter_steps, sizes.pretrained_batch_size
        return dataclasses.replace(sizes, adapter_steps=steps, adapter_batch_size=batch_size)

    @property
    def adapter_schedule(self) -> dict[str, Any]:
        """
        An adapter learns through a language model until that brings nothing: where `judging_steps` steps have lowered
        the dev photos' least loss by less than `least_gain`, the learning rate falls to a third, and at the third such
        time in a row training ends.
        """
        least = self.sizes.least_gain
        return {
            "judged_on": "dev",
            "lr_scheduler_type": "reduce_lr_on_plateau",
            "lr_scheduler_kwargs": {"factor": 1 / 3, "patience": 0, "threshold": least, "threshold_mode": "abs"},
            "eval_strategy": "steps",
            "eval_steps": self.sizes.judging_steps,
            "logging_steps": self.sizes.judging_steps,
            "metric_for_best_model": "loss",
            "greater_is_better": False,
            "callbacks": [EarlyStoppingCallback(early_stopping_patience=3, early_stopping_threshold=least)],
        }
