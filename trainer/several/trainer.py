# SPDX-License-Identifier: Apache-2.0
"""Trains one adapter with several frozen language models, which take turns.

Coefficients that mean nothing to one language model may mean something to another. What several can use is made of
what they share: the words.
"""

from itertools import count
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, ProcessorMixin
from trl.trainer.utils import add_fused_lm_head

from ..answered_positions import AnsweredPositions
from ..data.conversations import ConversationEncoder
from ..sft_config import LangBridgeSFTConfig
from ..sft_trainer import LangBridgeSFTTrainer, context_of
from .collator import SeveralCollator


class SeveralLanguageModelsTrainer(LangBridgeSFTTrainer):
    """
    [`LangBridgeSFTTrainer`] for one vision tower and adapter and several frozen language models.

    Micro-batch i of optimizer step s goes through language model (s + i) modulo their number, so that a run that is
    resumed goes on in turn. Of several processes, each counts the others' micro-batches, too: two take two language
    models at once. Their losses are TRL's, each token of a step weighs the same. What is saved is the model with the
    first language model, and the adapter, which knows none of them.

    Args:
        model, args, processing_class, train_dataset, kwargs: As for [`LangBridgeSFTTrainer`], of the first one.
        others (`dict[str, tuple[PreTrainedModel, ProcessorMixin]]`):
            The others by their names, from [`~trainer.several.sharing.share_adapter`].

    Raises:
        `ValueError`: an option that several language models do not support.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: LangBridgeSFTConfig,
        processing_class: ProcessorMixin,
        train_dataset: Any,
        others: dict[str, tuple[PreTrainedModel, ProcessorMixin]],
        eval_dataset: Any = None,
        **kwargs: Any,
    ):
        check_options(args, eval_dataset)
        super().__init__(model, args, processing_class, train_dataset, **kwargs)
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise ValueError("Several language models do not go with sharded weights: use the preset ddp.yaml.")
        collator = self.data_collator
        self.data_collator = SeveralCollator(
            collator.encoder,
            context=context_of(model),
            others=[
                (ConversationEncoder(processor, args.plain_captions), context_of(other))
                for other, processor in others.values()
            ],
        )
        self.run_settings.settings["settings"]["other language models"] = list(others)
        self.recorder.name_language_models([model, *(other for other, _ in others.values())])
        # Each gets what TRL and accelerate do to the model that they know.
        self.other_models: list[nn.Module] = []
        self.answered = [self.answered_positions]
        for other, _ in others.values():
            add_fused_lm_head(other, outputs=("log_probs", "entropy", "is_top1"))
            if args.activation_checkpointing:
                other.activation_checkpointing_enable(args.activation_checkpointing_kwargs)
            self.answered.append(AnsweredPositions(other.model))
            self.other_models.append(self.accelerator.prepare_model(other, evaluation_mode=True))

    def get_batch_samples(self, epoch_iterator: Any, *args: Any, **kwargs: Any):
        first, processes = self.state.global_step + self.accelerator.process_index, self.accelerator.num_processes
        in_turn = map(self._take_turn, epoch_iterator, count(first, processes))
        return super().get_batch_samples(in_turn, *args, **kwargs)

    def _take_turn(self, batch: dict[str, Any], position: int) -> dict[str, Any]:
        turns = batch.pop("turns")
        turn = position % len(turns)
        return {**batch, **turns[turn], "turn": turn}

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], **kwargs: Any):
        turn = inputs.pop("turn")
        self.answered_positions = self.answered[turn]
        # Without DDP, which would wait for every process to come through this one model: see `training_step`.
        models = [self.accelerator.unwrap_model(model), *self.other_models]
        return super().compute_loss(models[turn].train(), inputs, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:
            for parameter in self._bare_model().parameters():
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, "mean")
        return loss


def check_options(args: LangBridgeSFTConfig, eval_dataset: Any) -> None:
    """Raises `ValueError` for options that several language models do not support."""
    unsupported = {
        "`train_language_model` full or lora": args.train_language_model != "frozen",
        "several GPUs in one process": args.n_gpu > 1,
        "`packing`": args.packing or args.eval_packing,
        "`word_prediction_weight`": args.word_prediction_weight,
        "`assignment_prediction_weight`": args.assignment_prediction_weight,
        "`max_length`": args.max_length is not None,
        "an `eval_dataset`": eval_dataset is not None,
    }
    if names := [name for name, is_given in unsupported.items() if is_given]:
        raise ValueError(f"Training with several language models does not support {names[0]}: leave it out.")
