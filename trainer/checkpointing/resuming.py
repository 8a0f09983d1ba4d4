# SPDX-License-Identifier: Apache-2.0
"""Going on from a checkpoint: what of the run that wrote it differs from this one, and which of the two holds."""

import logging
from pathlib import Path
from typing import Any

from accelerate.utils import is_peft_model
from datasets import Dataset
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, SaveStrategy

from hub_cards.training_record import file_name
from modeling_langbridge.utils.files import read_json

from .checkpoints import clearing_up, find_checkpoint
from .output_folder import require_room


logger = logging.getLogger(__name__)


class RunSettings(TrainerCallback, ExportableState):
    """
    What decides a run's result; checkpoints keep it in their state.

    Args:
        settings (`dict[str, dict]`): `"parts"`, `"learning rates"` and `"settings"`, each by name.
    """

    def __init__(self, settings: dict[str, dict[str, Any]]):
        self.settings = settings

    def on_train_begin(self, args, state, control, **kwargs):
        # Checkpoints of earlier versions have no entry, which a save would read.
        state.stateful_callbacks.setdefault(type(self).__name__, {})

    def state(self) -> dict[str, Any]:
        return {"args": {"settings": self.settings}, "attributes": {}}


def describe_run(
    args: TrainingArguments,
    dataset: Any,
    dataset_name: str | None,
    parts: dict[str, str],
    learning_rates: dict[str, float],
    packing: str = "none",
) -> RunSettings:
    """
    What later runs are compared with that go on from this one's checkpoints.

    Args:
        args (`TrainingArguments`): Of the run.
        dataset (`Dataset` or `IterableDataset`): As it is trained on.
        dataset_name (`str`, *optional*): What it was loaded from.
        parts (`dict[str, str]`): How each part of the model is trained, by its name.
        learning_rates (`dict[str, float]`): The highest, of each part that is trained.
        packing (`str`, *optional*, defaults to `"none"`): How samples share sequences.
    """
    settings = {
        "dataset": file_name(dataset_name) or dataset_name,
        "fingerprint of the dataset": dataset._fingerprint if isinstance(dataset, Dataset) else None,
        "packing": packing,
        "samples a step": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "max_steps": args.max_steps,
        "num_train_epochs": args.num_train_epochs,
        "lr_scheduler_type": args.lr_scheduler_type.value,
        "seed": args.seed,
    }
    rates = {f"learning rate of {part}": rate for part, rate in learning_rates.items()}
    return RunSettings({"parts": parts, "learning rates": rates, "settings": settings})


def compare_with_checkpoint(checkpoint: Path, now: dict[str, dict[str, Any]]) -> list[str]:
    """
    What differs between the run that wrote a checkpoint and the one that goes on from it, and which of the two holds.

    Raises:
        `ValueError`: other parts are trained, whose optimizer's state the checkpoint does not have.
    """
    stored = read_json(checkpoint / TRAINER_STATE_NAME).get("stateful_callbacks", {}).get(RunSettings.__name__)
    if not stored:  # by an earlier version
        return []
    then = stored["args"]["settings"]
    differ = {
        # A trainer need not be told its dataset's name, and streams have no fingerprint.
        kind: [name for name, value in values.items() if value is not None and then[kind].get(name, value) != value]
        for kind, values in now.items()
    }
    if names := differ["parts"]:
        modes = ", ".join(f"{name} {then['parts'][name]} (now {now['parts'][name]})" for name in names)
        raise ValueError(
            f"{checkpoint} was trained with {modes}, and its optimizer's state fits no other parts: train the same "
            "parts, or begin a new run with its model."
        )
    return [
        f"{name}: {then[kind][name]} in the checkpoint, {now[kind][name]} now; {holds}"
        for kind, holds in (("learning rates", "the checkpoint's holds"), ("settings", "the new one holds"))
        for name in differ[kind]
    ]


class ResumingMixin:
    """
    Before [`~transformers.Trainer`] among a trainer's bases, which sets `run_settings`: before the first step, sees to
    the room for a save, and says how a checkpoint's run differs.
    """

    run_settings: RunSettings

    def train(self: Trainer, resume_from_checkpoint: str | bool | None = None, **kwargs: Any):
        """Trains; `resume_from_checkpoint` may be a checkpoint, or `True` or `"last"` for the newest complete one."""
        checkpoint = find_checkpoint(resume_from_checkpoint, self.args.output_dir)
        if checkpoint:
            by_deepspeed = any(checkpoint.glob("global_step*"))
            if by_deepspeed != self.is_deepspeed_enabled:
                raise ValueError(
                    f"{checkpoint} was {'' if by_deepspeed else 'not '}written under DeepSpeed, whose optimizer's "
                    "state no other layout can read: go on with the preset that the run began with."
                )
            if differences := compare_with_checkpoint(checkpoint, self.run_settings.settings):
                logger.warning("%s is of a run with other settings. %s.", checkpoint, ". ".join(differences))
        if self.args.save_strategy == SaveStrategy.NO:
            logger.info("Nothing is kept before the end of the training, as `save_strategy` is no.")
        if self.is_world_process_zero():
            require_room(Path(self.args.output_dir), size_of_save(self.model, self.args))
        return super().train(str(checkpoint) if checkpoint else None, **kwargs)

    def _save_checkpoint(self: Trainer, model: Any, trial: Any) -> None:
        with clearing_up(Path(self.args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"):
            super()._save_checkpoint(model, trial)


def size_of_save(model: Any, args: TrainingArguments) -> int:
    """The bytes of a model's weights, or those of its LoRA, and in checkpoints of AdamW's two moments."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    saved = trained if is_peft_model(model) else model.parameters()
    moments = 0 if args.save_strategy == SaveStrategy.NO else 2
    return sum(parameter.nbytes for parameter in saved) + moments * sum(parameter.nbytes for parameter in trained)
