# SPDX-License-Identifier: Apache-2.0
"""The adapter learns the words of sentences in their order, by CTC; no language model is loaded."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import EvalPrediction, Trainer, TrainingArguments, set_seed

from experiments.ears.adapter import compose
from experiments.ears.ctc import IGNORED, ctc_loss, decode, log_probabilities
from experiments.ears.heard import cut_windows, read_heard
from experiments.ears.sentences import read_utterances
from experiments.ears.word_errors import word_error_rate
from experiments.ears.words import SharedWords
from experiments.ears.world import EarsWorld
from modeling_langbridge import LangBridgeAdapter, LangBridgeForConditionalGeneration


class HeardSentences(torch.utils.data.Dataset):
    """What was heard of each utterance of some splits as time steps, and the shared words that were said."""

    def __init__(self, world: EarsWorld, *splits: str):
        words = SharedWords(world.vocabulary)
        self.frames = [frames for split in splits for frames in read_heard(world, split)]
        utterances = [utterance for split in splits for utterance in read_utterances(world, split)]
        self.labels = [words.find(utterance.sentence) for utterance in utterances]
        self.cut = world.sizes.window, world.sizes.stride

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, place: int) -> dict[str, Any]:
        steps = cut_windows(self.frames[place].float(), *self.cut)  # (steps, window d)
        return {"features": steps, "labels": torch.tensor(self.labels[place])}


def collate(rows: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    features = [row["features"] for row in rows]
    return {
        "features": pad_sequence(features, batch_first=True),  # (rows, steps, window d)
        "steps": torch.tensor([len(steps) for steps in features]),
        "labels": pad_sequence([row["labels"] for row in rows], batch_first=True, padding_value=IGNORED),
    }


class Ear(nn.Module):
    """The adapter of a LangBridge, which learns by CTC; everything else of it is frozen and never used."""

    def __init__(self, langbridge: LangBridgeForConditionalGeneration, feature_dropout: float):
        super().__init__()
        self.dropout = nn.Dropout(feature_dropout)
        langbridge.requires_grad_(False)
        self.projector = langbridge.model.multi_modal_projector.requires_grad_(True)
        self.head = langbridge.model.vocabulary_head.requires_grad_(True)

    def forward(self, features: torch.Tensor, steps: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            features (`torch.Tensor` of shape `(rows, steps, window d)`): Time steps, padded behind.
            steps (`torch.Tensor` of shape `(rows,)`): How many are real.
            labels (`torch.Tensor` of shape `(rows, words)`): See [`ctc_loss`].

        Returns:
            `dict` with `loss`, and `best`, the likeliest label of each time step `(rows, steps)`; padding is blank.
        """
        log_probs = log_probabilities(self.head, self.projector(self.dropout(features)))  # (rows, steps, V + 1)
        blank = log_probs.shape[-1] - 1
        real = torch.arange(features.shape[1]) < steps[:, None]
        best = log_probs.argmax(-1).masked_fill(~real, blank)
        return {"loss": ctc_loss(log_probs, steps, labels), "best": best}


def train(world: EarsWorld, folder: Path) -> None:
    """Trains the adapter, and saves it alone."""
    sizes, vocabulary = world.sizes, world.vocabulary
    dataset = HeardSentences(world, "train", "rare_words")
    set_seed(0)
    langbridge, processor = compose(len(dataset[0]["features"][0]), vocabulary, sizes.projector_hidden_size)
    blank = len(vocabulary)

    def measure(prediction: EvalPrediction) -> dict[str, float]:
        best = np.where(prediction.predictions == IGNORED, blank, prediction.predictions)  # Trainer's padding
        heard = [[word.word for word in decode(row, blank)] for row in best.tolist()]
        said = [[word for word in labels if word != IGNORED] for labels in prediction.label_ids.tolist()]
        return {"word_error_rate": word_error_rate(heard, said).value()}

    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=sizes.steps,
        per_device_train_batch_size=sizes.batch_size,
        per_device_eval_batch_size=sizes.batch_size,
        learning_rate=sizes.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        max_grad_norm=1.0,
        bf16=world.bf16,
        dataloader_pin_memory=False,
        eval_strategy="steps",
        eval_steps=max(1, sizes.steps // 10),
        logging_steps=max(1, sizes.steps // 30),
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        remove_unused_columns=False,
        label_names=["labels"],
        seed=0,
    )
    trainer = Trainer(
        Ear(langbridge, sizes.feature_dropout),
        arguments,
        data_collator=collate,
        train_dataset=dataset,
        eval_dataset=HeardSentences(world, "dev"),
        compute_metrics=measure,
    )
    trainer.train()
    (folder / "log.json").write_text(json.dumps(trainer.state.log_history, indent=1) + "\n", encoding="utf-8")
    LangBridgeAdapter.from_model(langbridge, processor.tokenizer).save_pretrained(folder / "adapter")
