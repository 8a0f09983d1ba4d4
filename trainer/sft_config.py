# SPDX-License-Identifier: Apache-2.0
"""The options of a finetuning run: TRL's, what each part of the model does, and the further objectives."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

from trl import SFTConfig

from .device import fit_options_to_machine
from .features.caching import FeatureCacheArguments
from .objectives.assignment_prediction import AssignmentPredictionArguments
from .objectives.word_prediction import WordPredictionArguments
from .option_values import AT_LEAST_0, AT_LEAST_1, TrainingOptions, check_values
from .packing.arguments import PackingArguments
from .parts import PartArguments
from .publishing.publishing import check_publishing


@dataclass
class LangBridgeSFTConfig(
    FeatureCacheArguments,
    AssignmentPredictionArguments,
    WordPredictionArguments,
    PackingArguments,
    PartArguments,
    TrainingOptions,
    SFTConfig,
):
    """
    TRL's [`~trl.SFTConfig`], what each part of the model does, and the defaults that image-text samples need.

    On a machine without a GPU it uses the CPU, in bfloat16 where the CPU has it, unless `bf16` says otherwise.

    Raises:
        `ValueError`: names an option whose value is not of its type or its range, or options that do not go together.
    """

    _argument_group_name = "training"

    max_length: Annotated[int | None, AT_LEAST_1] = field(
        default=None,
        metadata={
            "help": "Most tokens of a sample, its images' counted; default: the language model's context, beyond "
            "which a sample is an error. Samples are never cut: see --too_long. With --packing, those of a bin."
        },
    )
    too_long: Literal["error", "drop"] = field(
        default="error",
        metadata={"help": "What to do with samples longer than --max_length: an error that names one, or drop them."},
    )
    plain_captions: bool = field(
        default=False,
        metadata={"help": "Leave the question out: image, caption, end of text (LLaVA's plain pretraining)."},
    )
    word_prediction_weight: Annotated[float, AT_LEAST_0] = field(
        default=0.0,
        metadata={"help": "Weight of word prediction (see scripts/ground.py) beside the caption loss."},
    )
    report_to: None | str | list[str] = field(
        default="tensorboard", metadata={"help": "Where metrics go: tensorboard, wandb, trackio …, all or none."}
    )

    def __post_init__(self):
        check_values(self)
        self.check_parts()
        self.check_packing()
        fit_options_to_machine(self)
        super().__post_init__()
        check_publishing(self)
        if self.feature_cache is not None and self.train_vision_tower != "frozen":
            raise ValueError(
                f"`feature_cache` needs a vision tower that stays as it is, but `train_vision_tower` is "
                f"{self.train_vision_tower}: leave one of them out."
            )
        if self.push_to_hub and "lora" in self.modes().values():
            raise ValueError("`push_to_hub` publishes whole models: merge the LoRA, then use scripts/push_to_hub.py.")
