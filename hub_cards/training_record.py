# SPDX-License-Identifier: Apache-2.0
"""How a model was trained: what `training_record.json` beside its weights says, for its card and for whoever asks.

A record holds the fields below and nothing else: no arguments are dumped into it, so no path, host, user or token can
get there.
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
    HFValidationError,
    LocalEntryNotFoundError,
    StrictDataclassError,
)
from huggingface_hub.utils import validate_repo_id

from modeling_langbridge.utils.files import read_json


TRAINING_RECORD = "training_record.json"


@strict
@dataclass(kw_only=True)
class TrainedPart:
    """
    What one part of a model did in a run.

    Args:
        mode (`str`): `"frozen"`, trained in `"full"`, or by `"lora"`.
        learning_rate (`float`, *optional*): the highest it had; `None` for a frozen part.
        lora_rank (`int`, *optional*): of a part trained by LoRA.
        hub_id (`str`, *optional*): the model on the Hub that the part was taken from.
    """

    mode: Literal["frozen", "full", "lora"]
    learning_rate: float | None = None
    lora_rank: int | None = None
    hub_id: str | None = None


@strict
@dataclass(kw_only=True)
class TrainingRecord:
    """
    One training run, as far as it had got when it was saved.

    Args:
        stage (`str`): `"finetuning"` on answers and captions, or `"grounding"` in words without a language model.
        parts (`dict[str, TrainedPart]`): what each part of the model did, by its name.
        objectives (`dict[str, float]`): weights of what was learnt beside the stage's own objective.
        started_from (`str`, *optional*): the whole LangBridge on the Hub that the run went on from.
        datasets, eval_datasets (`list[str]`): Hub ids of what it learnt from, and was evaluated on.
        local_data, local_eval_data (`list[str]`): names, without their folders, of data that lay on the machine.
        steps (`int`): optimizer steps.
        samples (`int`): samples seen, repeated ones counted again; to within one step's.
        batch_size (`int`): samples of a step, over all processes and accumulated batches.
        epochs (`float`, *optional*): passes through the data; `None` where its length is not known.
        optimizer, schedule (`str`): the optimizer's class and the learning rate's schedule.
        precision (`str`): what was computed in: `"bfloat16"`, `"float16"` (both mixed) or `"float32"`.
        quantization (`str`, *optional*): how the frozen weights were quantised.
        seed (`int`): of the run.
        first_loss, last_loss (`float`, *optional*): the first and the last training loss that was logged.
        eval_loss (`float`, *optional*): the last evaluation's.
        hardware (`str`): name of the GPU or of the processor; of process zero.
        processes (`int`): how many there were, one a GPU where there are GPUs.
        seconds (`float`, *optional*): time trained, evaluation and saving included, those of resumed runs added up;
            `None` where an earlier part was not measured.
        date (`str`): of the save, UTC, `2026-11-25`.
        versions (`dict[str, str]`): of the libraries.
    """

    stage: Literal["finetuning", "grounding"]
    parts: dict[str, TrainedPart]
    objectives: dict[str, float] = field(default_factory=dict)
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
    The runs that made a model, in their order.

    Args:
        path (`str` or `Path`): the file `training_record.json`.

    Raises:
        `FileNotFoundError`: there is no such file.
        `ValueError`: it is no training record.
    """
    path = Path(path)
    try:
        return [_record(**entry) for entry in read_json(path)]
    except (ValueError, TypeError, KeyError, AttributeError, StrictDataclassError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"{path} is no training record ({reason}): remove it, or take that of the model anew."
        ) from None


def write_training_records(path: str | Path, records: list[TrainingRecord]) -> None:
    """Writes the runs that made a model, in their order, to the file `training_record.json`."""
    text = json.dumps([asdict(record) for record in records], indent=2, ensure_ascii=False, allow_nan=False)
    Path(path).write_text(text + "\n", encoding="utf-8", newline="\n")


def find_record(name: str) -> Path | None:
    """Where the record of a model lies, given by its folder or Hub id; `None` where it has none to be had."""
    if hub_id(name) is None:
        path = Path(name, TRAINING_RECORD)
        return path if name and path.is_file() else None
    try:
        return Path(hf_hub_download(name, TRAINING_RECORD))
    except (HfHubHTTPError, LocalEntryNotFoundError):  # there is none, or no connection to ask
        return None


def carry_record(name: str, folder: Path) -> None:
    """Copies the record of the model, given by its folder or Hub id, that the one in `folder` was made from."""
    if path := find_record(name):
        shutil.copyfile(path, folder / TRAINING_RECORD)


def hub_id(name: str | None) -> str | None:
    """The Hub id that a name is; `None` where it names something on this machine, or nothing."""
    if not name or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def file_name(name: str | None) -> str | None:
    """What may be told of data on this machine, the last part of its path; `None` for the Hub's, and for nothing."""
    return Path(name).name if name and hub_id(name) is None else None


def _record(parts: dict[str, Any], **fields: Any) -> TrainingRecord:
    return TrainingRecord(parts={name: TrainedPart(**part) for name, part in parts.items()}, **fields)
