# SPDX-License-Identifier: Apache-2.0
"""TRL's SFTTrainer for LangBridge: answers as the only targets, and a mode and learning rate for each part."""

import logging
import math
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from accelerate.utils import is_peft_model
from datasets import Dataset, IterableDataset
from torch import nn
from torch.utils.data import Sampler
from transformers import PreTrainedModel, ProcessorMixin
from transformers.image_processing_utils import BaseImageProcessor
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.utils.generic import is_flash_attention_requested
from trl import SFTTrainer

from modeling_langbridge import SharedVocabulary

from .answered_positions import AnsweredPositions
from .callbacks.photo_preview import PhotoPreviewCallback
from .callbacks.throughput import Throughput
from .checkpointing.checkpoints import find_last_checkpoint
from .checkpointing.lora_base import check_base
from .checkpointing.resuming import ResumingMixin, describe_run
from .data.conversations import ConversationEncoder
from .data.dataset_rows import as_rows
from .data.faults import errors_of_workers
from .data.packing import pack
from .data.packing_collator import PackingCollator
from .data.sample_lengths import count_tokens, without_too_long
from .features.caching import FeatureCachingMixin
from .objectives.assignment_prediction import AssignmentObjective
from .objectives.objective import Objective
from .objectives.word_prediction import WordPredictionObjective
from .packing.packing import PackingMixin, samples_of
from .part_rates import PartRatesMixin
from .parts import describe_memory, describe_parts, keep_trained_in_float32, prepare_parts
from .publishing.publishing import PublishingMixin
from .publishing.recorder import TrainingRecorder
from .run_plan import RunPlan
from .saving import SavingMixin
from .sft_config import LangBridgeSFTConfig


logger = logging.getLogger(__name__)


def context_of(model: PreTrainedModel) -> int | None:
    """The most tokens that the language model was made for, where its configuration says so."""
    return getattr(model.config.text_config, "max_position_embeddings", None)


class LangBridgeSFTTrainer(
    ResumingMixin, SavingMixin, FeatureCachingMixin, PublishingMixin, PartRatesMixin, PackingMixin, SFTTrainer
):
    """
    [`~trl.SFTTrainer`] for LangBridge.

    Takes rows of any form that [`~trainer.data.samples.read_sample`] knows, with several images or none, and trains
    on the assistant's answers and their ends alone. Each part of the model is frozen, trained in full or
    by LoRA, at a learning rate of its own, as the [`LangBridgeSFTConfig`] says (pretraining and finetuning stages:
    paper, section 4). Checkpoints are complete folders: model (or LoRA), code files, processor and chat template, and
    in `adapter`, if it is made of words (`adapter_type` `"langbridge"`), the adapter alone, which works with any
    language model.

    Args:
        model (`PreTrainedModel`):
            A LangBridge. One with a quantised language model is trained by LoRA. LoRA needs a model as it was saved,
            since its folder only names it.
        args ([`LangBridgeSFTConfig`]):
            Every option of [`~trl.SFTConfig`], and those of the parts.
        processing_class (`ProcessorMixin`):
            The model's processor.
        train_dataset, eval_dataset, kwargs:
            As for [`~trl.SFTTrainer`].
        vocabulary (`SharedVocabulary`, *optional*):
            The words of `assignment_prediction_weight` where the adapter has none; one made of words has its own.
        dataset_name, eval_dataset_name (`str`, *optional*):
            What the data were loaded from, for the record and the card: a Hub id, or a path, of which the last part is
            written.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: LangBridgeSFTConfig,
        processing_class: ProcessorMixin,
        train_dataset: Dataset | IterableDataset,
        eval_dataset: Dataset | IterableDataset | dict[str, Dataset | IterableDataset] | None = None,
        vocabulary: SharedVocabulary | None = None,
        dataset_name: str | None = None,
        eval_dataset_name: str | None = None,
        **kwargs: Any,
    ):
        encoder = ConversationEncoder(processing_class, args.plain_captions)
        # TRL would drop every column it does not know, the sample's name among them.
        args.remove_unused_columns = False
        with args.main_process_first(desc="reading samples"):
            train_dataset = self._read(train_dataset, encoder, args, args.packing)
            read = partial(self._read, encoder=encoder, args=args, packing=args.packs_evaluation())
            if isinstance(eval_dataset, dict):
                eval_dataset = {name: read(rows) for name, rows in eval_dataset.items()}
            elif eval_dataset is not None:
                eval_dataset = read(eval_dataset)
        samples = samples_of(train_dataset)
        self.by_length = args.train_sampling_strategy in ("group_by_length", "batch_rebalance")
        self.lengths: WeakKeyDictionary[Dataset, Dataset] = WeakKeyDictionary()
        if self.by_length and isinstance(train_dataset, IterableDataset):
            raise ValueError(
                f"`train_sampling_strategy` {args.train_sampling_strategy} needs the lengths of all samples first: "
                "leave it or `streaming` out."
            )
        self.objectives: list[Objective] = []
        if args.word_prediction_weight:
            weights = args.word_prediction_weight, args.frequency_power
            self.objectives.append(WordPredictionObjective(*weights, model, encoder.tokenizer, samples))
        if args.assignment_prediction_weight:
            self.objectives.append(AssignmentObjective(args, model, encoder.tokenizer, samples, vocabulary))
        lora = prepare_parts(model, args)
        if lora is not None and args.process_index == 0:  # whose end ends the others
            check_base(model)
        super().__init__(
            model,
            args,
            data_collator=PackingCollator(
                encoder,
                {part.name: part.collate for part in self.objectives},
                # Counting all samples takes a pass over them: done where a `max_length` asks for it. That of bins says
                # nothing about the context.
                context=context_of(model) if args.max_length is None or args.packing or args.eval_packing else None,
                max_length=args.max_length,
                flat=is_flash_attention_requested(model.model.language_model.config),
            ),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            peft_config=lora,
            **kwargs,
        )
        keep_trained_in_float32(self.model)
        for objective in self.objectives:
            if self.is_fsdp_enabled or is_deepspeed_zero3_enabled():
                raise ValueError(
                    f"`{objective.name}_weight` is not supported with sharded weights: use DDP or ZeRO-2."
                )
            objective.attach(self.model)
        self.answered_positions = AnsweredPositions(self._bare_model().model)
        self.throughput = Throughput()
        self.add_callback(self.throughput)
        self.add_callback(RunPlan)
        self.recorder = TrainingRecorder(self, self._bare_model(), dataset_name, eval_dataset_name)
        rates = {
            part: args.learning_rate if rate is None else rate
            for part, rate in args.learning_rates().items()
            if args.modes()[part] != "frozen"
        }
        packing = f"in bins of {args.max_length} tokens" if args.packing else "none"
        self.run_settings = describe_run(args, samples, dataset_name, args.modes(), rates, packing)
        self.add_callback(self.run_settings)
        self.step_samples: list[str] = []
        logger.info(describe_parts(self.model, args, args.learning_rate))
        logger.info(describe_memory(self.model))

    @staticmethod
    def _read(dataset, encoder: ConversationEncoder, args: LangBridgeSFTConfig, packing: bool):
        dataset = as_rows(dataset)
        if args.max_length is None:
            return dataset
        if packing:
            lengths = args.max_length, args.too_long, args.length_column_name
            return pack(dataset, encoder, *lengths, seed=args.seed, num_proc=args.dataset_num_proc)
        return without_too_long(dataset, encoder, args.max_length, args.too_long, args.dataset_num_proc)

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        return super()._get_train_sampler(self._to_sample(train_dataset or self.train_dataset))

    def _get_eval_sampler(self, eval_dataset: Dataset) -> Sampler | None:
        return super()._get_eval_sampler(self._to_sample(eval_dataset))

    def _to_sample(self, dataset: Dataset | IterableDataset) -> Dataset | IterableDataset:
        """What a sampler by length looks at: the samples' lengths, counted once, unless they bring them."""
        if not self.by_length or isinstance(dataset, IterableDataset):
            return dataset
        if self.args.length_column_name in dataset.column_names:
            return dataset
        if dataset not in self.lengths:
            counted = count_tokens(dataset, self.data_collator.encoder, self.args.dataset_num_proc)
            self.lengths[dataset] = counted.rename_column("num_tokens", self.args.length_column_name)
        return self.lengths[dataset]

    def get_batch_samples(self, *args: Any, **kwargs: Any):
        with self.throughput.waiting_for_data(), errors_of_workers():
            batches, num_items = super().get_batch_samples(*args, **kwargs)
        for objective in self.objectives:
            objective.begin_step(batches, self.accelerator)
        return batches, num_items

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], **kwargs: Any):
        """TRL's loss; one that is no number stops the run and names the step and the samples."""
        sample_ids = inputs.pop("sample_ids")
        batches = {objective.name: inputs.pop(objective.name) for objective in self.objectives}
        if self.model.training:
            self.throughput.count(inputs)
            self.step_samples += sample_ids
        # Losses that are not TRL's own, and whoever asks for logits, need the labels.
        if not (self.compute_loss_func or self.label_smoother or kwargs.get("return_outputs")):
            self.answered_positions.narrow(inputs)
        result = super().compute_loss(model, inputs, **kwargs)
        loss, *outputs = result if isinstance(result, tuple) else (result,)
        self._stop_unless_finite("loss", loss, sample_ids)
        if batches:
            loss = loss + self._objectives_loss(batches)
            self._stop_unless_finite("loss", loss, sample_ids)
        return (loss, *outputs) if outputs else loss

    def _objectives_loss(self, batches: dict[str, dict[str, torch.Tensor]]) -> torch.Tensor:
        """The objectives' loss of the batch of the last forward; their terms are logged."""
        model, mode = self._bare_model(), "train" if self.model.training else "eval"
        total = 0
        for objective in self.objectives:
            if mode == "eval":  # each of whose batches is a step of its own
                objective.begin_step([batches], self.accelerator)
            loss, logged = objective.share(model, batches[objective.name], self.accelerator)
            total = total + loss
            for name, value in logged.items():
                # TRL logs the mean of its entries, but a step's accumulated batches add up to it.
                parts = self.current_gradient_accumulation_steps if mode == "train" else 1
                self._metrics[mode][name].append(value * parts)
        return total

    def _get_grad_norm(self, model: nn.Module, grad_norm: float | None = None) -> float:
        """Called before the optimizer steps: gradients that are no numbers would spoil the weights."""
        grad_norm = super()._get_grad_norm(model, grad_norm)
        samples, self.step_samples = self.step_samples, []
        if self.accelerator.scaler is None and grad_norm is not None:  # float16's scaler skips such steps itself
            self._stop_unless_finite("gradient's norm", grad_norm, samples)
        return grad_norm

    def _stop_unless_finite(self, what: str, value: float | torch.Tensor, sample_ids: list[str]) -> None:
        value = float(value.detach() if isinstance(value, torch.Tensor) else value)
        if math.isfinite(value):
            return
        last = find_last_checkpoint(self.args.output_dir)
        left = f"the last complete checkpoint is {last}" if last else "there is no checkpoint yet"
        raise FloatingPointError(
            f"The {what} is {value} in step {self.state.global_step + 1}, on the samples {', '.join(sample_ids)}. "
            f"They changed no weight; {left}. A lower learning rate or bfloat16 instead of float16 may help."
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update({f"learning_rate/{part}": rate for part, rate in self.part_rates.items()})
            logs.update(self.throughput.summarize(self.accelerator))
            for callback in self.callback_handler.callbacks:
                if isinstance(callback, PhotoPreviewCallback):
                    logs.update(callback.latest)
        super().log(logs, start_time)

    def _get_feature_parts(self) -> tuple[PreTrainedModel, BaseImageProcessor, list[Dataset | IterableDataset]]:
        evaluated = self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]
        datasets = [samples_of(dataset) for dataset in (self.train_dataset, *evaluated) if dataset is not None]
        return self._bare_model(), self.data_collator.encoder.processor.image_processor, datasets

    def _bare_model(self) -> PreTrainedModel:
        """The LangBridge itself, in which LoRA stays active, without what launchers and PEFT have put around it."""
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if is_peft_model(model) else model
