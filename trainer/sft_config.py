# SPDX-License-Identifier: Apache-2.0
"""The options of a finetuning run: TRL's, what each part of the model does, and the further objectives."""

from dataclasses import dataclass, field
from typing import Literal

from trl import SFTConfig

from .objectives.assignment_prediction import AssignmentPredictionArguments
from .objectives.word_prediction import WordPredictionArguments
from .parts import PartArguments
from .publishing.publishing import check_publishing


@dataclass
class LangBridgeSFTConfig(AssignmentPredictionArguments, WordPredictionArguments, PartArguments, SFTConfig):
    """TRL's [`~trl.SFTConfig`], what each part of the model does, and the defaults that image-text samples need."""

    max_length: int | None = field(
        default=None,
        metadata={"help": "Most tokens of a sample, its images' counted. Samples are never cut: see --too_long."},
    )
    too_long: Literal["error", "drop"] = field(
        default="error",
        metadata={"help": "What to do with samples longer than --max_length: an error that names one, or drop them."},
    )
    plain_captions: bool = field(
        default=False,
        metadata={"help": "Leave the question out: image, caption, end of text (LLaVA's plain pretraining)."},
    )
    word_prediction_weight: float = field(
        default=0.0,
        metadata={"help": "Weight of word prediction (see scripts/ground.py) beside the caption loss."},
    )
    report_to: None | str | list[str] = field(
        default="tensorboard", metadata={"help": "Where metrics go: tensorboard, wandb, trackio …, all or none."}
    )

    def __post_init__(self):
        self.check_parts()
        super().__post_init__()
        check_publishing(self)
        if self.push_to_hub and "lora" in self.modes().values():
            raise ValueError("`push_to_hub` publishes whole models: merge the LoRA, then use scripts/push_to_hub.py.")
