# SPDX-License-Identifier: Apache-2.0
"""What a run says of itself in each folder it saves: `training_record.json` and the card made from it."""

import importlib.metadata
import logging
import math
import platform
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate.optimizer import AcceleratedOptimizer
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import has_length
from transformers.utils.quantization_config import QuantizationMethod

from hub_cards.cards import find_base_models, make_card
from hub_cards.facts import CardFacts
from hub_cards.training_record import (
    TRAINING_RECORD,
    TrainedPart,
    TrainingRecord,
    file_name,
    find_record,
    hub_id,
    read_training_records,
    write_training_records,
)
from modeling_langbridge.utils.files import atomic_file

from ..data.packing import PackedDataset
from ..parts import PartArguments, part_of


logger = logging.getLogger(__name__)

LIBRARIES = ["torch", "transformers", "accelerate", "datasets", "trl", "peft"]


class TrainingClock(TrainerCallback, ExportableState):
    """Seconds spent in training, those before an interruption among them: checkpoints keep them in their state."""

    def __init__(self):
        self.seconds: float | None = 0.0
        self.began: float | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        name = type(self).__name__
        # Checkpoints from before this was measured have no entry, which a save would read.
        stored = state.stateful_callbacks.setdefault(name, {"args": {}, "attributes": {"seconds": None}})
        self.seconds, self.began = stored["attributes"]["seconds"], time.monotonic()

    def on_train_end(self, args, state, control, **kwargs):
        self.seconds, self.began = self.read(), None

    def read(self) -> float | None:
        """The seconds until now; `None` where an earlier part of the run was not measured."""
        if self.seconds is None or self.began is None:
            return self.seconds
        return self.seconds + time.monotonic() - self.began

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"seconds": self.read()}}


class TrainingRecorder:
    """
    Writes record and card into the folders that a trainer saves.

    Args:
        trainer (`Trainer`): the trainer, which gets a [`TrainingClock`].
        model (`PreTrainedModel`): the LangBridge. The runs that its own folder records come first.
        dataset, eval_dataset (`str`, *optional*):
            What the data were loaded from. A Hub id is recorded as it is, of a path the last part.
    """

    def __init__(
        self,
        trainer: Trainer,
        model: PreTrainedModel,
        dataset: str | None,
        eval_dataset: str | None,
    ):
        self.trainer, self.dataset, self.eval_dataset = trainer, dataset, eval_dataset
        self.started_from = hub_id(model.name_or_path)
        self.quantization = name_quantization(model)
        self.language_models: list[str] = []
        self.earlier: list[TrainingRecord] = []
        if self.started_from is None:  # of a Hub id, which names no revision, the record may tell of other weights
            self.go_on_from(model.name_or_path)
        trainer.add_callback(TrainingClock())

    def name_language_models(self, models: Iterable[PreTrainedModel]) -> None:
        """Says which language models take turns, by the LangBridges that have them."""
        configs = [model.config.text_config for model in models]
        self.language_models = [
            hub_id(config._name_or_path) or f"one of type {config.model_type}" for config in configs
        ]

    def go_on_from(self, name: str) -> None:
        """Puts the runs first that made a model or an adapter, by folder or Hub id, from which this run goes on."""
        try:
            path = find_record(name)
            self.earlier = [] if path is None else read_training_records(path)
        except ValueError as error:
            logger.warning("Earlier runs are left out of the record: %s", error)

    def write(self, folder: Path, parts: dict[str, TrainedPart], objectives: dict[str, float]) -> None:
        """Puts the record and the card into a saved folder, whole; to be called by process zero alone."""
        records = list(self.earlier)
        if self.trainer.state.global_step:
            records.append(self.make_record(parts, objectives))
        if records:
            with atomic_file(folder / TRAINING_RECORD) as unfinished:
                write_training_records(unfinished, records)
        try:
            # Parts from folders have no Hub ids to name; whoever pushes is asked for them.
            card = make_card(folder, CardFacts(base_models=find_base_models(folder)))
        except ValueError as error:
            logger.warning("No card was written: %s", error)
            return
        with atomic_file(folder / "README.md") as unfinished:
            card.save(unfinished)

    def make_record(self, parts: dict[str, TrainedPart], objectives: dict[str, float]) -> TrainingRecord:
        trainer, args, state = self.trainer, self.trainer.args, self.trainer.state
        # Looked up, not kept: a trainer may put another in its place on resuming.
        clock = next(
            callback for callback in trainer.callback_handler.callbacks if isinstance(callback, TrainingClock)
        )
        optimizer = trainer.optimizer
        if isinstance(optimizer, AcceleratedOptimizer):
            optimizer = optimizer.optimizer
        batch_size = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        sized = has_length(trainer.train_dataset)
        samples = count_samples(
            state.global_step,
            batch_size,
            len(trainer.train_dataset) if sized and not args.dataloader_drop_last else None,
        )
        if isinstance(trainer.train_dataset, PackedDataset):  # means, exact for whole epochs
            samples, batch_size = (round(bins * trainer.train_dataset.samples_a_bin) for bins in (samples, batch_size))
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        eval_losses = [entry["eval_loss"] for entry in state.log_history if "eval_loss" in entry]
        return TrainingRecord(
            stage=name_stage(parts),
            parts=parts,
            objectives={name: float(weight) for name, weight in objectives.items()},
            language_models=self.language_models,
            started_from=self.started_from,
            datasets=present(hub_id(self.dataset)),
            local_data=present(file_name(self.dataset)),
            eval_datasets=present(hub_id(self.eval_dataset)),
            local_eval_data=present(file_name(self.eval_dataset)),
            steps=state.global_step,
            samples=samples,
            batch_size=batch_size,
            epochs=float(state.epoch) if sized else None,
            optimizer=type(optimizer).__name__,
            schedule=args.lr_scheduler_type.value,
            precision="bfloat16" if args.bf16 else "float16" if args.fp16 else "float32",
            quantization=self.quantization,
            seed=args.seed,
            first_loss=finite(losses[:1]),
            last_loss=finite(losses[-1:]),
            eval_loss=finite(eval_losses[-1:]),
            hardware=name_device(args.device),
            processes=args.world_size,
            seconds=clock.read(),
            date=datetime.now(UTC).date().isoformat(),
            versions={name: importlib.metadata.version(name) for name in LIBRARIES},
        )


def name_stage(parts: dict[str, TrainedPart]) -> Literal["pretraining", "finetuning", "grounding"]:
    """The stage of a run in which these parts are trained, or are frozen."""
    if "language_model" not in parts:
        return "grounding"
    frozen = all(parts[name].mode == "frozen" for name in ("vision_tower", "language_model"))
    return "pretraining" if frozen else "finetuning"


def count_samples(steps: int, batch_size: int, dataset_size: int | None) -> int:
    """The samples of so many steps, given the dataset's size where an epoch's last batch is filled up by no others."""
    if dataset_size is None:
        return steps * batch_size
    epochs, rest = divmod(steps, math.ceil(dataset_size / batch_size))
    return epochs * dataset_size + rest * batch_size


def describe_trained(
    model: PreTrainedModel, args: PartArguments, learning_rates: dict[str, float]
) -> dict[str, TrainedPart]:
    """What each part that a LangBridge has does in a finetuning run, by its name."""
    names, modes = {part_of(name) for name, _ in model.named_parameters()}, args.modes()
    parts = {
        name: TrainedPart(
            mode=mode,
            learning_rate=float(learning_rates[name]) if name in learning_rates else None,
            lora_rank=args.lora_r if mode == "lora" else None,
        )
        for name, mode in modes.items()
        if name in names
    }
    return name_origins(parts, model)


def name_origins(parts: dict[str, TrainedPart], model: PreTrainedModel) -> dict[str, TrainedPart]:
    """Adds the Hub ids that a LangBridge's configuration keeps of its two foreign parts."""
    configs = {"vision_tower": model.config.vision_config, "language_model": model.config.text_config}
    return {
        name: replace(part, hub_id=hub_id(configs[name]._name_or_path)) if name in configs else part
        for name, part in parts.items()
    }


def name_quantization(model: PreTrainedModel) -> str | None:
    config = model.config.to_dict().get("quantization_config")
    if config is None:
        return None
    return QuantizationMethod(config["quant_method"]).value + (", 4 bits" if config.get("load_in_4bit") else "")


def name_device(device: torch.device) -> str:
    """The GPU's name, or the processor's."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):  # not Linux, or not x86
        return platform.machine()


def present(name: str | None) -> list[str]:
    return [] if name is None else [name]


def finite(losses: Iterable[float]) -> float | None:
    """The one loss there is; JSON knows no infinity."""
    return next((float(loss) for loss in losses if math.isfinite(float(loss))), None)
