# SPDX-License-Identifier: Apache-2.0
"""Saving a trainer's model as a complete folder, the adapter alone beside it, and taking up a checkpoint again."""

import logging
from pathlib import Path

import torch
from torch import nn
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME

from modeling_langbridge import LangBridgeAdapter
from modeling_langbridge.utils.weights import require_finite

from .checkpointing.checkpoints import clear_for_adapter
from .checkpointing.lora_base import point_to_base
from .checkpointing.output_folder import saving_to
from .checkpointing.sharding import gather_optimizer_state, scatter_optimizer_state, scatter_weights
from .parts import part_of, plain_name
from .publishing.recorder import describe_trained


logger = logging.getLogger(__name__)


class SavingMixin:
    """
    Before [`~transformers.Trainer`] among a trainer's bases. Folders hold the model (or LoRA), code files, processor,
    record and card, and in `adapter` what works with any language model; each is written whole or not at all.
    """

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            return super()._save_optimizer_and_scheduler(output_dir)
        state = gather_optimizer_state(self.model, self.optimizer)
        if self.args.should_save:
            torch.save(state, Path(output_dir) / OPTIMIZER_NAME)
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.is_fsdp_enabled or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
        else:
            scatter_optimizer_state(self.model, self.optimizer, Path(checkpoint) / OPTIMIZER_NAME)
            self.lr_scheduler.load_state_dict(torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True))
        if checkpoint is not None and self.lr_scheduler is not None and not self.is_deepspeed_enabled:
            # The checkpoint's rates hold, whatever the arguments say.
            self.peak_rates = dict(zip(self.group_parts, self.lr_scheduler.base_lrs, strict=False))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self.is_fsdp_enabled:
            scatter_weights(self.model if model is None else model, Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        if not self.args.should_save:
            return super()._save(output_dir, state_dict)
        model = self._bare_model()
        require_finite((model.state_dict() if state_dict is None else state_dict).items(), "the trained model")
        weights = self._adapter_weights(state_dict)  # before saving empties a gathered `state_dict`
        if state_dict is not None:
            # Gathered, the output layer no longer shares its memory with the embeddings that it is tied to.
            state_dict = {name: value for name, value in state_dict.items() if name not in model.all_tied_weights_keys}
        place, output_dir = Path(output_dir or self.args.output_dir), Path(self.args.output_dir)
        with saving_to(place, output_dir) as folder:
            super()._save(str(folder), state_dict)
            point_to_base(folder, place)
            clear_for_adapter(folder)
            self._describe(folder, weights)

    def _describe(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        """Puts the adapter alone, the record and the card into a saved folder."""
        model = self._bare_model()
        run = describe_trained(model, self.args, self.peak_rates), {part.name: part.weight for part in self.objectives}
        self.recorder.write(folder, *run)
        if model.config.adapter_type != "langbridge":
            return  # without words, it is of use to its own language model only
        try:
            adapter = LangBridgeAdapter.from_model(model, self.processing_class.tokenizer, weights)
            adapter.save_pretrained(folder / "adapter")
        except ValueError as error:
            logger.warning("The adapter alone was not saved: %s", error)
        else:
            self.recorder.write(folder / "adapter", *run)

    def _adapter_weights(self, state_dict: dict | None) -> dict[str, torch.Tensor]:
        """The projector's and the vocabulary head's weights, by their names in the model."""
        weights = self.accelerator.unwrap_model(self.model).state_dict() if state_dict is None else state_dict
        return {
            plain_name(name): tensor
            for name, tensor in weights.items()
            if part_of(name) in ("projector", "vocabulary_head") and ".original_module." not in name
        }
