# SPDX-License-Identifier: Apache-2.0
"""Substitution: does a language model say the same when it is handed only the words that an explanation shows?

The visual tokens of a photo are replaced by what the explanation shows of them, and the next-token distributions over
a caption are compared with the model's own. Deleting patches or words tells less: a language model was never shown a
photo with holes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor, SharedVocabulary
from modeling_langbridge.reading.patch_words import load_pixels

from ..data.caption_words import CaptionWords
from ..data.captioned_photos import CaptionedPhoto
from ..data.images import open_image
from .captioning import ask_about_tokens, generate_answers
from .intervals import Estimate, estimate


OWN, OTHER = "the model's own visual tokens", "another photo's visual tokens"
TRUE, PERMUTED, FREQUENT, RANDOM = SHOWN = (
    "the words that are shown",
    "the same words, strengths permuted",
    "frequent words",
    "random words",
)


@dataclass(eq=False)
class Substitution:
    """
    What [`substitute`] measures, by what is substituted and by the number of words.

    Args:
        totals (`dict[tuple[str, int], list[float]]`):
            For each photo the Kullback-Leibler divergence of the distributions after the substitution from the model's
            own, KL(own ‖ substituted), in nats, summed over the tokens of its first caption.
        answers (`dict[tuple[str, int], list[str]]`): What the model says about each photo then, where asked for.
        num_tokens (`list[int]`): The tokens of each photo's first caption.
    """

    totals: dict[tuple[str, int], list[float]] = field(default_factory=dict)
    answers: dict[tuple[str, int], list[str]] = field(default_factory=dict)
    num_tokens: list[int] = field(default_factory=list)

    @property
    def numbers(self) -> list[int]:
        """The numbers of words that were shown; the last is all of them."""
        return sorted({number for _, number in self.totals})

    def divergence(self, what: str, number: int) -> Estimate:
        """The mean divergence per token, in nats."""
        return estimate(torch.tensor(self.totals[what, number]), torch.tensor(self.num_tokens))

    def excess(self, what: str, over: str, number: int) -> Estimate:
        """How much larger one divergence per token is than another, compared photo by photo."""
        one, other = (torch.tensor(self.totals[name, number]) for name in (what, over))
        return estimate(one - other, torch.tensor(self.num_tokens))


@torch.no_grad()
def substitute(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    photos: Sequence[CaptionedPhoto],
    question: str,
    numbers: Sequence[int] = (1, 2, 4, 8),
    answer: bool = False,
    seed: int = 0,
) -> Substitution:
    """
    Hands the language model only what an explanation shows, and controls that must do worse.

    With a token a patch, the k words of a patch are those of the largest coefficients by magnitude, at their
    strengths: the visual token is the sum of their embeddings times their coefficients, as the page lists them, and
    all other coefficients are 0. The gate and the bias are in the coefficients and stay; a linear remainder is not
    shown and is left out. What is left is not scaled up to the length or the sum that it had: the page does not do so
    either, and the controls have the same strengths. With `words_per_image`, the photo's k strongest words are handed
    over, each once and whole, the strongest first: strengths show in the order alone.

    The controls, in the order in which they must do worse, keep the strengths and change what they belong to:

    - the same words, with the strengths permuted over the photo's patches and their words;
    - the k words that most captions of these photos use, the same at every patch, the strength of the first word there
      given to the most frequent one;
    - random words, others at every patch.

    Beside them stand the visual tokens of another photo, for scale.

    Args:
        model (`LangBridgeForConditionalGeneration`): With an adapter made of words, whatever its activation.
        processor (`LangBridgeProcessor`): The model's.
        photos (`Sequence[CaptionedPhoto]`): At least two. Of each, the first caption is read.
        question (`str`): What is asked about the photo, before the caption.
        numbers (`Sequence[int]`, *optional*, defaults to `(1, 2, 4, 8)`):
            How many words are shown. All of them, V or `words_per_image`, always come as well.
        answer (`bool`, *optional*, defaults to `False`): Whether to generate what the model says, too.
        seed (`int`, *optional*, defaults to 0): Of the permutations and of the random words.

    Returns:
        [`Substitution`].

    Raises:
        `ValueError`: the adapter (mlp, linear) is not made of words, there are fewer than two photos, or an image
        cannot be opened.
    """
    model.config.require_words("`substitute`")
    if len(photos) < 2:
        raise ValueError(f"There is {len(photos)} photo: substitution needs at least two, each the other's control.")
    found = Substitution()
    is_image = model.config.words_per_image is not None
    embeddings = model.model.get_word_embeddings()  # (V, d)
    total = model.config.words_per_image or len(embeddings)
    numbers = [total, *(number for number in numbers if number < total)]
    usage = count_uses(model, processor, photos)  # (V,)
    generator = torch.Generator().manual_seed(seed)
    other = see(model, processor, photos[-1])[0]  # (tokens, d)
    for photo in tqdm(photos, desc="substituting", unit=" photos"):
        own, coefficients = see(model, processor, photo)  # (tokens, d), (tokens, V)
        caption = processor.tokenizer(photo.captions[0], add_special_tokens=False, return_tensors="pt")["input_ids"]
        found.num_tokens.append(caption.shape[1])
        for number in numbers:
            replaced = replace(*show(coefficients, number, is_image), usage, generator)
            variants = {what: hand_over(*words, embeddings, is_image) for what, words in replaced.items()}
            if number == total:
                variants = {OWN: own, **variants, OTHER: other}
            tokens = torch.stack([tokens.to(own) for tokens in variants.values()])  # (variants, tokens, d)
            predicted = predict(model, processor, tokens, question, caption)  # (variants, caption, vocabulary)
            if number == total:
                expected = predicted[0]  # (caption, vocabulary)
            answers = answer_about(model, processor, tokens, question) if answer else []
            for what, log_probabilities in zip(variants, predicted, strict=True):
                divergence = F.kl_div(log_probabilities, expected, reduction="sum", log_target=True).clamp(min=0)
                found.totals.setdefault((what, number), []).append(divergence.item())
            for what, said in zip(variants, answers, strict=False):
                found.answers.setdefault((what, number), []).append(said)
        other = own
    return found


def see(
    model: LangBridgeForConditionalGeneration, processor: LangBridgeProcessor, photo: CaptionedPhoto
) -> tuple[Tensor, Tensor]:
    """A photo's visual tokens `(tokens, d)`, and its coefficients `(tokens, V)` in float32 on the CPU."""
    bridge = model.model
    (features,) = bridge.get_patch_features(**load_pixels(model, processor, open_image(photo.image)))
    coefficients = bridge.vocabulary_head(bridge.multi_modal_projector(features[None]))[0]  # (tokens, V)
    return bridge.adapt(features[None])[0], coefficients.float().cpu()


def count_uses(
    model: LangBridgeForConditionalGeneration, processor: LangBridgeProcessor, photos: Sequence[CaptionedPhoto]
) -> Tensor:
    """How many of the photos' captions use each word, `(V,)`; -1 for words that the language model lacks."""
    vocabulary = SharedVocabulary.from_token_ids(processor.tokenizer, model.model.get_word_ids())
    usage = CaptionWords(vocabulary).count(caption for photo in photos for caption in photo.captions)
    missing = model.model.vocabulary_head.missing_words()
    return usage if missing is None else usage.masked_fill(missing.cpu(), -1)


def show(coefficients: Tensor, number: int, is_image: bool) -> tuple[Tensor, Tensor]:
    """The words that an explanation shows and their strengths, the strongest first: `(tokens, number)` each, of every
    patch, or `(1, number)` of the whole image, of its coefficients `(tokens, V)`."""
    if is_image:
        coefficients = coefficients.abs().sum(0, keepdim=True)  # (1, V)
    words = coefficients.abs().topk(number).indices
    return words, coefficients.gather(1, words)


def replace(
    words: Tensor, strengths: Tensor, usage: Tensor, generator: torch.Generator
) -> dict[str, tuple[Tensor, Tensor]]:
    """The words with their strengths, and the controls, see [`substitute`]."""
    number = words.shape[1]
    order = torch.randperm(strengths.numel(), generator=generator)
    frequent = usage.argsort(descending=True, stable=True)[:number]
    draws = torch.rand(len(words), len(usage), generator=generator).masked_fill(usage < 0, -1)  # (tokens, V)
    return {
        TRUE: (words, strengths),
        PERMUTED: (words, strengths.flatten()[order].view_as(strengths)),
        FREQUENT: (frequent.expand_as(words), strengths),
        RANDOM: (draws.topk(number).indices, strengths),
    }


def hand_over(words: Tensor, strengths: Tensor, embeddings: Tensor, is_image: bool) -> Tensor:
    """The visual tokens `(tokens, d)` that words stand for at these strengths, both `(tokens, number)`."""
    if is_image:
        return embeddings[words[0, strengths[0].argsort(descending=True, stable=True)].to(embeddings.device)]
    coefficients = strengths.new_zeros(len(words), len(embeddings)).scatter(1, words, strengths)  # (tokens, V)
    return coefficients.to(embeddings) @ embeddings


def predict(
    model: LangBridgeForConditionalGeneration,
    processor: LangBridgeProcessor,
    visual_tokens: Tensor,
    question: str,
    caption: Tensor,
) -> Tensor:
    """The log-probabilities `(variants, caption, vocabulary)` of each token of a caption `(1, caption)`, after what
    came before it and a question about visual tokens `(variants, tokens, d)`."""
    inputs = ask_about_tokens(processor, visual_tokens, question)
    begun = caption[:, :-1].expand(len(visual_tokens), -1).to(model.device)
    inputs["input_ids"] = torch.cat([inputs["input_ids"], begun], dim=1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    return model(**inputs, logits_to_keep=caption.shape[1], use_cache=False).logits.float().log_softmax(-1)


def answer_about(
    model: LangBridgeForConditionalGeneration, processor: LangBridgeProcessor, visual_tokens: Tensor, question: str
) -> list[str]:
    """What the model says about each of several photos' visual tokens `(variants, tokens, d)`."""
    inputs = ask_about_tokens(processor, visual_tokens, question)
    return generate_answers(model, processor.tokenizer, inputs, max_new_tokens=30)
