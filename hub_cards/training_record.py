# SPDX-License-Identifier: Apache-2.0
"""How a model was trained: the file `training_record.json` beside its weights, from which its card is written.

A record holds the fields below and nothing else. No arguments are dumped into it, so it cannot leak a path, host, user
or token.
"""

import json
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from huggingface_hub import hf_hub_download
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    StrictDataclassError,
)

from modeling_langbridge.utils.files import is_hub_id, read_json


TRAINING_RECORD = "training_record.json"


@strict
@dataclass(kw_only=True)
class TrainedPart:
    """
    How one part of a model was trained in a run.

    Args:
        mode (`str`): `"frozen"`, trained in `"full"`, or by `"lora"`.
        learning_rate (`float`, *optional*): The peak learning rate; `None` for a frozen part.
        lora_rank (`int`, *optional*): The rank, for a part trained by LoRA.
        hub_id (`str`, *optional*): The model on the Hub that the part comes from.
    """

    mode: Literal["frozen", "full", "lora"]
    learning_rate: float | None = None
    lora_rank: int | None = None
    hub_id: str | None = None


@strict
@dataclass(kw_only=True)
class TrainingRecord:
    """
    One training run, as of the save.

    Args:
        stage (`str`):
            `"pretraining"` of the adapter alone on answers and captions, `"finetuning"` where the language model or
            the vision tower is trained too, or `"grounding"` in words without a language model.
        parts (`dict[str, TrainedPart]`): How each part of the model was trained, by its name.
        objectives (`dict[str, float]`): Weights of the objectives beside the stage's own.
        language_models (`list[str]`): Where several took turns, all by Hub id, or "one of type qwen2".
        started_from (`str`, *optional*): The whole LangBridge on the Hub that the run started from.
        datasets, eval_datasets (`list[str]`): Hub ids of the training and evaluation data.
        local_data, local_eval_data (`list[str]`): File names, without folders, of local data.
        steps (`int`): Optimizer steps.
        samples (`int`): Samples seen, repeats included.
        batch_size (`int`):
            Samples per step, over all processes and accumulated batches; an epoch's last step may have fewer. The mean
            where they were packed.
        epochs (`float`, *optional*): Passes through the data; `None` where its length is unknown.
        optimizer, schedule (`str`): The optimizer's class and the learning rate schedule.
        precision (`str`): Compute precision: `"bfloat16"`, `"float16"` (both mixed) or `"float32"`.
        quantization (`str`, *optional*): How the frozen weights were quantised.
        seed (`int`): The random seed.
        first_loss, last_loss (`float`, *optional*): The first and the last logged training loss.
        eval_loss (`float`, *optional*): The loss of the last evaluation.
        hardware (`str`): Name of the GPU or CPU of process 0.
        processes (`int`): Number of processes, one per GPU where there are GPUs.
        seconds (`float`, *optional*): Training time in seconds, with evaluation and saving, summed over resumed runs;
            `None` where an earlier part was not measured.
        date (`str`): Date of the save, UTC, such as `2026-11-25`.
        versions (`dict[str, str]`): Versions of the libraries, by name.
    """

    stage: Literal["pretraining", "finetuning", "grounding"]
    parts: dict[str, TrainedPart]
    objectives: dict[str, float] = field(default_factory=dict)
    language_models: list[str] = field(default_factory=list)
    started_from: str | None = None
    datasets: list[str] = field(default_factory=list)
    local_data: list[str] = field(default_factory=list)
    eval_datasets: list[str] = field(default_factory=list)
    local_eval_data: list[str] = field(default_factory=list)
    steps: int
    samples: int
    batch_size: int
    epochs: float | None = None
    optimizer: str
    schedule: str
    precision: Literal["bfloat16", "float16", "float32"]
    quantization: str | None = None
    seed: int
    first_loss: float | None = None
    last_loss: float | None = None
    eval_loss: float | None = None
    hardware: str
    processes: int
    seconds: float | None = None
    date: str
    versions: dict[str, str]


def read_training_records(path: str | Path) -> list[TrainingRecord]:
    """
    Reads the runs that trained a model, oldest first.

    Args:
        path (`str` or `Path`): The file `training_record.json`.

    Raises:
        `FileNotFoundError`: there is no such file.
        `ValueError`: the file is not a training record.
    """
    path = Path(path)
    try:
        return [_record(**entry) for entry in read_json(path)]
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} is not a training record ({reason}): remove it, or copy the model's own again."
        ) from None


def write_training_records(path: str | Path, records: list[TrainingRecord]) -> None:
    """Writes the runs that trained a model, oldest first, to the file `training_record.json`."""
    text = json.dumps([asdict(record) for record in records], indent=2, ensure_ascii=False, allow_nan=False)
    Path(path).write_text(text + "\n", encoding="utf-8", newline="\n")


def find_record(name: str) -> Path | None:
    """The path of a model's record, given the model's folder or Hub id; `None` where no record is available."""
    if hub_id(name) is None:
        path = Path(name, TRAINING_RECORD)
        return path if name and path.is_file() else None
    try:
        return Path(hf_hub_download(name, TRAINING_RECORD))
    except (HfHubHTTPError, LocalEntryNotFoundError):  # there is no record, or no connection
        return None


def carry_record(name: str, folder: Path) -> None:
    """Copies the record of a model, given by its folder or Hub id, into the folder of one that is made from it."""
    if path := find_record(name):
        shutil.copyfile(path, folder / TRAINING_RECORD)


def hub_id(name: str | None) -> str | None:
    """The name where it is a Hub id; `None` where it is a local path, or empty."""
    if not name or Path(name).exists():
        return None
    return name if is_hub_id(name) else None


def file_name(name: str | None) -> str | None:
    """The file name of local data, without its folder; `None` for a Hub id, and for an empty name."""
    return Path(name).name if name and hub_id(name) is None else None


def _record(parts: dict[str, Any], **fields: Any) -> TrainingRecord:
    return TrainingRecord(parts={name: TrainedPart(**part) for name, part in parts.items()}, **fields)
