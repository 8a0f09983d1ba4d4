# SPDX-License-Identifier: Apache-2.0
"""The options of a finetuning run's data."""

from dataclasses import dataclass, field
from typing import Annotated

from .data.image_arguments import ImageArguments
from .option_values import AT_LEAST_1, check_values


@dataclass
class DataArguments(ImageArguments):
    """What it is trained on, and what is watched meanwhile."""

    _argument_group_name = "data"

    dataset: str = field(
        default="",
        metadata={
            "help": "A .json or .jsonl, a folder of Dataset.save_to_disk, parquet files or webdataset shards "
            "('shards/*.tar'), or a dataset's Hub id."
        },
    )
    eval_dataset: str | None = field(
        default=None, metadata={"help": "Likewise, what the loss is measured on every --eval_steps."}
    )
    dataset_split: str = field(default="train", metadata={"help": "The split of a dataset with several."})
    streaming: bool = field(
        default=False,
        metadata={"help": "Read samples as they are needed, for sets larger than memory or disk; needs --max_steps."},
    )
    preview_photos: list[str] = field(
        default_factory=list,
        metadata={"help": "Photos to caption during training, with the words nearest to their visual tokens."},
    )
    preview_steps: Annotated[int, AT_LEAST_1] = field(
        default=100, metadata={"help": "How often the photos are captioned."}
    )

    def __post_init__(self):
        check_values(self)
