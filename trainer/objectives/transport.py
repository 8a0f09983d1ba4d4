# SPDX-License-Identifier: Apache-2.0
"""VLAP's assignment prediction: photo and caption, each as words, must predict one another's assignment to the words.

Everything is computed in float32 (float64 stays float64), also under bfloat16 autocast, and holds batch × K numbers.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import chain

import torch
import torch.nn.functional as F
from torch import Tensor


# Between 1024 and 2048 float32 still holds a logarithm to 6e-5, and so a probability to 1e-4 of itself.
LARGEST_LOGIT = 2048.0
# The transport stops where the words' masses are this near to their frequencies, in Euclidean norm.
TOLERANCE = 1e-5
MOST_ROUNDS = 1000
# Whether it may stop is computed from the whole plan, which takes longer than a round.
ROUNDS_BETWEEN_CHECKS = 20
# A plan's scales are moved into its exponent where they grow beyond this; POT's own 1e3 costs time and gains nothing.
LARGEST_SCALE = 1e6


def word_scores(states: Tensor, mask: Tensor, embeddings: Tensor) -> Tensor:
    """
    Cosine between each sample's mean token state and each word's embedding.

    The mean comes first and a single product with the words after it: batch·K·d multiply-adds and batch × K numbers,
    where scoring each token first would take batch·tokens·K·d and batch × tokens × K for the same direction.

    Source: Park et al., "VLAP", arXiv 2404.09632, and its published code (mean over tokens, L2-normalised).

    Args:
        states (`torch.Tensor` of shape `(batch, tokens, d)`):
            Projected visual tokens, or the language model's contextual states of a caption.
        mask (`torch.Tensor` of shape `(batch, tokens)`):
            True or 1 where a token counts; the others are ignored and may hold NaN.
        embeddings (`torch.Tensor` of shape `(K, d)`):
            The words' embeddings, of any length. Detach them where they must not learn.

    Returns:
        `torch.Tensor` of shape `(batch, K)`: between -1 and 1; 0 for a word whose embedding is all zero.

    Raises:
        `ValueError`: the shapes do not fit, a sample has no token that counts, or its states have no direction (all
        zero or not finite).
    """
    if states.ndim != 3 or mask.shape != states.shape[:2] or embeddings.shape[1:] != states.shape[2:]:
        raise ValueError(
            "`states` must be (batch, tokens, d), `mask` (batch, tokens) and `embeddings` (K, d), but they are "
            f"{tuple(states.shape)}, {tuple(mask.shape)} and {tuple(embeddings.shape)}."
        )
    mask = mask.bool()
    if (empty := ~mask.any(dim=1)).any():
        raise ValueError(f"Sample {_first(empty)} of the batch has an all-zero `mask`: leave out empty captions.")
    dtype = torch.promote_types(states.dtype, torch.float32)
    # The sum has the mean's direction, which is all that a cosine sees.
    total = states.masked_fill(~mask[..., None], 0).sum(dim=1, dtype=dtype)  # (batch, d)
    length = torch.linalg.vector_norm(total.detach(), dim=-1)
    if (lost := ~((length > 0) & length.isfinite())).any():
        raise ValueError(f"The `states` of sample {_first(lost)} of the batch are all zero or not finite.")
    # Scores rather than embeddings are divided by the words' lengths: no second (K, d) matrix.
    word_lengths = torch.linalg.vector_norm(embeddings, dim=-1, dtype=dtype).clamp_min(1e-12)  # (K,)
    with torch.autocast(states.device.type, enabled=False):
        return F.linear(F.normalize(total, dim=-1), embeddings.to(dtype)) / word_lengths  # (batch, K)


def word_counts(token_ids: Iterable[Sequence[int]], word_ids: Tensor) -> Tensor:
    """
    How often each shared word is used in tokenized captions; tokens that are no shared word are ignored.

    Counts of parts of a corpus, or of several processes, may be added.

    Args:
        token_ids (`Iterable[Sequence[int]]`):
            The captions' token ids as plain integers, read once, so a generator will do.
        word_ids (`torch.Tensor` of shape `(K,)`):
            Where this tokenizer keeps the shared words: `vocabulary_head.token_ids`.

    Returns:
        `torch.Tensor` of shape `(K,)`, int64.
    """
    counts = Counter(chain.from_iterable(token_ids))
    return torch.tensor([counts[word] for word in word_ids.tolist()])


def word_frequencies(counts: Tensor, smoothing: float = 0.0) -> Tensor:
    """
    Unigram frequencies of the words, summing to 1.

    [`published_targets`] takes them as counted: a word that is never used has frequency 0. [`transport_targets`] takes
    them as marginal, under which no sample is assigned to a word of frequency 0: give `smoothing=1` (add-one) there.

    Args:
        counts (`torch.Tensor` of shape `(K,)`): uses of each word, from [`word_counts`].
        smoothing (`float`, *optional*, defaults to 0.0): uses added to each word's.

    Returns:
        `torch.Tensor` of shape `(K,)`, float32.

    Raises:
        `ValueError`: a count or the smoothing is negative or not finite, or no word was used at all.
    """
    if not (counts.ndim == 1 and counts.isfinite().all() and (counts >= 0).all()):
        raise ValueError("`counts` must be one row of numbers, none of them negative: make it with `word_counts`.")
    if not 0 <= smoothing < math.inf:
        raise ValueError(f"`smoothing` is {smoothing}, but must be 0 or more.")
    if not counts.any():
        raise ValueError("All `counts` are 0: no caption uses a shared word, so they are another tokenizer's ids.")
    counts = counts.double() + smoothing
    return (counts / counts.sum()).float()


@torch.no_grad()
def transport_targets(scores: Tensor, word_marginal: Tensor, epsilon: float = 0.01) -> Tensor:
    """
    The VLAP paper's targets: entropic optimal transport from samples of equal mass to words whose masses are how often
    the captions use them, each sample's row rescaled to sum to 1.

    The batch as a whole is made to use the words as often as the corpus does, so a sample's target depends on the
    others': give batches of many samples. A batch of one leaves no choice, and its target is `word_marginal` whatever
    its scores. In several processes the batch is the local one: gathering is the caller's.

    Three rounds of Sinkhorn's, usual since SwAV, leave a good part of the mass misplaced when the words' frequencies
    are as unequal as a language's; POT runs until they are met.

    Source: Park et al., "VLAP", arXiv 2404.09632 (word-frequency-aware transportation polytope). The published code
    does something else: [`published_targets`]. The solver is POT's, after Schmitzer 2019, "Stabilized Sparse Scaling
    Algorithms for Entropy Regularized Transport Problems", arXiv 1610.06519.

    Args:
        scores (`torch.Tensor` of shape `(n, K)`):
            What it is worth to assign a sample to a word, such as the cosines of [`word_scores`].
        word_marginal (`torch.Tensor` of shape `(K,)`):
            Mass of each word, such as `word_frequencies(counts, smoothing=1)`; a word of mass 0 is assigned nothing.
        epsilon (`float`, *optional*, defaults to 0.01):
            Weight of the entropy; the smaller, the nearer each sample comes to a single word.

    Returns:
        `torch.Tensor` of shape `(n, K)`, without gradient, every row summing to 1.

    Raises:
        `ValueError`: the scores are not finite numbers of that shape, epsilon is not positive or too small for
        float32, or `word_marginal` is negative, does not sum to 1 or is not of length K.
    """
    from ot.bregman import sinkhorn_stabilized

    logits = _logits(scores, "scores", epsilon, "epsilon")  # (n, K)
    word_marginal = _distribution(word_marginal, "word_marginal", logits)  # (K,)
    has_mass = word_marginal > 0  # (K,)
    logits, word_marginal = logits[:, has_mass], word_marginal[has_mass]
    sample_marginal = logits.new_full((len(logits),), 1 / len(logits))  # (n,)
    # The first round is in log space: exp(scores / epsilon), with which POT would begin, spans more than a float.
    log_samples = -math.log(len(logits)) - torch.logsumexp(logits, dim=1, keepdim=True)  # (n, 1)
    log_words = word_marginal.log() - torch.logsumexp(logits + log_samples, dim=0)  # (K,)
    with torch.autocast(logits.device.type, enabled=False):
        plan = sinkhorn_stabilized(
            sample_marginal,
            word_marginal,
            -logits,
            reg=1,
            numItermax=MOST_ROUNDS,
            tau=LARGEST_SCALE,
            stopThr=TOLERANCE,
            warmstart=(log_samples[:, 0], log_words),
            print_period=ROUNDS_BETWEEN_CHECKS,
            warn=False,
        )  # (n, K)
    targets = scores.new_zeros(scores.shape, dtype=plan.dtype)
    targets[:, has_mass] = plan / plan.sum(dim=1, keepdim=True)
    return targets


@torch.no_grad()
def published_targets(scores: Tensor, frequencies: Tensor, epsilon: float = 0.01) -> Tensor:
    """
    The targets of VLAP's published code: `softmax(scores / epsilon + 12 * frequencies)`.

    The code's loop looks like Sinkhorn's, but its three rounds multiply the words by a constant, softmax(frequencies /
    0.25), where Sinkhorn would fix their masses. What comes out is this closed form (12 = 3 / 0.25): no transport,
    each sample on its own, frequent words favoured rather than rationed.

    Source: the train.py published with Park et al., "VLAP", arXiv 2404.09632.

    Args:
        scores (`torch.Tensor` of shape `(n, K)`): from [`word_scores`].
        frequencies (`torch.Tensor` of shape `(K,)`): from `word_frequencies(counts)`.
        epsilon (`float`, *optional*, defaults to 0.01): temperature of the scores.

    Returns:
        `torch.Tensor` of shape `(n, K)`, without gradient, every row summing to 1.

    Raises:
        `ValueError`: as in [`transport_targets`].
    """
    logits = _logits(scores, "scores", epsilon, "epsilon")
    frequencies = _distribution(frequencies, "frequencies", logits)
    return (logits + 12 * frequencies).softmax(dim=1)


def assignment_prediction_loss(
    visual_scores: Tensor,
    text_scores: Tensor,
    visual_targets: Tensor,
    text_targets: Tensor,
    temperature: float = 0.01,
) -> Tensor:
    """
    Swapped prediction: each photo's scores predict its caption's assignment and the caption's scores the photo's,
    `½ [CE(text_targets, softmax(visual_scores / τ)) + CE(visual_targets, softmax(text_scores / τ))]`, mean over the
    batch.

    Gradients run through the scores alone. Where the text side is frozen, as in VLAP, the second term therefore
    has no gradient. VLAP adds 0.1 of this loss to the captioning loss.

    Source: Park et al., "VLAP", arXiv 2404.09632; swapped prediction is Caron et al., "SwAV", arXiv 2006.09882.

    Args:
        visual_scores, text_scores (`torch.Tensor` of shape `(batch, K)`): from [`word_scores`], row i one pair.
        visual_targets, text_targets (`torch.Tensor` of shape `(batch, K)`):
            From [`transport_targets`] or [`published_targets`] of the scores of the same name.
        temperature (`float`, *optional*, defaults to 0.01): τ.

    Returns:
        `torch.Tensor` of shape `()`.

    Raises:
        `ValueError`: the shapes differ, the scores are not finite, a row of targets is no distribution, or the
        temperature is not positive or too small for float32.
    """
    visual_logits = _logits(visual_scores, "visual_scores", temperature, "temperature")
    text_logits = _logits(text_scores, "text_scores", temperature, "temperature")
    if visual_logits.shape != text_logits.shape:
        raise ValueError(
            f"`visual_scores` are {tuple(visual_scores.shape)} but `text_scores` {tuple(text_scores.shape)}: "
            "give one row of each per pair, over the same words."
        )
    visual_targets = _distribution(visual_targets.detach(), "visual_targets", visual_logits, rows=True)
    text_targets = _distribution(text_targets.detach(), "text_targets", text_logits, rows=True)
    return (F.cross_entropy(visual_logits, text_targets) + F.cross_entropy(text_logits, visual_targets)) / 2


def _logits(scores: Tensor, name: str, temperature: float, temperature_name: str) -> Tensor:
    """The scores over the temperature, in float32 or better."""
    if scores.ndim != 2 or 0 in scores.shape:
        raise ValueError(f"`{name}` must be of shape (samples, words), but are {tuple(scores.shape)}.")
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    largest = scores.detach().abs().max().item()
    if not math.isfinite(largest):
        raise ValueError(f"`{name}` hold a number that is not finite: look for it in the states they are made of.")
    if not 0 < temperature < math.inf:
        raise ValueError(f"`{temperature_name}` is {temperature}, but must be more than 0.")
    if largest / temperature > LARGEST_LOGIT:
        raise ValueError(
            f"`{temperature_name}` {temperature} is too small for float32 and scores as large as {largest:.3g}: "
            f"give {2 * largest / LARGEST_LOGIT:.1e} or more."
        )
    return scores / temperature


def _distribution(values: Tensor, name: str, logits: Tensor, rows: bool = False) -> Tensor:
    """The values in the logits' dtype and device, certain to be a distribution over the words: one, or one a row."""
    expected = logits.shape if rows else logits.shape[1:]
    if values.shape != expected:
        raise ValueError(f"`{name}` must have shape {tuple(expected)} to fit the scores, not {tuple(values.shape)}.")
    values = values.to(logits)
    if not (values.isfinite().all() and (values >= 0).all()):
        raise ValueError(f"`{name}` must hold the masses of words, but one is negative or not finite.")
    total = values.sum(dim=-1)
    if (off := (total - 1).abs() > 1e-5).any():
        raise ValueError(f"`{name}` must sum to 1, not to {total[off].flatten()[0]:.6g}: divide by the sum.")
    return values


def _first(wrong: Tensor) -> int:
    return int(wrong.nonzero()[0])
