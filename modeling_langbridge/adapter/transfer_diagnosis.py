# SPDX-License-Identifier: Apache-2.0
"""Predicts the quality of a transfer to another language model, before anything is trained or captioned.

It compares the word embeddings E (V, d) of the two language models and the adapter's coefficients c (tokens, V):

- how many of the words the new tokenizer has, and the length of their embeddings in both models;
- how well a linear map predicts one model's embeddings from the other's. Raw coefficients that were trained with one
  language model work with another only as well as this map does;
- the share of raw coefficients in the null space of the old model (`c E = 0`). Training cannot see it; in every other
  model it is noise;
- the length of visual tokens relative to a word's embedding. Language models were trained on words only;
- how many words a visual token is made of. A few are words, thousands are coordinates;
- how well a photo's words tell it from the other photos. An adapter that was never trained gives all photos the same.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from ..modeling_langbridge import LangBridgeForConditionalGeneration
from ..vocabulary_head import LangBridgeVocabularyHead
from .word_space import null_space_share, word_map_r2


FEW_WORDS = 8
PATCHES = 1000  # measured at most, over all photos
CHANCE = 0.05  # bits


class TransferDiagnosis(NamedTuple):
    """
    The measurements of [`diagnose_transfer`].

    Args:
        activation (`str`): `coefficient_activation`.
        words_per_image (`int`, *optional*): The number of words that the new model reads, as of [`LangBridgeConfig`].
        num_words (`int`): V.
        num_left_out (`int`), num_in_pieces (`int`), num_combined (`int`): How many of them the new tokenizer splits,
            by `split_words`.
        old_length (`float`, *optional*), new_length (`float`): Median norm of a word's embedding in each model.
        map_r2 (`float`, *optional*): R² of `word_map_r2`, 1 at best.
        null_share (`float`, *optional*): Share of raw coefficients in the old model's null space.
        token_length (`float`, *optional*): Mean norm of visual tokens, relative to that of the new model's words.
        few_words (`float`, *optional*): Share of a visual token's eight largest coefficients, by magnitude; 1 where
            the new model reads words.
        told_apart (`float`, *optional*): Bits that a photo's words say about which photo it is, 0 where all photos
            have the same words.
    """

    activation: str
    words_per_image: int | None
    num_words: int
    num_left_out: int
    num_in_pieces: int
    old_length: float | None
    new_length: float
    map_r2: float | None
    null_share: float | None
    token_length: float | None
    few_words: float | None
    told_apart: float | None = None
    num_combined: int = 0

    def __str__(self) -> str:
        whole = self.num_words - self.num_left_out - self.num_in_pieces - self.num_combined
        table = {
            "words that are single tokens of the new tokenizer": f"{whole:,} of {self.num_words:,}",
            "words left out": f"{self.num_left_out:,}",
            "words made of their pieces": f"{self.num_in_pieces:,}",
            "words made of other words": f"{self.num_combined:,}",
            "length of a word's embedding, old model": number(self.old_length),
            "length of a word's embedding, new model": number(self.new_length),
            "map of the old model's words to the new one's, R² on words held out": number(self.map_r2),
            "coefficients in the old model's null space, share of energy": number(self.null_share),
            "length of a visual token, in lengths of a word": number(self.token_length),
            f"share of the {FEW_WORDS} largest coefficients of a visual token": number(self.few_words),
            "bits by which its words tell a photo from the others": number(self.told_apart),
        }
        width = max(map(len, table))
        return "\n".join([*(f"{name:<{width}}  {value}" for name, value in table.items()), self.conclude()])

    def conclude(self) -> str:
        """The conclusion, in one sentence."""
        if self.told_apart is not None and self.told_apart < CHANCE:
            return (
                "Not usable: all photos get nearly the same words, as from an adapter that was never trained. "
                "Train or ground it first."
            )
        if self.words_per_image is not None and self.told_apart is None:
            return (
                "Usable at once if the adapter was trained: give two photos or more to measure whether different "
                "photos get different words."
            )
        if self.words_per_image is not None:
            return (
                "Usable at once: an image becomes words of the language model's own. Look at captions to see "
                "whether they are the right ones."
            )
        if self.activation != "linear":
            if self.few_words is None:
                return "Usable at once if a patch is made of few words: give photos to measure it."
            if self.few_words >= 0.5:
                return "Usable at once: a patch is made of few words, which any language model has."
            return (
                "Needs finetuning, or grounding first: a patch is a mixture of very many words. A grounded adapter "
                "can pass its strongest words instead (`words_per_image`)."
            )
        if self.map_r2 is not None and self.map_r2 >= 0.5 and (self.token_length is None or self.token_length < 4):
            return "May be usable at once: the two models' word embeddings are similar. Look at captions first."
        return (
            "Needs finetuning: raw coefficients are coordinates in the old model's space, not words; until then the "
            "new model will not see what is in the image."
        )


def number(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3g}"


@torch.no_grad()
def diagnose_transfer(
    old: LangBridgeForConditionalGeneration | None,
    new: LangBridgeForConditionalGeneration,
    features: Sequence[torch.Tensor] = (),
) -> TransferDiagnosis:
    """
    Predicts the quality of a transfer to another language model.

    Args:
        old (`LangBridgeForConditionalGeneration`, *optional*):
            The model as it was trained; `None` for an adapter alone, of which less can be measured.
        new (`LangBridgeForConditionalGeneration`):
            The same adapter on the new language model.
        features (`Sequence[torch.Tensor]`, *optional*):
            Of photos to measure coefficients and visual tokens on, `(tokens, d_v)` each, from
            [`~LangBridgeModel.get_patch_features`].

    Returns:
        [`TransferDiagnosis`]; measurements that need a missing argument are `None`.
    """
    head, bridge = new.model.vocabulary_head, new.model
    words = bridge.get_word_embeddings().float()  # (V, d)
    whole = head.is_whole()  # (V,)
    num_cut = int((~whole).sum())
    lengths = words[whole].norm(dim=-1)

    coefficients = token_length = few_words = told_apart = None
    if features:
        photos = [bridge.multi_modal_projector(one) for one in features]  # photos x (tokens, H)
        told_apart = tell_apart(head, photos) if len(photos) > 1 else None
        if new.config.words_per_image is None:
            hidden_states = torch.cat(photos)  # (patches, H)
            hidden_states = hidden_states[:: -(-len(hidden_states) // PATCHES)]
            coefficients = head.get_coefficients(hidden_states).float()  # (patches, V)
            magnitudes = coefficients.abs()
            few_words = (magnitudes.topk(min(FEW_WORDS, len(words))).values.sum() / magnitudes.sum()).item()
            tokens = bridge.mix(hidden_states)  # (patches, d)
        else:
            few_words = 1.0  # each visual token is one
            tokens = torch.cat([bridge.mix(one[None])[0] for one in photos])  # (words of all photos, d)
        token_length = (tokens.float().norm(dim=-1).mean() / lengths.mean()).item()

    old_length = map_r2 = null_share = None
    if old is not None:
        old_words = old.model.get_word_embeddings().float()  # (V, d')
        old_length = old_words[whole].norm(dim=-1).median().item()
        # Combined words are made after the old model's: they would tell nothing.
        map_r2 = word_map_r2(old_words[whole], words[whole])
        if head.activation == "linear":
            if coefficients is None:
                coefficients = torch.cat([head.weight.T, head.bias[None]]).float()  # (H + 1, V)
            null_share = null_space_share(coefficients, old_words)
    return TransferDiagnosis(
        activation=head.activation,
        words_per_image=new.config.words_per_image,
        num_words=len(words),
        num_left_out=num_cut if new.config.split_words == "leave_out" else 0,
        num_in_pieces=num_cut if new.config.split_words == "mean" else 0,
        num_combined=num_cut if new.config.split_words == "combine" else 0,
        old_length=old_length,
        new_length=lengths.median().item(),
        map_r2=map_r2,
        null_share=null_share,
        token_length=token_length,
        few_words=few_words,
        told_apart=told_apart,
    )


def tell_apart(head: LangBridgeVocabularyHead, photos: Sequence[torch.Tensor]) -> float:
    """
    The Jensen-Shannon divergence of photos' words, in bits: the mutual information of a photo and a word of it.

    Args:
        head (`LangBridgeVocabularyHead`): The vocabulary head.
        photos (`Sequence[torch.Tensor]`): Projected visual tokens, `(tokens, H)` each.
    """
    # One photo at a time: (tokens, V) of all would not fit.
    strengths = torch.stack([head.get_coefficients(one).float().mean(0).abs() for one in photos])  # (photos, V)
    words = strengths / strengths.sum(-1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    return (entropy(words.mean(0)) - entropy(words).mean()).item()


def entropy(distribution: torch.Tensor) -> torch.Tensor:
    """The entropy of distributions `(..., V)`, in bits."""
    return torch.special.entr(distribution).sum(-1) / math.log(2)
