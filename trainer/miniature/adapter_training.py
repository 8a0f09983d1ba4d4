# Copyright 2026 The LangBridge team. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""An adapter trained on photos with captions: the pretraining stage on cached features, for any adapter alike."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, ProcessorMixin
from trl import SFTTrainer

from ..feature_cache import FeatureCache
from ..muon import build_muon
from ..sft_trainer import LangBridgeSFTConfig
from .caption_corpora import Photo, caption_dataset


def train_caption_adapter(
    trainer_class: type[SFTTrainer],
    model: PreTrainedModel,
    processor: ProcessorMixin,
    cache: FeatureCache,
    output_dir: Path,
    *,
    train_photos: Sequence[Photo],
    test_photos: Sequence[Photo],
    learning_rate: float,
    max_steps: int,
    batch_size: int,
    seed: int,
) -> None:
    """
    Trains what of a model is not frozen, with Muon, and saves model, processor and `log.json`.

    Args:
        trainer_class (`type[SFTTrainer]`):
            [`LangBridgeSFTTrainer`] freezes tower and language model itself; with TRL's own they must be frozen.
        model ([`PreTrainedModel`]): a LangBridge or a LLaVA.
        processor ([`ProcessorMixin`]): the model's.
        cache ([`FeatureCache`]): over the model's own tower; it takes the tower's place while the adapter learns.
        output_dir (`Path`): an empty folder.
        train_photos (`Sequence[Photo]`): each of their captions is a sample.
        test_photos (`Sequence[Photo]`): the loss on the first caption of each is measured once, at the end.
        learning_rate (`float`): the highest; a cosine leads down to nothing.
        max_steps (`int`): optimiser steps.
        batch_size (`int`): captions per step.
        seed (`int`): of the order of the captions.
    """
    arguments = LangBridgeSFTConfig(
        output_dir=str(output_dir),
        max_steps=max_steps,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        bf16=False,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        logging_steps=20,
        seed=seed,
    )
    first_captions = [dataclasses.replace(photo, captions=photo.captions[:1]) for photo in test_photos]
    with cache.standing_in_for_tower(model.model):
        trainer = trainer_class(
            model=model,
            args=arguments,
            train_dataset=caption_dataset(train_photos),
            eval_dataset=caption_dataset(first_captions),
            processing_class=processor,
        )
        # Given now, when the model is on its device and frozen but for the adapter.
        trainer.optimizer = build_muon(model, learning_rate)
        trainer.train()
        loss = trainer.evaluate()["eval_loss"]
    log = {"test_loss": loss, "steps": trainer.state.log_history}
    (output_dir / "log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
    model.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
