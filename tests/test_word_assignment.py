# Copyright 2026 The LangBridge team. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Word assignment: captions' words found, weighed and predicted by pooled coefficients."""

import pytest
import torch

from modeling_langbridge import SharedVocabulary
from trainer import word_assignment
from trainer.word_assignment import CaptionWords, pool_coefficients, word_assignment_loss, word_targets, word_weights


WORDS = CaptionWords(SharedVocabulary([" dog", ".", "dog", " Dog", " a", " run", "ning", " red", " 5", " über"]))


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("a dog", {0, 4}),
        ("Dog runs. A DOG!", {0, 4}),  # in any case, and each once
        ("dogs running in red5", set()),  # no parts of words, which also have other meanings
        ("über-dog", {0, 9}),
        ("", set()),
    ],
)
def test_a_captions_words_are_found_whole_and_in_any_case(caption, expected):
    found = WORDS.find(caption)
    assert set(found) == expected and len(found) == len(expected)


def test_frequent_words_weigh_less_and_unused_ones_nothing():
    counts = WORDS.count(["a dog", "a red dog", "a dog", "a cat"])
    assert counts.tolist() == [3, 0, 0, 0, 4, 0, 0, 1, 0, 0]
    weights = word_weights(counts, power=0.5)
    assert weights[[0, 4, 7]].tolist() == pytest.approx([3**-0.5, 0.5, 1.0])
    assert weights.count_nonzero() == 3
    assert word_weights(counts, power=0.0)[[0, 4, 7]].tolist() == [1, 1, 1]


def test_targets_are_the_captions_words_by_their_weights():
    weights = torch.tensor([3.0, 1.0, 0.0, 2.0])
    targets = word_targets([[0, 1], [3], [], [2]], weights)
    assert targets.tolist() == [[0.75, 0.25, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.fixture
def head(model):
    config = type(model.config)(**{**model.config.to_dict(), "coefficient_activation": "gated_softmax"})
    head = type(model.model.vocabulary_head)(config)
    generator = torch.Generator().manual_seed(0)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=generator)
    return head


def plain_pooling(head, hidden_states):
    softmax = (hidden_states @ head.weight.T + head.bias).softmax(-1)  # (images, tokens, V)
    gates = (hidden_states @ head.gate_weight.T + head.gate_bias).sigmoid() if head.gate_weight is not None else 1.0
    gates = gates * torch.ones_like(hidden_states[..., :1])
    entropy = -(softmax * softmax.log()).sum(-1, keepdim=True)
    weighted = [(gates * of).sum(1) / gates.sum(1) for of in (softmax, entropy)]
    return weighted[0], weighted[1][:, 0]


@pytest.mark.parametrize("at_once", [1, 2**25])
@pytest.mark.parametrize("gated", [True, False])
def test_pooling_in_parts_equals_the_plain_one_forward_and_gradient(head, monkeypatch, at_once, gated):
    monkeypatch.setattr(word_assignment, "TOKENS_AT_ONCE", at_once)
    if not gated:
        head.gate_weight = head.gate_bias = None
    hidden_states = torch.randn(3, 5, 40, requires_grad=True)
    inputs = [hidden_states, *head.parameters()]
    results = []
    for pooling in (pool_coefficients, plain_pooling):
        pooled, entropy = pooling(head, hidden_states)
        loss = (pooled * torch.linspace(-1, 1, 60)).sum() + (entropy * torch.tensor([1.0, 2.0, 3.0])).sum()
        results.append((pooled, entropy, *torch.autograd.grad(loss, inputs)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(results[0][0].sum(-1), torch.ones(3))


def test_pooling_never_stores_tokens_times_words(head, monkeypatch):
    monkeypatch.setattr(word_assignment, "TOKENS_AT_ONCE", 1)
    hidden_states = torch.randn(4, 5, 40, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.numel()) or tensor, lambda x: x):
        pool_coefficients(head, hidden_states)
    assert max(saved, default=0) <= max(hidden_states.numel(), head.weight.numel())
    assert sum(number == 5 * 60 for number in saved) == 0


def test_the_loss_is_the_cross_entropy_of_images_whose_caption_has_a_word():
    pooled = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [1.0, 0.0, 0.0]])
    targets = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    expected = -(0.5 * torch.tensor(0.5).log() + 0.5 * torch.tensor(0.25).log())
    torch.testing.assert_close(word_assignment_loss(pooled, targets), expected)


def test_nothing_to_predict_and_certain_mistakes_give_finite_losses_and_gradients():
    pooled = torch.tensor([[1.0, 0.0]], requires_grad=True)
    nothing = word_assignment_loss(pooled, torch.zeros(1, 2))
    assert nothing == 0
    wrong = word_assignment_loss(pooled, torch.tensor([[0.0, 1.0]]))
    (nothing + wrong).backward()
    assert wrong.isfinite() and pooled.grad.isfinite().all()
