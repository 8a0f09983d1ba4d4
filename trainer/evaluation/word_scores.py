# SPDX-License-Identifier: Apache-2.0
"""Photos and captions as words: which words an adapter gives for a photo, with or without its language model."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor

from modeling_langbridge import (
    LangBridgeConfig,
    LangBridgeForConditionalGeneration,
    LangBridgeModel,
    SharedVocabulary,
)
from modeling_langbridge.vocabulary_head import look_up

from ..data.caption_words import CaptionWords
from ..data.feature_cache import FeatureCache
from ..data.images import open_image
from ..objectives.transport import word_scores


PHOTOS_AT_ONCE, CAPTIONS_AT_ONCE = 16, 64
TEMPERATURE = 0.01  # VLAP's


@torch.no_grad()
def reading_words(
    model: LangBridgeForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    path: str | None = None,
    size: int | None = None,
) -> tuple[SharedVocabulary, Tensor]:
    """
    The words to read a model in: its own or, where its adapter is not made of words, those of a vocabulary that its
    tokenizer has.

    Args:
        model ([`LangBridgeForConditionalGeneration`]): of any adapter type.
        tokenizer ([`PreTrainedTokenizerBase`]): of its language model.
        path (`str`, *optional*), size (`int`, *optional*): as for [`SharedVocabulary.load`].

    Returns:
        The V words, and the language model's embeddings of them, `(V, d)`.

    Raises:
        `ValueError`: a vocabulary is given for an adapter that has its own.
    """
    if model.config.adapter_type != "langbridge":
        vocabulary = SharedVocabulary.load(path, size).restricted_to(tokenizer)
        token_ids = torch.tensor(vocabulary.token_ids(tokenizer), device=model.device)  # (V,)
        return vocabulary, look_up(model.get_input_embeddings(), token_ids)
    if path is not None or size is not None:
        raise ValueError("This adapter is made of words of its own: leave out --vocabulary and --vocab_size.")
    word_ids = model.model.get_word_ids()
    return SharedVocabulary.from_token_ids(tokenizer, word_ids), model.model.get_word_embeddings()


def gives_distributions(config: LangBridgeConfig) -> bool:
    """Whether the coefficients are a distribution over the words, which can be read without a language model."""
    return config.adapter_type == "langbridge" and config.coefficient_activation != "linear"


@torch.no_grad()
def pool_photos(
    bridge: LangBridgeModel,
    image_processor: BaseImageProcessor,
    photos: Sequence[Any],
    features: FeatureCache | None = None,
) -> Tensor:
    """
    Each photo's coefficients, pooled over its patches by their gates, as grounding trains them.

    Args:
        bridge ([`LangBridgeModel`]): with coefficients that are distributions.
        image_processor ([`BaseImageProcessor`]): of its vision tower.
        photos (`Sequence`): anything that [`~trainer.data.images.open_image`] opens.
        features ([`~trainer.data.feature_cache.FeatureCache`], *optional*): what the photos are read from.

    Returns:
        `torch.Tensor` of shape `(photos, V)`, float32 on the CPU; every row sums to 1.
    """
    pooled = []
    for pixels in pixel_batches(bridge, image_processor, photos, features):
        for patches in bridge.get_patch_features(**pixels):  # (tokens, d_v)
            hidden_states = bridge.multi_modal_projector(patches[None])
            pooled.append(bridge.vocabulary_head(hidden_states, pool=True).distribution.cpu())
    return torch.cat(pooled)


@torch.no_grad()
def photo_strengths(bridge: LangBridgeModel, image_processor: BaseImageProcessor, photos: Sequence[Any]) -> Tensor:
    """
    How strong each word is in each photo: the sum of its coefficients' magnitudes over the patches, by which an
    explanation ranks a photo's words. With an adapter of words of any activation; the coefficients of one photo at a
    time are in memory.

    Args: as for [`pool_photos`].

    Returns:
        `torch.Tensor` of shape `(photos, V)`, float32 on the CPU.
    """
    strengths = [
        bridge.vocabulary_head(bridge.multi_modal_projector(features)).abs().float().sum(0).cpu()
        for pixels in pixel_batches(bridge, image_processor, photos)
        for features in bridge.get_patch_features(**pixels)
    ]
    return torch.stack(strengths)


def count_right_words(strengths: Tensor, used: Tensor, number: int) -> Tensor:
    """
    How many of each photo's strongest words its human captions use, `(photos,)`: the precision at `number` is their
    mean divided by it.

    Args:
        strengths (`torch.Tensor` of shape `(photos, V)`): from [`photo_strengths`].
        used (`torch.Tensor` of shape `(photos, V)`): from [`find_used_words`].
        number (`int`): how many of the strongest words count; more than V are refused by `topk`.
    """
    return used.gather(1, strengths.topk(number).indices).sum(1)


def find_used_words(words: CaptionWords, captions: Sequence[Sequence[str]]) -> Tensor:
    """Which words any of a photo's captions uses, `(photos, V)`, of each photo's captions."""
    return torch.stack([words.count(of_photo) > 0 for of_photo in captions])


@torch.no_grad()
def mean_tokens(
    model: LangBridgeForConditionalGeneration, image_processor: BaseImageProcessor, photos: Sequence[Any]
) -> Tensor:
    """
    The mean of each photo's visual tokens, with an adapter of any type.

    Args: as for [`pool_photos`], with the whole model.

    Returns:
        `torch.Tensor` of shape `(photos, d)`, float32 on the CPU.
    """
    batches = pixel_batches(model.model, image_processor, photos)
    return torch.stack([tokens.float().mean(0).cpu() for pixels in batches for tokens in visual_tokens(model, pixels)])


def visual_tokens(model: LangBridgeForConditionalGeneration, pixels: BatchFeature) -> list[Tensor]:
    """The language model's inputs for each photo, photos x `(tokens, d)`."""
    return model.get_image_features(**pixels).pooler_output


def score_means(means: Tensor, embeddings: Tensor) -> Tensor:
    """Cosine of each mean visual token `(photos, d)` with each word `(V, d)`: `(photos, V)` on the CPU."""
    states = means[:, None].to(embeddings.device)  # (photos, 1, d)
    return word_scores(states, torch.ones(states.shape[:2]).to(states.device), embeddings).cpu()


@torch.no_grad()
def score_captions(
    model: LangBridgeForConditionalGeneration,
    tokenizer: PreTrainedTokenizerBase,
    captions: Sequence[str],
    embeddings: Tensor,
) -> Tensor:
    """
    Cosine between the mean of the language model's states of each caption, read alone, and each word.

    Returns:
        `torch.Tensor` of shape `(captions, V)`, float32 on the CPU.

    Source: Park et al., "VLAP", arXiv 2404.09632.
    """
    scores = []
    for start in tqdm(
        range(0, len(captions), CAPTIONS_AT_ONCE), desc="captions", unit=f" x {CAPTIONS_AT_ONCE}", delay=1
    ):
        batch = list(captions[start : start + CAPTIONS_AT_ONCE])
        inputs = tokenizer(batch, add_special_tokens=False, padding=True, padding_side="right", return_tensors="pt")
        ids, mask = inputs["input_ids"].to(model.device), inputs["attention_mask"].to(model.device)
        states = model.model.language_model(input_ids=ids, attention_mask=mask).last_hidden_state
        scores.append(word_scores(states, mask, embeddings).cpu())
    return torch.cat(scores)


def assign(scores: Tensor) -> Tensor:
    """VLAP's assignment of photos or captions to the words, `(..., V)`, of their cosines with them."""
    return (scores.float() / TEMPERATURE).softmax(-1)


def pixel_batches(
    bridge: LangBridgeModel,
    image_processor: BaseImageProcessor,
    photos: Sequence[Any],
    features: FeatureCache | None = None,
) -> Iterator[BatchFeature]:
    """
    The photos' `pixel_values`, a few at a time, as and where the tower wants them; `image_sizes` for tiles. With
    `features` they are what the tower would give.
    """
    with tqdm(total=len(photos), desc="photos", unit=" photos", delay=1) as progress:
        for start in range(0, len(photos), PHOTOS_AT_ONCE):
            images = photos[start : start + PHOTOS_AT_ONCE]
            if features is None:
                pixels = image_processor(list(map(open_image, images)), return_tensors="pt")
            else:
                pixels = BatchFeature(features.stack(list(map(features.read, images))))
            yield pixels.to(bridge.vision_tower.device, bridge.vision_tower.dtype)
            progress.update(len(images))
