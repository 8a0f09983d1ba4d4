# Copyright 2026 The LangBridge team. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""TRL's SFTTrainer for the pretraining stage: the adapter learns, tower and language model stay as they are."""

from dataclasses import dataclass, field

from transformers import PreTrainedModel
from transformers.utils import logging
from trl import SFTConfig, SFTTrainer


logger = logging.get_logger(__name__)


@dataclass
class LangBridgeSFTConfig(SFTConfig):
    """TRL's [`~trl.SFTConfig`] with the defaults that image-text samples need."""

    max_length: int | None = field(
        default=None,
        metadata={"help": "Must stay unset: a cut through an image's tokens fails, one behind them loses the answer."},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.max_length is not None:
            raise ValueError(f"`max_length` is {self.max_length}, but must be unset: it would cut images and answers.")


class LangBridgeSFTTrainer(SFTTrainer):
    """
    [`~trl.SFTTrainer`] that trains the adapter of a LangBridge alone (the pretraining stage, paper section 4).

    Samples have the columns `images`, `prompt` and `completion` (see `trainer.load_training_data`), so that answers
    alone are targets. Checkpoints are complete folders: model, code files, processor, chat template.
    """

    def __init__(self, model: PreTrainedModel, *args, **kwargs):
        freeze_all_but_adapter(model)
        super().__init__(model, *args, **kwargs)


def freeze_all_but_adapter(model: PreTrainedModel) -> None:
    """Lets gradients reach the projector and the vocabulary head only, and says in words what is trained."""
    model.requires_grad_(False)
    trained = [model.model.multi_modal_projector, model.model.vocabulary_head]
    for part in trained:
        part.requires_grad_(True)
    counts = [sum(parameter.numel() for parameter in part.parameters()) for part in (*trained, model)]
    logger.info(
        "Training the projector (%s parameters) and the vocabulary head (%s), %.1f %% of the model's %s; the vision "
        "tower and the language model stay as they are.",
        f"{counts[0]:,}",
        f"{counts[1]:,}",
        100 * (counts[0] + counts[1]) / counts[2],
        f"{counts[2]:,}",
    )
