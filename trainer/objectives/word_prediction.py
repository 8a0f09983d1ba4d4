# SPDX-License-Identifier: Apache-2.0
"""Word prediction: an image's coefficients, pooled over its patches, predict the words of its caption.

The objective that grounds an adapter. It needs no language model: the coefficients run over words, and the words of a
caption are known.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any

import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from modeling_langbridge import LangBridgeModel, SharedVocabulary
from modeling_langbridge.modeling_langbridge import LangBridgeMultiModalProjector

from ..data.caption_words import CaptionWords, caption_of
from ..data.samples import read_sample
from ..option_values import AT_LEAST_0
from .objective import Objective


@dataclass
class WordPredictionArguments:
    """What the objective weighs, the same in the grounding stage and beside the caption loss."""

    frequency_power: Annotated[float, AT_LEAST_0] = field(
        default=0.0,
        metadata={"help": "In word prediction, how much less frequent words count: 0 all the same, 1 by inverse use."},
    )


def word_weights(counts: torch.Tensor, power: float = 0.0) -> torch.Tensor:
    """
    Weights that let frequent words count less: the inverse of how many captions use a word, to a power.

    Args:
        counts (`torch.Tensor` of shape `(V,)`): what [`CaptionWords.count`] gives.
        power (`float`, *optional*, defaults to 0.0): 0 lets every word count the same, 1 every use of any word.

    Returns:
        `torch.Tensor` of shape `(V,)`, 0 for words that are never used.
    """
    return torch.where(counts > 0, counts.clamp(min=1) ** -power, 0)


def weigh_words(words: CaptionWords, dataset: Dataset, power: float) -> torch.Tensor:
    """
    The weights `(V,)` of the words, by how many of a dataset's captions use them.

    Raises:
        `ValueError`: no caption uses any.
    """
    rows = logging.tqdm(dataset, desc="counting words", unit=" captions", delay=2)
    counts = words.count(caption_of(read_sample(row)) for row in rows)
    if not counts.any():
        raise ValueError("No caption has a word of the vocabulary: was it made for another language?")
    return word_weights(counts, power)


def word_targets(found: list[list[int]], weights: torch.Tensor) -> torch.Tensor:
    """
    The targets of an image's pooled coefficients: its caption's words by their weights.

    Args:
        found (`list[list[int]]`):
            For each image, its caption's words as [`CaptionWords.find`] gives them, or those of several captions.
        weights (`torch.Tensor` of shape `(V,)`): from [`word_weights`].

    Returns:
        `torch.Tensor` of shape `(images, V)`: each row sums to 1, or to 0 where the caption has no shared word.
    """
    targets = weights.new_zeros(len(found), len(weights))  # (images, V)
    for row, positions in zip(targets, found, strict=True):
        row.index_add_(0, torch.tensor(positions, dtype=torch.long), weights[positions])
    return targets / targets.sum(-1, keepdim=True).clamp(min=torch.finfo(targets.dtype).tiny)


def has_words(targets: torch.Tensor) -> torch.Tensor:
    """Which images `(images,)` have a caption with a shared word."""
    return targets.sum(-1) > 0


def word_prediction_loss(pooled: torch.Tensor, targets: torch.Tensor, num_images: int | None = None) -> torch.Tensor:
    """
    Cross-entropy between captions' words and pooled coefficients, in nats, mean over images whose caption has a word.

    Args:
        pooled (`torch.Tensor` of shape `(images, V)`): from the vocabulary head's `pool`.
        targets (`torch.Tensor` of shape `(images, V)`): from [`word_targets`].
        num_images (`int`, *optional*): how many images to take the mean over, where these are a part of a step's;
            those among them whose caption has a word when left out.

    Returns:
        `torch.Tensor` of shape `()`; 0 where no caption has a word.
    """
    num_images = int(has_words(targets).sum()) if num_images is None else num_images
    log_pooled = pooled.clamp(min=torch.finfo(pooled.dtype).tiny).log()
    return -(targets * log_pooled).sum() / max(num_images, 1)


class WordPredictionObjective(Objective):
    """
    Word prediction: an image's pooled coefficients predict the words of its caption.

    Hooks keep what the projector makes of the patches; the coefficients are pooled from it when the loss is computed.
    LangBridge-NeXT's are pooled over the patches of an image's overview and tiles, without padding and newlines.

    Args:
        weight (`float`): of word prediction beside the caption loss.
        frequency_power (`float`): how much less frequent words count.
        model (`PreTrainedModel`): a LangBridge with `coefficient_activation` softmax or gated_softmax.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer, which names its words.
        dataset (`Dataset`): the training rows, whose words are counted.

    Raises:
        `ValueError`: the adapter's coefficients are no distributions over words, or the rows are a stream.
    """

    name = "word_prediction"

    def __init__(
        self,
        weight: float,
        frequency_power: float,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset | IterableDataset,
    ):
        super().__init__(weight)
        model.config.require_words("`word_prediction_weight`")
        if model.config.coefficient_activation == "linear":
            raise ValueError("`word_prediction_weight` needs a softmax adapter: make one by scripts/ground.py.")
        if isinstance(dataset, IterableDataset):
            raise ValueError("`word_prediction_weight` counts the captions' words first: leave `streaming` out.")
        word_ids = model.model.get_word_ids()
        self.words = CaptionWords(SharedVocabulary.from_token_ids(tokenizer, word_ids))
        self.weights = weigh_words(self.words, dataset, frequency_power)
        self.projected: torch.Tensor | None = None
        self.images: list[torch.Tensor] = []

    def attach(self, model: nn.Module) -> None:
        """Hooks the model and every projector, PEFT's trained copy among them."""
        for module in model.modules():
            if isinstance(module, LangBridgeMultiModalProjector):
                module.register_forward_hook(self._note_patches)
            elif isinstance(module, LangBridgeModel):
                module.register_forward_hook(self._note_images, with_kwargs=True)

    def _note_patches(self, projector: nn.Module, inputs: tuple, hidden_states: torch.Tensor) -> None:
        self.projected = hidden_states  # (images or tiles, patches, H)

    def _note_images(self, model: LangBridgeModel, inputs: tuple, named: dict[str, Any], output: Any) -> None:
        """Keeps the patches of each image, `(patches, H)`; of text alone, for which a blank image ran, its own."""
        projected, self.projected = self.projected, None
        # With label smoothing, TRL follows a training step's forward pass by one without gradients.
        if projected is None or (model.training and not torch.is_grad_enabled()):
            return
        sizes = named.get("image_sizes")
        is_in_tiles = sizes is not None and len(sizes)
        self.images = model.pack(projected, sizes, named["pixel_values"].shape[-1]) if is_in_tiles else list(projected)

    def targets(self, samples: list[dict[str, Any]]) -> torch.Tensor:
        """The words of each image's sample, `(images, V)`; a sample of several images has its words for each."""
        found = [self.words.find(caption_of(sample)) for sample in samples for _ in sample["images"]]
        return word_targets(found, self.weights)

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        return {"targets": self.targets(samples)}

    def count(self, batch: dict[str, torch.Tensor]) -> int:
        return int(has_words(batch["targets"]).sum())

    def sums(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor], accelerator: Accelerator
    ) -> dict[str, torch.Tensor]:
        images, self.images = self.images, []
        head = model.model.vocabulary_head
        pooled, entropy, _ = zip(*(head.pool(image[None]) for image in images), strict=True)
        pooled, entropy = torch.cat(pooled), torch.cat(entropy)  # (images, V), (images,)
        targets = batch["targets"]
        if not len(targets):  # a batch of text alone, for which a blank image ran
            targets = pooled.new_zeros(pooled.shape)
        prediction = word_prediction_loss(pooled, targets, num_images=1)
        entropy = (has_words(targets) * entropy.detach()).sum()
        return {"loss": prediction, "word_prediction": prediction, "word_entropy": entropy}
