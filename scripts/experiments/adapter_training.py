# SPDX-License-Identifier: Apache-2.0
"""An adapter trained on pictures with captions: the pretraining stage, for any adapter."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedModel, ProcessorMixin, TrainerCallback
from trl import SFTTrainer

from trainer.muon import build_muon
from trainer.sft_trainer import LangBridgeSFTConfig


def train_adapter(
    trainer_class: Callable[..., SFTTrainer],
    model: PreTrainedModel,
    processor: ProcessorMixin,
    output_dir: Path,
    *,
    train_dataset: Dataset,
    eval_dataset: Dataset | None,
    learning_rate: float,
    max_steps: int,
    batch_size: int,
    seed: int,
    word_prediction_weight: float = 0.0,
    muon: bool = True,
    bf16: bool = False,
    feature_cache: str | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    **config_fields: Any,
) -> None:
    """
    Trains what of a model is not frozen and writes to `log.json` the course of the loss and, as
    `test_loss`, the loss per token on `eval_dataset`, where there is one, in nats.

    Args:
        trainer_class (`Callable[..., SFTTrainer]`):
            A class, or one with some of its arguments. [`LangBridgeSFTTrainer`] freezes tower and language model
            itself; with TRL's own they must be frozen.
        model ([`PreTrainedModel`]): a LangBridge or a LLaVA. It is not saved here.
        processor ([`ProcessorMixin`]): the model's.
        output_dir (`Path`): an empty folder.
        train_dataset (`Dataset`): with `images`, `prompt` and `completion`.
        eval_dataset (`Dataset`, *optional*): with the same columns; the loss on it is measured once, at the end.
        learning_rate (`float`): the highest; a cosine schedule ends at 0, unless another one is given.
        max_steps (`int`): optimiser steps.
        batch_size (`int`): samples per step.
        seed (`int`): of the order of the samples.
        word_prediction_weight (`float`, *optional*, defaults to 0.0): see [`LangBridgeSFTConfig`].
        muon (`bool`, *optional*, defaults to `True`): whether Muon trains the matrices, or AdamW everything.
        bf16 (`bool`, *optional*, defaults to `False`): whether to multiply in bfloat16 (autocast).
        feature_cache (`str`, *optional*): see [`LangBridgeSFTConfig`]; with [`LangBridgeSFTTrainer`] alone.
        callbacks (`Sequence[TrainerCallback]`, *optional*, defaults to `()`): the trainer's.
        config_fields: further fields of [`LangBridgeSFTConfig`], such as another schedule.
    """
    usual = {"lr_scheduler_type": "cosine", "warmup_steps": 0.05, "logging_steps": min(20, max_steps)}
    arguments = LangBridgeSFTConfig(
        output_dir=str(output_dir),
        max_steps=max_steps,
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        learning_rate=learning_rate,
        bf16=bf16,
        activation_checkpointing=False,  # TRL would trade time for memory
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        seed=seed,
        word_prediction_weight=word_prediction_weight,
        feature_cache=feature_cache,
        **{**usual, **config_fields},
    )
    trainer = trainer_class(
        model=model,
        args=arguments,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processor,
        callbacks=list(callbacks),
    )
    if trainer.args.device.type == "cpu":
        # Fused attention saves memory, and its way back takes longer there than plain products do.
        model.model.language_model.set_attn_implementation("eager")
    if muon:
        # Given now, when the model is on its device and everything except the adapter is frozen.
        trainer.optimizer = build_muon(model, learning_rate)
    trainer.train()
    measured = {} if eval_dataset is None else {"test_loss": trainer.evaluate()["eval_loss"]}
    log = {**measured, "steps": trainer.state.log_history}
    (output_dir / "log.json").write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")
