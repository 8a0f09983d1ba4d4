# SPDX-License-Identifier: Apache-2.0
"""Assignment prediction beside the caption loss (VLAP): a photo and its caption predict each other's words."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from accelerate import Accelerator
from datasets import Dataset, IterableDataset
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from modeling_langbridge import LangBridgeModel, SharedVocabulary
from modeling_langbridge.vocabulary_head import look_up

from ..data.caption_words import caption_of
from ..data.samples import read_sample
from ..option_values import AT_LEAST_0, Range
from .objective import Objective
from .transport import (
    LARGEST_LOGIT,
    assignment_prediction_loss,
    published_targets,
    transport_targets,
    word_counts,
    word_frequencies,
    word_scores,
)


SMALLEST_TEMPERATURE = 2 / LARGEST_LOGIT  # cosines are at most 1, give or take a rounding
TEMPERATURE = Range(
    f"of {SMALLEST_TEMPERATURE:.1e} or more, since float32 holds no sharper softmax",
    lambda temperature: temperature >= SMALLEST_TEMPERATURE,
)


@dataclass
class AssignmentPredictionArguments:
    """Whether a training run learns assignment prediction, and in which form."""

    assignment_prediction_weight: Annotated[float, AT_LEAST_0] = field(
        default=0.0,
        metadata={"help": "Weight of assignment prediction (VLAP, which took 0.1) beside the caption loss."},
    )
    assignment_targets: Literal["transport", "published"] = field(
        default="transport",
        metadata={
            "help": "What assignment prediction predicts: transport shares the words' frequencies out over a batch, "
            "of all processes but not of accumulated ones (VLAP's paper); published takes each image on its own "
            "(VLAP's code)."
        },
    )
    assignment_temperature: Annotated[float, TEMPERATURE] = field(
        default=0.01,
        metadata={"help": "Temperature of assignment prediction's cosines, in its targets and in what predicts them."},
    )


class AssignmentObjective(Objective):
    """
    Assignment prediction: an image's visual tokens and its caption's states, each by their cosines to the words'
    embeddings, are to predict one another's assignment to the words.

    An image is the mean of its visual tokens, which a hook on the model keeps; the newlines of LangBridge-NeXT are
    among them. A caption is the mean of the language model's contextual states of what the assistant says in the
    image's sample. They come from a separate forward pass without the image, without gradient and without dropout. A
    language model that is trained, in full or by LoRA, thus moves the targets, but learns nothing from them.

    Every image of a sample counts, with that sample's caption; text alone does not, nor a caption without tokens. The
    transport runs over the images of one forward pass in all processes together, so that several processes learn what
    one learns with all their samples; with gradient accumulation, it runs over each accumulated batch on its own.

    Source: Park et al., "VLAP", arXiv 2404.09632; what its published code does otherwise is said in
    [`~trainer.objectives.transport.published_targets`].

    Args:
        arguments ([`AssignmentPredictionArguments`]): its weight and form.
        model (`PreTrainedModel`): a LangBridge with an adapter of any type.
        tokenizer (`PreTrainedTokenizerBase`): its tokenizer.
        dataset (`Dataset`): the training rows, in whose captions the words are counted.
        vocabulary (`SharedVocabulary`, *optional*): the words; an adapter made of words has its own.

    Raises:
        `ValueError`: the words are missing or the tokenizer lacks some, no caption has
        any of them, or the rows are a stream.
    """

    name = "assignment_prediction"

    def __init__(
        self,
        arguments: AssignmentPredictionArguments,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        dataset: Dataset | IterableDataset,
        vocabulary: SharedVocabulary | None = None,
    ):
        super().__init__(arguments.assignment_prediction_weight)
        self.targets, self.temperature = arguments.assignment_targets, arguments.assignment_temperature
        if isinstance(dataset, IterableDataset):
            raise ValueError("`assignment_prediction_weight` counts the captions' words first: leave `streaming` out.")
        self.adapter_type = model.config.adapter_type
        if self.adapter_type == "langbridge":
            words = model.model.get_word_ids()
            # No token of a text is a split word.
            self.token_ids = torch.tensor([word[0] if len(word) == 1 else -1 for word in words])  # (V,)
        elif vocabulary is None:
            raise ValueError(
                f"`assignment_prediction_weight` needs words, of which an adapter of type {self.adapter_type!r} has "
                "none: give a `vocabulary`."
            )
        else:
            self.token_ids = torch.tensor(vocabulary.token_ids(tokenizer))  # (V,)
        self.tokenizer = tokenizer
        counts = word_counts(self._captions(dataset), self.token_ids)
        if not counts.any():
            raise ValueError("No caption has a word of the vocabulary: was it made for another language?")
        # Without a use added to each, the transport could assign nothing to a word that no caption has.
        self.frequencies = word_frequencies(counts, smoothing=1 if self.targets == "transport" else 0)
        self.visual_tokens: torch.Tensor | None = None

    def _captions(self, dataset: Dataset) -> Iterator[list[int]]:
        for row in logging.tqdm(dataset, desc="counting words", unit=" captions", delay=2):
            sample = read_sample(row)
            if sample["images"]:
                yield self.tokenizer(caption_of(sample), add_special_tokens=False, verbose=False).input_ids

    def attach(self, model: nn.Module) -> None:
        for module in model.modules():
            if isinstance(module, LangBridgeModel):
                module.register_forward_hook(self._note)

    def _note(self, model: LangBridgeModel, inputs: tuple, output: Any) -> None:
        # With label smoothing, TRL follows a training step's forward pass by one without gradients.
        if torch.is_grad_enabled() or not model.training:
            self.visual_tokens = output.image_hidden_states  # (all images' tokens, d)

    def collate(self, samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """
        The captions of a batch's images, with the special tokens that the tokenizer puts around a text.

        Returns:
            `dict` with `input_ids` and `mask`, `(captions, sequence)`, the latter True where a token is the caption's
            own; `places` `(images,)`, which caption is each image's, -1 where it has none; and `lengths` `(images,)`,
            how many visual tokens each has.
        """
        input_ids, masks, places, lengths = [], [], [], []
        for sample in samples:
            if not sample["images"]:
                continue
            caption = self.tokenizer(caption_of(sample), return_special_tokens_mask=True, verbose=False)
            mask = ~torch.tensor(caption.special_tokens_mask, dtype=torch.bool)
            place = len(masks) if mask.any() else -1
            places += [place] * len(sample["images"])
            lengths += sample["num_image_tokens"]
            if place >= 0:
                input_ids.append(torch.tensor(caption.input_ids))
                masks.append(mask)
        empty = [torch.zeros(0, dtype=torch.long)]  # pads a batch without captions to (1, 0)
        return {
            "input_ids": pad_sequence(input_ids or empty, batch_first=True),  # (captions, sequence)
            "mask": pad_sequence(masks or empty, batch_first=True).bool(),
            "places": torch.tensor(places, dtype=torch.long),
            "lengths": torch.tensor(lengths, dtype=torch.long),
        }

    def count(self, batch: dict[str, torch.Tensor]) -> int:
        return int((batch["places"] >= 0).sum())

    def sums(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor], accelerator: Accelerator
    ) -> dict[str, torch.Tensor]:
        visual, text = self.scores(model, batch, accelerator)  # (images with captions, V)
        visual_targets, text_targets = self.assign(visual.detach(), text, accelerator)
        loss = visual.sum() * 0
        if len(visual):
            mean = assignment_prediction_loss(visual, text, visual_targets, text_targets, self.temperature)
            loss = mean * len(visual)
        return {"loss": loss, "assignment_prediction": loss}

    def scores(
        self, model: PreTrainedModel, batch: dict[str, torch.Tensor], accelerator: Accelerator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosines to the words of the last forward's images that have captions, and of these, each `(images, V)`."""
        places, (visual_tokens, self.visual_tokens) = batch["places"], (self.visual_tokens, None)
        visual_tokens = visual_tokens.float()
        means = [image.mean(0, keepdim=True) for image in visual_tokens.split(batch["lengths"].tolist())]
        images = torch.stack(means) if means else visual_tokens[:, None]
        images = images[places >= 0]  # (images, 1, d)
        with torch.no_grad():
            if self.adapter_type == "langbridge":
                embeddings = model.model.get_word_embeddings()  # (V, d)
            else:
                embeddings = look_up(model.get_input_embeddings(), self.token_ids.to(model.device))  # (V, d)
        visual = word_scores(images, images.new_ones(len(images), 1), embeddings)
        if not len(visual):
            return visual, visual.detach()
        language_model = model.model.language_model
        was_training = language_model.training
        language_model.eval()
        with torch.no_grad(), accelerator.autocast():
            # Padding comes last, where a causal model's other tokens ignore it: no mask is needed.
            states = language_model(input_ids=batch["input_ids"], use_cache=False).last_hidden_state
        language_model.train(was_training)
        text = word_scores(states, batch["mask"], embeddings)  # (captions, V)
        return visual, text[places[places >= 0]]

    def assign(
        self, visual: torch.Tensor, text: torch.Tensor, accelerator: Accelerator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The targets `(images, V)` of scores of that shape, made with those of all processes where they must be."""
        if self.targets == "published":
            targets_of, mine = published_targets, slice(None)
        else:
            targets_of = transport_targets
            both, mine = gather_rows(torch.stack([visual, text], dim=1), accelerator)
            visual, text = both.unbind(1)
        if not len(visual):
            return visual, text
        return tuple(targets_of(scores, self.frequencies, self.temperature)[mine] for scores in (visual, text))


def gather_rows(rows: torch.Tensor, accelerator: Accelerator) -> tuple[torch.Tensor, slice]:
    """The rows of all processes, which need not have equally many, and where among them this process's own are."""
    counts = accelerator.gather(torch.tensor([len(rows)], device=rows.device)).tolist()
    most, first = max(counts), sum(counts[: accelerator.process_index])
    if most == 0:
        return rows, slice(0)
    padded = rows.new_zeros(most, *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = accelerator.gather(padded).view(len(counts), *padded.shape)  # (processes, most, ...)
    every = torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])
    return every, slice(first, first + len(rows))
