# SPDX-License-Identifier: Apache-2.0
"""Linear algebra of the word embeddings E `(V, d)`: pseudo-inverse, null space, and the map between two models'."""

import torch

from ..modeling_langbridge import LangBridgeForConditionalGeneration
from ..vocabulary_head import LangBridgeVocabularyHead


def invert_words(embeddings: torch.Tensor, ridge: float = 0.0) -> tuple[torch.Tensor, int]:
    """
    The transposed pseudo-inverse `E⁺ᵀ` of the word embeddings E, which is the vocabulary head's weight.

    Directions whose singular value is below the rounding error of E's dtype (its epsilon times the root mean squared
    singular value) count as not spanned: coefficients for them would add more rounding error than they remove. Uses a
    singular value decomposition in float64: LAPACK reduces a tall E by QR first, so that it is about as fast as the
    Gram matrix `EᵀE`, which would square the condition number.

    Args:
        embeddings (`torch.Tensor` of shape `(V, d)`): E, in its own dtype.
        ridge (`float`, *optional*, defaults to 0.0): See [`~modeling_langbridge.lift`].

    Returns:
        `tuple(torch.Tensor, int)`: `E⁺ᵀ` `(V, d)` in float64, and how many of the d dimensions the words span.
    """
    left, lengths, right = torch.linalg.svd(embeddings.double(), full_matrices=False)
    mean_square = lengths.square().mean()
    # The error of the decomposition is above float64's epsilon.
    resolution = max(torch.finfo(embeddings.dtype).eps, 1e-12)
    spanned = lengths > resolution * mean_square.sqrt()
    inverse_lengths = torch.where(spanned, lengths / (lengths.square() + ridge * mean_square), 0)
    return left * inverse_lengths @ right, int(spanned.sum())


@torch.no_grad()
def set_to_inverse(head: LangBridgeVocabularyHead, embeddings: torch.Tensor, ridge: float = 0.0) -> int:
    """
    Sets the weights of a head of linear coefficients to the pseudo-inverse of the word embeddings E `(V, d)`, so that
    c = x E⁺. Arguments, and the number of dimensions that it returns, are those of [`invert_words`].
    """
    inverse, rank = invert_words(embeddings, ridge)  # (V, d)
    head.weight.copy_(inverse)
    head.bias.zero_()
    return rank


def word_map_r2(source: torch.Tensor, target: torch.Tensor) -> float:
    """
    R² of the least-squares map from one model's word embeddings to another's, on held-out words.

    A fifth of the words, drawn at random with a fixed seed, is held out.

    Args:
        source (`torch.Tensor` of shape `(V, d)`), target (`torch.Tensor` of shape `(V, d')`):
            The two models' embeddings of the same words in the same order.

    Returns:
        `float`: R² over all dimensions: 1 is perfect, 0 is as good as predicting the mean, below 0 is worse.
    """
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(0)).to(source.device)
    held_out, fitted = order[: max(1, len(order) // 5)], order[len(order) // 5 :]
    source, target = source.double(), target.double()
    source, target = source - source[fitted].mean(0), target - target[fitted].mean(0)
    inverse, _ = invert_words(source[fitted])  # (fitted, d)
    predicted = source[held_out] @ (inverse.T @ target[fitted])  # (held out, d')
    return (1 - (target[held_out] - predicted).square().sum() / target[held_out].square().sum()).item()


def null_space_share(coefficients: torch.Tensor, words: torch.Tensor) -> float:
    """The share of coefficients `(..., V)`, by squared norm, in the null space of embeddings E `(V, d)`."""
    nothing = coefficients - take_out_nothing(coefficients, words)
    return (nothing.square().sum() / coefficients.square().sum()).item()


def take_out_nothing(coefficients: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Coefficients `(..., V)` without their part in the null space of embeddings E `(V, d)`: `c E E⁺`."""
    inverse, _ = invert_words(words)  # (V, d)
    return (coefficients.double() @ words.double() @ inverse.T).to(coefficients.dtype)


@torch.no_grad()
def clean_null_space(model: LangBridgeForConditionalGeneration) -> None:
    """
    Removes from a model's raw coefficients, in place, their part in the null space of its language model. The visual
    tokens stay the same, and a transfer adds less noise.

    Raises:
        `ValueError`: the adapter is not made of words, or its coefficients are not raw ones.
    """
    model.config.require_words("`clean_null_space`")
    head = model.model.vocabulary_head
    if head.activation != "linear":
        raise ValueError("Only raw coefficients have a null space to clean: these are distributions over words.")
    words = model.model.get_word_embeddings()  # (V, d)
    head.weight.copy_(take_out_nothing(head.weight.T, words).T)
    head.bias.copy_(take_out_nothing(head.bias, words))
