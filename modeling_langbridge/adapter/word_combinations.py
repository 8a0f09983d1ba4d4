# SPDX-License-Identifier: Apache-2.0
"""Words that a tokenizer splits, as sparse combinations of words that it has whole."""

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..vocabulary.shared_vocabulary import SharedVocabulary
from ..vocabulary.surfaces import index_surfaces
from ..vocabulary_head import WORDS_PER_COMBINATION, look_up


CORRELATIONS_AT_ONCE = 2**25  # 128 MB of them in float32


@torch.no_grad()
def combine_split_words(
    vocabulary: SharedVocabulary,
    tokenizer: PreTrainedTokenizerBase,
    reference_model: PreTrainedModel,
    reference_tokenizer: PreTrainedTokenizerBase,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Finds what a language model's embedding of each word is made of, where its tokenizer splits some of the words.

    A word that is split becomes a combination of a few words that are not. They are found by orthogonal matching
    pursuit in the embeddings of a reference, another language model that has the word whole, among all words that both
    tokenizers have whole (Goddard and Fernandes Neto, arXiv 2506.06607). The same combination of the first language
    model's embeddings then stands for the word. Its weights add up to 1, so that it lies where words do, however far
    their mean is from zero. A word that the reference splits too stays the mean of its pieces.

    Args:
        vocabulary ([`SharedVocabulary`]): The V words.
        tokenizer (`PreTrainedTokenizerBase`): The tokenizer that splits some of them.
        reference_model (`PreTrainedModel`): The reference, of which only the word embeddings are read.
        reference_tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.

    Returns:
        `tuple(torch.Tensor, torch.Tensor)`: The ids of the tokens that each word is made of `(V, tokens)`, and their
        weights `(V, tokens)` in float32, 0 in places that are not used. A whole word is its own token.

    Raises:
        `ValueError`: the tokenizers share too few words, or the first one cannot spell a word.
    """
    index, known = index_surfaces(tokenizer), index_surfaces(reference_tokenizer)
    shared = [surface for surface in index if surface in known]
    if len(shared) <= WORDS_PER_COMBINATION:
        raise ValueError(
            f"The tokenizers {tokenizer.name_or_path!r} and {reference_tokenizer.name_or_path!r} share {len(shared)} "
            "words as single tokens, too few to make the others of: use their pieces' mean (`split_words` mean)."
        )
    words = vocabulary.piece_ids(tokenizer)
    tokens = max(WORDS_PER_COMBINATION, max(map(len, words)))
    token_ids = torch.tensor([ids + [0] * (tokens - len(ids)) for ids in words])  # (V, tokens)
    weights = torch.tensor([[1 / len(ids)] * len(ids) + [0] * (tokens - len(ids)) for ids in words])  # (V, tokens)
    places = [place for place, ids in enumerate(words) if len(ids) > 1 and vocabulary.surfaces[place] in known]
    if not places:
        return token_ids, weights

    def embed(surfaces: list[str]) -> torch.Tensor:
        embedding = reference_model.get_input_embeddings()
        ids = torch.tensor([known[surface] for surface in surfaces], device=reference_model.device)
        return look_up(embedding, ids).float()  # (words, d)

    chosen, shares = match(embed([vocabulary.surfaces[place] for place in places]), embed(shared))
    token_ids[places], weights[places] = 0, 0.0
    token_ids[places, :WORDS_PER_COMBINATION] = torch.tensor([index[surface] for surface in shared])[chosen.cpu()]
    weights[places, :WORDS_PER_COMBINATION] = shares.cpu()
    return token_ids, weights


def match(targets: torch.Tensor, atoms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Combinations of atoms that are near to targets, by orthogonal matching pursuit around the atoms' mean.

    A few hundred targets take their next atom together. (scikit-learn's copies the atoms' Gram matrix for each target,
    which takes seconds with 16,000 atoms.)

    Args:
        targets (`torch.Tensor` of shape `(S, d)`), atoms (`torch.Tensor` of shape `(A, d)`): Embeddings.

    Returns:
        `tuple(torch.Tensor, torch.Tensor)`: The places of each target's atoms `(S, k)`, and their weights `(S, k)`,
        which add up to 1.
    """
    mean = atoms.mean(0)
    atoms = atoms - mean
    directions = nn.functional.normalize(atoms, dim=1)
    chosen, weights = [], []
    for part in (targets - mean).split(max(1, CORRELATIONS_AT_ONCE // len(atoms))):
        places = torch.empty(len(part), 0, dtype=torch.long, device=part.device)  # (part, 0)
        rest = part
        for _ in range(WORDS_PER_COMBINATION):
            # What is left of a target is orthogonal to the atoms that it has.
            best = (rest @ directions.T).abs().argmax(1, keepdim=True)
            places = torch.cat([places, best], dim=1)  # (part, atoms so far)
            rest = part - (fit(part, atoms[places])[:, None] @ atoms[places]).squeeze(1)
        first, others = atoms[places].split([1, WORDS_PER_COMBINATION - 1], dim=1)  # (part, 1, d), (part, k - 1, d)
        shares = fit(part - first.squeeze(1), others - first)
        chosen.append(places)
        weights.append(torch.cat([1 - shares.sum(1, keepdim=True), shares], dim=1))  # (part, k)
    return torch.cat(chosen), torch.cat(weights)


def fit(targets: torch.Tensor, atoms: torch.Tensor) -> torch.Tensor:
    """The least-squares weights `(S, k)` of each target's own atoms `(S, k, d)`, the smallest where atoms coincide."""
    gram = (atoms @ atoms.mT).double()  # (S, k, k)
    return (torch.linalg.pinv(gram, hermitian=True) @ (atoms @ targets[..., None]).double()).squeeze(2).float()
