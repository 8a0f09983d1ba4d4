# SPDX-License-Identifier: Apache-2.0
"""
A language model that nothing was trained for, shown a few examples before each photo.

Small pretrained language models follow examples far better than instructions. The examples are the same for every
photo, so that their keys and values are computed once.
"""

import copy
from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import Cache, LogitsProcessorList

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
from trainer.data.captioned_photos import CaptionedPhoto
from trainer.data.feature_cache import FeatureCache
from trainer.evaluation.word_bias import WordBiasLogitsProcessor
from trainer.evaluation.word_scores import pixel_batches, visual_tokens


Tokens = str | Tensor  # what stands for a photo: text, or visual tokens (tokens, d)


def caption_prompt(tokens: Tokens | None) -> list[Tokens]:
    """What stands before a photo's caption: its words or visual tokens, or nothing of it."""
    return ["Caption:"] if tokens is None else ["Words:", tokens, "\nCaption:"]


def caption_examples(captions: Sequence[str], shown: Sequence[Tokens] | None) -> list[Tokens]:
    """Examples: what stands for each photo, or nothing of it, and its caption."""
    pieces: list[Tokens] = []
    for position, caption in enumerate(captions):
        pieces += [*caption_prompt(shown and shown[position]), f" {caption}\n\n"]
    return pieces


@torch.no_grad()
def see_photos(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    photos: Sequence[CaptionedPhoto],
    features: FeatureCache | None = None,
) -> list[Tensor]:
    """The visual tokens `(tokens, d)` of each photo, or its words where the adapter picks some."""
    batches = pixel_batches(model.model, processor.image_processor, [photo.image for photo in photos], features)
    return [tokens for pixels in batches for tokens in visual_tokens(model, pixels)]


def multiply_in_bfloat16(model: LangBridgeForConditionalGeneration) -> None:
    """
    Lets a language model multiply in bfloat16 (autocast); its states stay float32.

    Its weights become bfloat16 for good: autocast would make them so in every call, which takes longer than to read a
    few tokens. The output layer gets weights of its own for that; the embeddings stay.
    """
    if model.lm_head.weight.dtype == torch.bfloat16:
        return  # done before
    model.lm_head = copy.deepcopy(model.lm_head)
    for part in (model.model.language_model, model.lm_head):
        for module in part.modules():
            if isinstance(module, nn.Linear):
                module.to(torch.bfloat16)
        part.forward = torch.autocast(model.device.type, torch.bfloat16)(part.forward)


class FewShot:
    """
    A language model after examples.

    Args:
        model ([`LangBridgeForConditionalGeneration`]): Its language model alone is used.
        processor ([`LangBridgeProcessor`]): The model's.
        prefix (`Sequence[str | torch.Tensor]`, *optional*, defaults to `()`):
            The examples, as text and visual tokens `(tokens, d)`.
        bf16 (`bool`, *optional*, defaults to `False`):
            Whether the language model multiplies in bfloat16, from then on; see [`multiply_in_bfloat16`].
    """

    def __init__(
        self,
        model: LangBridgeForConditionalGeneration,
        processor: LangBridgeProcessor,
        prefix: Sequence[Tokens] = (),
        bf16: bool = False,
    ):
        self.model, self.tokenizer = model, processor.tokenizer
        if bf16:
            multiply_in_bfloat16(model)
        begin = self.tokenizer("")["input_ids"]  # what the tokenizer puts before any text
        self.prefix = self.embed([self.look_up(begin), *prefix])  # (tokens, d)

    def look_up(self, ids: Sequence[int]) -> Tensor:
        """The embeddings of tokens, `(tokens, d)`."""
        return self.model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long, device=self.model.device))

    @torch.no_grad()
    def embed(self, pieces: Sequence[Tokens]) -> Tensor:
        """The embeddings of pieces of text and of visual tokens `(tokens, d)`, one after the other, `(tokens, d)`."""
        return torch.cat([self.look_up(self.encode(piece)) if isinstance(piece, str) else piece for piece in pieces])

    def encode(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @cached_property
    def cache(self) -> Cache:
        """The keys and values of the examples."""
        return self.model.model.language_model(inputs_embeds=self.prefix[None], use_cache=True).past_key_values

    def read(self, rows: Sequence[Tensor]) -> Tensor:
        """The last states `(rows, longest, d)` of rows of embeddings `(tokens, d)` after the examples.

        Rows are padded on the right, where none of their own tokens looks."""
        embeddings = pad_sequence(rows, batch_first=True)  # (rows, longest, d)
        outputs = self.model.model.language_model(inputs_embeds=embeddings, past_key_values=self.remember(len(rows)))
        return outputs.last_hidden_state

    def remember(self, rows: int) -> Cache | None:
        """The keys and values of the examples for as many rows, to be added to."""
        if not len(self.prefix):
            return None
        repeated = copy.deepcopy(self.cache)
        repeated.batch_repeat_interleave(rows)
        return repeated

    @torch.no_grad()
    def losses(self, prompts: Sequence[Tensor], answers: Sequence[str], batch_size: int = 20) -> Tensor:
        """
        The mean loss of each answer's tokens after its prompt, in nats, `(prompts,)`.

        Args:
            prompts (`Sequence[torch.Tensor]`): From [`~FewShot.embed`], `(tokens, d)` each.
            answers (`Sequence[str]`): With the blank that stands before them.
            batch_size (`int`, *optional*, defaults to 20): Prompts at a time.
        """
        losses = torch.empty(len(prompts))
        for batch in batches(list(range(len(prompts))), batch_size):
            targets = [torch.tensor(self.encode(answers[i]), device=self.model.device) for i in batch]
            rows = [
                torch.cat([prompts[i], self.look_up(ids[:-1].tolist())]) for i, ids in zip(batch, targets, strict=True)
            ]
            answered = [
                state[len(row) - len(ids) : len(row)]
                for row, state, ids in zip(rows, self.read(rows), targets, strict=True)
            ]
            logits = self.model.lm_head(torch.cat(answered)).float()  # (answers' tokens, vocabulary)
            for i, of_answer, ids in zip(batch, logits.split([len(ids) for ids in targets]), targets, strict=True):
                losses[i] = F.cross_entropy(of_answer, ids)
        return losses

    @torch.no_grad()
    def complete(
        self,
        prompts: Sequence[Tensor],
        max_new_tokens: int = 24,
        batch_size: int = 20,
        words: Sequence[Sequence[int]] | None = None,
        word_bias: float = 0.0,
    ) -> list[str]:
        """
        What the model writes greedily after each prompt, up to the end of the line.

        Args:
            prompts (`Sequence[torch.Tensor]`): From [`~FewShot.embed`], `(tokens, d)` each.
            max_new_tokens (`int`, *optional*, defaults to 24): Length at which an answer is cut.
            batch_size (`int`, *optional*, defaults to 20): Prompts at a time.
            words (`Sequence[Sequence[int]]`, *optional*), word_bias (`float`, *optional*):
                For each prompt the tokens that become likelier until they are written, and by how much; as of
                [`WordBiasLogitsProcessor`].
        """
        answers = [""] * len(prompts)
        for length in {len(prompt) for prompt in prompts}:  # prompts of one length need no padding
            for batch in batches([i for i, prompt in enumerate(prompts) if len(prompt) == length], batch_size):
                # Of the examples, whose keys and values are given, generation wants the places alone.
                rows = torch.stack([torch.cat([self.prefix, prompts[i]]) for i in batch])  # (rows, tokens, d)
                biased = [] if words is None else [WordBiasLogitsProcessor([words[i] for i in batch], word_bias)]
                ids = self.model.generate(
                    inputs_embeds=rows,
                    attention_mask=torch.ones(rows.shape[:2], dtype=torch.long, device=rows.device),
                    past_key_values=self.remember(len(batch)),
                    max_new_tokens=max_new_tokens,
                    do_sample=False,
                    logits_processor=LogitsProcessorList(biased),
                    stop_strings=["\n"],
                    tokenizer=self.tokenizer,
                    pad_token_id=self.tokenizer.eos_token_id,
                )
                for i, text in zip(batch, self.tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
                    answers[i] = " ".join(text.split("\n")[0].split())
        return answers

    @torch.no_grad()
    def rate(
        self,
        prompts: Sequence[Tensor],
        choices: Sequence[str],
        batch_size: int = 20,
        words: Sequence[Sequence[int]] | None = None,
        word_bias: float = 0.0,
    ) -> Tensor:
        """
        The log-likelihood of each answer's first token after each prompt, `(prompts, choices)`.

        Args:
            prompts, batch_size, words, word_bias: As of [`~FewShot.complete`].
            choices (`Sequence[str]`): The answers, with the blank that stands before them.
        """
        first = [self.encode(choice)[0] for choice in choices]
        rated = []
        for batch in batches(list(range(len(prompts))), batch_size):
            rows = [prompts[i] for i in batch]
            states = zip(rows, self.read(rows), strict=True)
            last = torch.stack([state[len(row) - 1] for row, state in states])  # (rows, d)
            logits = self.model.lm_head(last).float()  # (rows, vocabulary)
            if words is not None:
                nothing_written = torch.empty(len(batch), 0, dtype=torch.long)
                logits = WordBiasLogitsProcessor([words[i] for i in batch], word_bias)(nothing_written, logits)
            rated.append(logits.log_softmax(-1)[:, first])
        return torch.cat(rated)


def batches(positions: list[int], batch_size: int) -> Iterator[list[int]]:
    """Positions, a batch at a time, with a progress bar where there are many."""
    for start in tqdm(range(0, len(positions), batch_size), desc="prompts", unit=f" x {batch_size}", delay=5):
        yield positions[start : start + batch_size]
