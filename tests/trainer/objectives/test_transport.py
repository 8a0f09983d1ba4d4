# SPDX-License-Identifier: Apache-2.0
import math

import pytest
import torch
import torch.nn.functional as F
from largest_tensor import LargestTensor

from trainer.objectives.transport import (
    assignment_prediction_loss,
    published_targets,
    transport_targets,
    word_counts,
    word_frequencies,
    word_scores,
)


def zipf(words: int) -> torch.Tensor:
    """Frequencies as unequal as a language's."""
    counts = 1 / torch.arange(1, words + 1)
    return counts / counts.sum()


def cosines(samples: int, words: int, width: int = 64, seed: int = 0) -> torch.Tensor:
    """Of samples that are means of ten words each; the first sample is a word itself, with a cosine of 1."""
    generator = torch.Generator().manual_seed(seed)
    embeddings = F.normalize(torch.randn(words, width, generator=generator), dim=1)
    chosen = torch.multinomial(zipf(words), samples * 10, replacement=True, generator=generator)
    means = embeddings[chosen].view(samples, 10, width).mean(dim=1)
    means[0] = embeddings[0]
    return F.normalize(means, dim=1) @ embeddings.T


@pytest.fixture
def wide() -> torch.Tensor:
    """Scores from -1 to 1, the hardest that cosines can be."""
    return torch.rand(20, 50, generator=torch.Generator().manual_seed(1)) * 2 - 1


def plain_sinkhorn(scores: torch.Tensor, marginal: torch.Tensor, epsilon: float = 0.01) -> torch.Tensor:
    """The targets by a thousand rounds of Sinkhorn's iteration, in log space throughout, in float64."""
    logits, marginal = scores.double() / epsilon, marginal.double() / marginal.double().sum()
    samples = -math.log(len(logits)) - logits.logsumexp(dim=1, keepdim=True)
    for _ in range(1000):
        words = marginal.log() - (logits + samples).logsumexp(dim=0)
        samples = -math.log(len(logits)) - (logits + words).logsumexp(dim=1, keepdim=True)
    return (logits + words).softmax(dim=1)


# Cosines of opposite samples are further apart than float32's exponent reaches at epsilon 0.01.
HARD_SCORES = {
    "cosines": cosines(64, 300),
    "opposite": torch.eye(40, 100) * 2 - 1,
    "wide": torch.linspace(-1, 1, 60 * 500).view(60, 500).sin(),
    "alike": torch.full((8, 50), 0.999),
}


@pytest.mark.parametrize("epsilon", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("name", HARD_SCORES)
def test_the_papers_targets_are_those_of_the_plain_iteration_in_log_space(name, epsilon):
    scores = HARD_SCORES[name]
    marginal = zipf(scores.shape[1])
    found = transport_targets(scores, marginal, epsilon)
    expected = plain_sinkhorn(scores, marginal, epsilon)
    torch.testing.assert_close(found.double() / len(scores), expected / len(scores), atol=1e-5, rtol=0)


def test_two_samples_and_two_words_have_a_solution_by_hand():
    # By symmetry each sample weighs its two words as a softmax of scores over epsilon does.
    targets = transport_targets(torch.tensor([[0.02, 0.0], [0.0, 0.02]]), torch.tensor([0.5, 0.5]))
    own = 1 / (1 + math.exp(-2))
    torch.testing.assert_close(targets, torch.tensor([[own, 1 - own], [1 - own, own]]), atol=1e-4, rtol=0)


@pytest.mark.parametrize("marginal", [zipf(300), torch.full((300,), 1 / 300)], ids=["zipf", "uniform"])
@pytest.mark.parametrize("scores", [cosines(64, 300), torch.rand(64, 300) * 2 - 1], ids=["cosines", "wide"])
def test_the_batch_uses_the_words_as_often_as_the_corpus(scores, marginal):
    targets = transport_targets(scores, marginal)
    assert (targets.mean(dim=0) - marginal).abs().sum() < 1.2e-4
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(64))


def test_a_word_without_mass_is_assigned_nothing_and_the_others_as_if_it_were_not_there(wide):
    marginal = torch.cat([torch.zeros(1), zipf(49)])
    targets = transport_targets(wide, marginal)
    assert (targets[:, 0] == 0).all()
    torch.testing.assert_close(targets[:, 1:], transport_targets(wide[:, 1:], zipf(49)))


def test_the_papers_targets_carry_no_gradient():
    assert not transport_targets(cosines(64, 300).requires_grad_(), zipf(300)).requires_grad


def test_equal_scores_and_a_batch_of_one_get_the_frequencies(wide):
    equal = transport_targets(torch.full((5, 50), 0.3), zipf(50))
    torch.testing.assert_close(equal, zipf(50).expand(5, 50))
    torch.testing.assert_close(transport_targets(wide[:1], zipf(50)), zipf(50)[None], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("frequencies", [zipf(300), F.one_hot(torch.tensor(7), 300)], ids=["zipf", "one word only"])
def test_the_published_targets_are_what_the_published_loop_computes(frequencies):
    scores, frequencies = cosines(16, 300).double(), frequencies.double()
    frequencies = frequencies / frequencies.sum()
    assignment = (scores / 0.01).exp().T  # (K, batch)
    for _ in range(3):
        assignment *= (frequencies / 0.25).softmax(dim=0)[:, None]
        assignment /= assignment.sum(dim=0, keepdim=True)
        assignment /= 16
    assignment *= 16
    targets = published_targets(scores.clone().requires_grad_(), frequencies)
    torch.testing.assert_close(targets, assignment.T, atol=1e-12, rtol=0)
    assert not targets.requires_grad
    # In float32 the loop's exp(1 / 0.01) would be infinite.
    single = published_targets(scores.float(), frequencies.float())
    torch.testing.assert_close(single.double(), targets, atol=1e-4, rtol=0)


def test_a_published_target_does_not_depend_on_the_batch_and_a_papers_target_does():
    scores = cosines(16, 300)
    torch.testing.assert_close(published_targets(scores[:4], zipf(300)), published_targets(scores, zipf(300))[:4])
    apart = (transport_targets(scores[:4], zipf(300)) - transport_targets(scores, zipf(300))[:4]).abs().sum(dim=1)
    assert (apart > 0.1).all()


def test_the_loss_is_a_plain_loop_over_pairs_and_words():
    visual, text = cosines(4, 30, seed=1), cosines(4, 30, seed=2)
    visual_targets, text_targets = published_targets(visual, zipf(30)), transport_targets(text, zipf(30))
    expected = 0.0
    for scores, targets in ((visual, text_targets), (text, visual_targets)):
        for row, target in zip(scores.tolist(), targets.tolist(), strict=True):
            normaliser = math.log(sum(math.exp(score / 0.02) for score in row))
            expected -= sum(t * (score / 0.02 - normaliser) for t, score in zip(target, row, strict=True)) / 4 / 2
    loss = assignment_prediction_loss(visual, text, visual_targets, text_targets, temperature=0.02)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_gradients_run_through_the_scores_alone():
    tensors = [cosines(4, 30, seed=1), cosines(4, 30, seed=2), zipf(30).repeat(4, 1), zipf(30).repeat(4, 1)]
    visual, text, *targets = [tensor.requires_grad_() for tensor in tensors]
    assignment_prediction_loss(visual, text, *targets).backward()
    assert visual.grad.abs().sum() > 0 and text.grad.abs().sum() > 0
    assert [target.grad for target in targets] == [None, None]


def states_and_embeddings() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(3, 7, 8, generator=generator)
    lengths = torch.tensor([7, 4, 1])
    mask = torch.arange(7) < lengths[:, None]
    embeddings = torch.randn(40, 8, generator=generator) * torch.rand(40, 1, generator=generator)
    return states, mask, embeddings


def test_word_scores_are_cosines_to_the_mean_of_the_tokens_that_count():
    states, mask, embeddings = states_and_embeddings()
    expected = torch.stack(
        [F.cosine_similarity(row[valid].mean(dim=0), embeddings) for row, valid in zip(states, mask, strict=True)]
    )
    torch.testing.assert_close(word_scores(states, mask, embeddings), expected)
    torch.testing.assert_close(word_scores(states, mask.long(), embeddings), expected)


def test_what_the_padding_holds_changes_neither_scores_nor_gradients():
    states, mask, embeddings = states_and_embeddings()
    states[~mask] = float("nan")
    states.requires_grad_()
    scores = word_scores(states, mask, embeddings)
    targets = published_targets(scores, zipf(40))
    assignment_prediction_loss(scores, scores, targets, targets).backward()
    assert (states.grad[~mask] == 0).all() and states.grad.isfinite().all() and (states.grad[mask] != 0).any()


def test_a_word_whose_embedding_is_zero_scores_zero():
    states, mask, embeddings = states_and_embeddings()
    embeddings[5] = 0
    assert (word_scores(states, mask, embeddings)[:, 5] == 0).all()


def test_no_number_per_token_and_word_is_ever_stored():
    states, embeddings = torch.randn(3, 100, 4, requires_grad=True), torch.randn(500, 4)
    with LargestTensor() as largest:
        scores = word_scores(states, torch.ones(3, 100), embeddings)
        targets = transport_targets(scores, zipf(500))
        assignment_prediction_loss(scores, scores, targets, targets).backward()
    assert largest.numel == max(3 * 100 * 4, 3 * 500, 500 * 4)


def test_everything_is_float32_under_bfloat16_autocast():
    states, mask, embeddings = states_and_embeddings()

    def all_of_it(states, embeddings):
        scores = word_scores(states, mask, embeddings)
        paper, code = transport_targets(scores, zipf(40)), published_targets(scores, zipf(40))
        return scores, paper, code, assignment_prediction_loss(scores, scores.flip(0), code, paper)

    for dtype in (torch.float32, torch.bfloat16):
        states, embeddings = states.to(dtype), embeddings.to(dtype)
        expected = all_of_it(states.float(), embeddings.float())
        with torch.autocast("cpu", torch.bfloat16):
            results = all_of_it(states, embeddings)
        for result, right in zip(results, expected, strict=True):
            assert result.dtype == torch.float32
            torch.testing.assert_close(result, right)


def test_frequencies_are_the_shares_of_the_shared_words():
    captions = [[7, 3, 3], [], [7, 3, 900]]
    counts = word_counts(iter(captions), torch.tensor([3, 5, 7]))
    torch.testing.assert_close(word_frequencies(counts), torch.tensor([0.6, 0.0, 0.4]))
    torch.testing.assert_close(word_frequencies(counts, smoothing=1), torch.tensor([4 / 8, 1 / 8, 3 / 8]))


def test_frequencies_of_many_words_sum_to_one_closely_enough_for_the_transport():
    counts = (1e7 / torch.arange(1, 19201)).long()
    frequencies = word_frequencies(counts, smoothing=1)
    torch.testing.assert_close(frequencies.double().sum().item(), 1.0, atol=1e-6, rtol=0)
    torch.testing.assert_close(transport_targets(torch.zeros(2, 19200), frequencies), frequencies.repeat(2, 1))


@pytest.mark.parametrize("targets_of", [published_targets, transport_targets])
def test_a_projection_learns_to_name_what_the_caption_says(targets_of):
    torch.manual_seed(0)
    embeddings, names = torch.randn(12, 16), torch.arange(12).repeat(2)
    photos = torch.randn(12, 10)[names][:, None] + 0.1 * torch.randn(24, 5, 10)  # (batch, tokens, features)
    text = word_scores(embeddings[names][:, None], torch.ones(24, 1), embeddings)
    frequencies = word_frequencies(word_counts(names[:, None].tolist(), torch.arange(12)))
    text_targets = targets_of(text, frequencies)
    projection = torch.nn.Linear(10, 16)
    optimizer = torch.optim.Adam(projection.parameters(), lr=0.01)
    for _ in range(60):
        visual = word_scores(projection(photos), torch.ones(24, 5), embeddings)
        optimizer.zero_grad()
        assignment_prediction_loss(visual, text, targets_of(visual, frequencies), text_targets).backward()
        optimizer.step()
    assert (visual.argmax(dim=1) == names).all()


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten().index_fill(0, torch.tensor([3]), float("nan")).view(tensor.shape)


EVEN, SCORES, ROWS = torch.full((6,), 1 / 6), torch.zeros(2, 6), torch.full((2, 6), 1 / 6)


@pytest.mark.parametrize("targets_of", [published_targets, transport_targets])
@pytest.mark.parametrize(
    ("scores", "frequencies", "epsilon", "message"),
    [
        (with_nan(SCORES), EVEN, 0.01, "`scores` hold a number that is not finite"),
        (torch.zeros(0, 6), EVEN, 0.01, r"`scores` must be of shape \(samples, words\)"),
        (torch.zeros(6), EVEN, 0.01, r"`scores` must be of shape \(samples, words\)"),
        (SCORES, EVEN, 0.0, "`epsilon` is 0.0, but must be more than 0"),
        (SCORES, EVEN, float("nan"), "`epsilon` is nan"),
        (
            SCORES + 0.9,
            EVEN,
            1e-4,
            "`epsilon` 0.0001 is too small for float32 and scores as large as 0.9: give 8.8",
        ),
        (SCORES, EVEN / 2, 0.01, "must sum to 1, not to 0.5"),
        (SCORES, EVEN[:5], 0.01, r"must have shape \(6,\) to fit the scores, not \(5,\)"),
        (SCORES, with_nan(EVEN), 0.01, "negative or not finite"),
        (SCORES, torch.tensor([-0.5, 1.5, 0, 0, 0, 0]), 0.01, "negative or not finite"),
    ],
)
def test_bad_scores_frequencies_and_epsilons_are_refused(targets_of, scores, frequencies, epsilon, message):
    with pytest.raises(ValueError, match=message):
        targets_of(scores, frequencies, epsilon)


@pytest.mark.parametrize("targets_of", [published_targets, transport_targets])
@pytest.mark.parametrize(
    "scores", [SCORES, SCORES[:1], SCORES + 1, torch.eye(2, 6) * 2 - 1], ids=["zero", "one", "equal", "opposite"]
)
def test_the_loss_of_odd_but_sound_scores_is_finite(targets_of, scores):
    scores = scores.clone().requires_grad_()
    rare = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0, 0.0])
    targets = targets_of(scores, rare, epsilon=1e-3)
    loss = assignment_prediction_loss(scores, scores, targets, targets, temperature=1e-3)
    loss.backward()
    assert loss.isfinite() and scores.grad.isfinite().all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((with_nan(SCORES), SCORES, ROWS, ROWS), "`visual_scores` hold a number that is not finite"),
        ((SCORES, with_nan(SCORES), ROWS, ROWS), "`text_scores` hold a number that is not finite"),
        ((SCORES, SCORES, with_nan(ROWS), ROWS), "`visual_targets` must hold the masses of words"),
        ((SCORES, SCORES, ROWS, ROWS / 2), "`text_targets` must sum to 1, not to 0.5"),
        ((SCORES, SCORES, ROWS, EVEN), r"`text_targets` must have shape \(2, 6\)"),
        ((SCORES, SCORES[:1], ROWS, ROWS[:1]), "one row of each per pair"),
        ((SCORES, SCORES, ROWS, ROWS, -1.0), "`temperature` is -1.0"),
    ],
)
def test_a_loss_that_would_not_be_a_number_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        assignment_prediction_loss(*arguments)


def test_an_empty_caption_and_states_without_direction_are_named():
    states, mask, embeddings = states_and_embeddings()
    empty = mask.clone()
    empty[1] = False
    with pytest.raises(ValueError, match="Sample 1 of the batch has an all-zero `mask`"):
        word_scores(states, empty, embeddings)
    with pytest.raises(ValueError, match="`states` of sample 2 of the batch are all zero or not finite"):
        word_scores(states * torch.tensor([1, 1, 0])[:, None, None], mask, embeddings)
    with pytest.raises(ValueError, match="`states` of sample 0 of the batch are all zero or not finite"):
        word_scores(with_nan(states), mask, embeddings)
    with pytest.raises(ValueError, match=r"`mask` \(batch, tokens\)"):
        word_scores(states, mask.T, embeddings)


@pytest.mark.parametrize(
    ("counts", "smoothing", "message"),
    [
        ([0, 0], 1, "no caption uses a shared word"),
        ([3, -1], 0, "none of them negative"),
        ([3, 1], -0.5, "`smoothing` is -0.5"),
    ],
)
def test_counts_that_make_no_frequencies_are_refused(counts, smoothing, message):
    with pytest.raises(ValueError, match=message):
        word_frequencies(torch.tensor(counts), smoothing)
