# SPDX-License-Identifier: Apache-2.0
"""Raw coefficients learn to make the language model say what it says after words, from images alone.

Raw coefficients that give the visual tokens of words ([`~trainer.distillation.distil`]) hand over mixtures of words,
which language models read worse than words. So the language model captions images by their strongest words, and the
coefficients learn through it: at each token of these captions, what it says after the words is the target. The
language model is frozen, and its own teacher. Nobody's captions are needed.

Source: Hinton et al., "Distilling the Knowledge in a Neural Network", arXiv 1503.02531, for the loss; Kim & Rush,
"Sequence-Level Knowledge Distillation", arXiv 1606.07947, for sequences of the teacher's own.
"""

from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset, Features, Image, Value
from torch import nn
from torch.nn import functional as F

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor

from .answered_positions import AnsweredPositions
from .data.conversations import ConversationEncoder
from .evaluation.captioning import ask
from .muon import build_muon
from .several.collator import SeveralCollator
from .sft_config import LangBridgeSFTConfig
from .sft_trainer import LangBridgeSFTTrainer


Parts = tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]


class CaptionDistillationTrainer(LangBridgeSFTTrainer):
    """
    [`LangBridgeSFTTrainer`] whose loss is the Kullback-Leibler divergence of what the model says from what a teacher
    says, a mean over the tokens of the answers, in nats.

    Args:
        args, kwargs: As for [`LangBridgeSFTTrainer`].
        teacher (`tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]`):
            It reads the same conversations and images in the same tokens of text, but an image may be other visual
            tokens to it. It is not trained.
    """

    def __init__(self, *args: Any, teacher: Parts, **kwargs: Any):
        super().__init__(*args, **kwargs)
        model, processor = teacher
        its_encoder = ConversationEncoder(processor)
        self.data_collator = SeveralCollator(self.data_collator.encoder, others=[(its_encoder, None)])
        self.teacher = self.accelerator.prepare_model(model, evaluation_mode=True).eval()
        self.answered_by_teacher = AnsweredPositions(model.model)

    def compute_loss(self, model: nn.Module, inputs: dict[str, Any], **kwargs: Any) -> torch.Tensor:
        own, shown_to_teacher = ({**shown, "pixel_values": inputs["pixel_values"]} for shown in inputs["turns"])
        self.throughput.count(own)
        self.step_samples += inputs["sample_ids"]
        with torch.no_grad():
            target = log_probabilities(self.teacher, self.answered_by_teacher, shown_to_teacher)
        found = log_probabilities(model, self.answered_positions, own)
        loss = F.kl_div(found, target, reduction="batchmean", log_target=True)
        self._stop_unless_finite("loss", loss, inputs["sample_ids"])
        return loss


def log_probabilities(model: nn.Module, answered: AnsweredPositions, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """What a model says where its answers' tokens come next, `(targets, vocabulary)`."""
    answered.narrow(inputs)
    del inputs["shift_labels"]
    return model(**inputs, use_cache=False).logits[0].float().log_softmax(-1)


def distil_captions(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    teacher: Parts,
    images: Sequence[Any],
    arguments: LangBridgeSFTConfig,
    question: str = "",
) -> float:
    """
    Trains a model's adapter, in place, on what a teacher with the same language model says of images.

    Args:
        model (`LangBridgeForConditionalGeneration`), processor (`LangBridgeProcessor`):
            With raw coefficients, of [`~trainer.distillation.distil`] say.
        teacher (`tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor]`):
            With the same language model, to which an image is its strongest words.
        images (`Sequence`):
            What [`~trainer.data.images.open_image`] opens.
        arguments ([`LangBridgeSFTConfig`]):
            How long and how fast the adapter learns; its matrices do by Muon.
        question (`str`, *optional*, defaults to `""`):
            What is asked about each image, by the chat template.

    Returns:
        `float`: the loss that was logged last, in nats per token: 0 where both say the same.

    Raises:
        `ValueError`: the teacher says nothing of any image.
    """
    # What they share, the trainer would move alone.
    for one in (model, teacher[0]):
        one.to(arguments.device)
    said = ask(*teacher, images, question)
    rows = {"image": images, "question": [question] * len(said), "answer": said}
    features = Features({"image": Image(), "question": Value("string"), "answer": Value("string")})
    answered = [position for position, answer in enumerate(said) if answer]
    if not answered:
        raise ValueError("The language model says nothing of any image: ask another question.")
    dataset, dtype = Dataset.from_dict(rows, features).select(answered), model.dtype
    trainer = CaptionDistillationTrainer(model, arguments, processor, dataset, teacher=teacher)
    trainer.optimizer = build_muon(model, arguments.learning_rate)
    mean = trainer.train().training_loss
    for part in (model.model.multi_modal_projector, model.model.vocabulary_head):
        part.to(dtype)
    model.eval()
    return next((entry["loss"] for entry in reversed(trainer.state.log_history) if "loss" in entry), mean)
