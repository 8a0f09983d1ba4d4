# SPDX-License-Identifier: Apache-2.0
"""The optimised ways to mix word embeddings against the plain one, forward and gradient."""

import pytest
import torch
from largest_tensor import LargestTensor
from transformers import CLIPVisionConfig, Qwen2Config

from modeling_langbridge import LangBridgeConfig
from modeling_langbridge.vocabulary_head import LangBridgeVocabularyHead


H, V, D = 12, 40, 10


def make_head(activation: str = "linear", dtype: torch.dtype = torch.float64, V: int = V) -> LangBridgeVocabularyHead:
    torch.manual_seed(0)
    config = LangBridgeConfig(
        vision_config=CLIPVisionConfig(),
        text_config=Qwen2Config(),
        projector_hidden_size=H,
        bridge_vocab_size=V,
        coefficient_activation=activation,
    )
    head = LangBridgeVocabularyHead(config).to(dtype)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head


def outputs_and_gradients(mix, head, hidden, embeddings):
    hidden = hidden.clone().requires_grad_()
    head.zero_grad()
    output = mix(hidden, embeddings)
    output.sin().sum().backward()  # sin: a different gradient for every output
    return [output.detach(), hidden.grad, *(parameter.grad.clone() for parameter in head.parameters())]


@pytest.mark.parametrize("num_tokens", [1, 3, 200])
@pytest.mark.parametrize("activation", ["linear", "softmax", "gated_softmax"])
def test_the_mixture_equals_the_coefficients_times_the_embeddings(activation, num_tokens):
    head, hidden, embeddings = (
        make_head(activation),
        torch.randn(2, num_tokens, H).double(),
        torch.randn(V, D).double(),
    )
    plain = outputs_and_gradients(lambda h, e: head.get_coefficients(h) @ e, head, hidden, embeddings)
    optimised = outputs_and_gradients(head, head, hidden, embeddings)
    torch.testing.assert_close(optimised, plain, atol=1e-12, rtol=1e-12)


def test_the_softmax_is_right_for_large_logits():
    head, hidden, embeddings = make_head("softmax", torch.float32, V=5000), torch.randn(7, H), torch.randn(5000, D)
    with torch.no_grad():
        head.weight[3000] += 100 * hidden[0]
    plain = outputs_and_gradients(lambda h, e: head.get_coefficients(h) @ e, head, hidden, embeddings)
    torch.testing.assert_close(outputs_and_gradients(head, head, hidden, embeddings), plain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("grad", [True, False])
def test_the_order_is_the_one_of_fewer_multiply_adds(grad):
    head = make_head()
    with torch.set_grad_enabled(grad):
        crossover = (
            2 * H * V * D / (3 * H * V + 2 * V * D - 3 * H * D) if grad else H * V * D / (H * V + V * D - H * D)
        )
        assert not head.reassociation_pays(int(crossover), D)
        assert head.reassociation_pays(int(crossover) + 1, D)


def test_the_crossover_at_the_papers_sizes_is_559_tokens():
    head = torch.nn.Module()
    head.weight = torch.nn.Parameter(torch.empty(19200, 5120, device="meta"))
    pays = [n for n in range(550, 570) if LangBridgeVocabularyHead.reassociation_pays(head, n, 896)]
    assert pays[0] == 559


@pytest.mark.parametrize("activation", ["linear", "softmax", "gated_softmax"])
def test_training_never_builds_tokens_times_words(activation):
    tokens, words = 4000, 6000
    head = make_head(activation, torch.float32, V=words)
    hidden, embeddings = torch.randn(tokens, H, requires_grad=True), torch.randn(words, D)
    with LargestTensor() as largest:
        head(hidden, embeddings).sum().backward()
    assert largest.numel <= 2**24 < tokens * words


def test_no_gradient_reaches_the_language_models_embeddings_through_the_words(model):
    model.train()
    features = torch.randn(1, 16, 24)
    model.model.adapt(features).sum().backward()
    assert model.model.vocabulary_head.weight.grad.abs().sum() > 0
    assert model.get_input_embeddings().weight.grad is None


@pytest.mark.parametrize("activation", ["linear", "softmax", "gated_softmax"])
def test_bfloat16_stays_close_to_float32(activation):
    head = make_head(activation, torch.float32, V=3000)
    hidden, embeddings = torch.randn(500, H), torch.randn(3000, D)
    exact = head(hidden, embeddings)
    rounded = head.bfloat16()(hidden.bfloat16(), embeddings.bfloat16()).float()
    assert (rounded - exact).norm() / exact.norm() < 0.02
