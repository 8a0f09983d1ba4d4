# SPDX-License-Identifier: Apache-2.0
"""An image's patches pooled to one distribution over the words, and its strongest words handed over instead."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from largest_tensor import LargestTensor
from tiny_parts import SENTENCES, ask, make_image

from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeConfig,
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
    SharedVocabulary,
)
from trainer.callbacks.photo_preview import PhotoPreviewCallback
from trainer.model_loading import ModelArguments, compose


@pytest.fixture
def make_head(model):
    def make(num_words: int, activation: str = "gated_softmax"):
        fields = {**model.config.to_dict(), "coefficient_activation": activation, "bridge_vocab_size": num_words}
        fields["text_config"]["vocab_size"] = max(512, num_words)
        head = type(model.model.vocabulary_head)(LangBridgeConfig(**fields))
        generator = torch.Generator().manual_seed(0)
        for parameter in head.parameters():
            torch.nn.init.normal_(parameter, std=40**-0.5, generator=generator)
        return head

    return make


def plain_pooling(head, hidden_states):
    logits = hidden_states @ head.weight.T + head.bias  # (images, tokens, V)
    softmax = logits.softmax(-1)
    gates = (hidden_states @ head.gate_weight.T + head.gate_bias).sigmoid() if head.gate_weight is not None else 1.0
    gates = gates * torch.ones_like(hidden_states[..., :1])
    entropy = -(softmax * softmax.log()).sum(-1, keepdim=True)
    weighted = [(gates * of).sum(1) / gates.sum(1) for of in (softmax, entropy)]
    return weighted[0], weighted[1][:, 0], logits.exp().sum(-1).log()


def assert_pooled_alike(head, hidden_states, pools) -> None:
    """Compares what two ways of pooling give, and the gradients of all that goes in."""
    inputs = [hidden_states, *head.parameters()]
    images, tokens, _ = hidden_states.shape
    results = []
    for pool in pools:
        pooled, entropy, log_totals = pool(head, hidden_states)
        loss = (pooled * torch.linspace(-1, 1, len(head.weight))).sum() + (entropy * torch.arange(images)).sum()
        loss = loss + (log_totals * torch.linspace(-1, 1, tokens)).sum()
        results.append((pooled, entropy, log_totals, *torch.autograd.grad(loss, inputs)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(results[0][0].sum(-1), torch.ones(images))


@pytest.mark.parametrize("activation", ["gated_softmax", "softmax"])
def test_pooling_equals_the_plain_one_forward_and_gradient(make_head, activation):
    hidden_states = torch.randn(3, 5, 40, requires_grad=True)
    head = make_head(60, activation)
    assert_pooled_alike(head, hidden_states, [type(head).pool, plain_pooling])


def test_pooling_of_many_coefficients_equals_the_plain_one_and_stores_none_of_them(make_head):
    head = make_head(8400)
    hidden_states = torch.randn(2, 1040, 40, requires_grad=True)
    whole = 2 * 1040 * 8400
    saved = []

    def watched(head, hidden_states):
        with torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: saved.append(tensor.numel()) or tensor, lambda x: x
        ):
            return head.pool(hidden_states)

    with LargestTensor() as largest, torch.no_grad():
        head.pool(hidden_states)
    assert largest.numel <= 2**24 < whole
    assert_pooled_alike(head, hidden_states, [watched, plain_pooling])
    assert max(saved) <= head.weight.numel() < whole // 2


@pytest.fixture
def picking(vision, text):
    """A composed model that hands five words of an image over, with an adapter as random as if it had been trained."""
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text, words_per_image=5)
    vocabulary = SharedVocabulary.build([processor.tokenizer], SENTENCES, 60)
    torch.manual_seed(0)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, vocabulary, processor, projector_hidden_size=40, coefficient_activation="gated_softmax"
    )
    for parameter in (*model.model.multi_modal_projector.parameters(), *model.model.vocabulary_head.parameters()):
        torch.nn.init.normal_(parameter)
    return model, processor


def inputs_of(processor, *seeds):
    conversations = [ask(make_image(seed)) for seed in seeds]
    return processor.apply_chat_template(
        conversations,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True},
    )


def test_visual_tokens_are_the_embeddings_of_the_strongest_pooled_words(picking):
    model, processor = picking
    inputs = inputs_of(processor, 0, 1)
    assert (inputs["input_ids"] == processor.image_token_id).sum(1).tolist() == [5, 5]
    pixel_values = 20 * torch.randn(inputs["pixel_values"].shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens = torch.stack(model.get_image_features(pixel_values).pooler_output)  # (2, 5, d)
        coefficients = model.get_image_coefficients(pixel_values)  # (2, patches, V)
    pooled = coefficients.sum(1) / coefficients.sum((1, 2))[:, None]
    head = model.model.vocabulary_head
    expected = model.get_input_embeddings()(head.token_ids[pooled.topk(5).indices])
    torch.testing.assert_close(tokens, expected)
    assert not tokens[0].equal(tokens[1])


def test_the_caption_loss_strengthens_the_words_that_help_it(picking):
    model, processor = picking
    inputs = inputs_of(processor, 0)
    model.train()
    head = model.model.vocabulary_head
    seen = []
    head.register_forward_hook(lambda module, given, output: seen.append((given[0], output)) or output.retain_grad())
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    hidden_states, tokens = seen[0]
    strengths = head.pool(hidden_states)[0].topk(5).values
    by_hand = torch.autograd.grad((strengths.log() * (tokens * tokens.grad).sum(-1).detach()).sum(), head.weight)[0]
    torch.testing.assert_close(head.weight.grad, by_hand)
    assert head.weight.grad.abs().sum() > 0


def test_it_generates_saves_and_loads_with_its_processor(picking, tmp_path):
    model, processor = picking
    inputs = inputs_of(processor, 0, 1)
    answer = model.generate(**inputs, do_sample=False, max_new_tokens=5)
    for part in picking:
        part.save_pretrained(tmp_path)
    loaded = LangBridgeForConditionalGeneration.from_pretrained(tmp_path)
    again = LangBridgeProcessor.from_pretrained(tmp_path)
    assert again.words_per_image == loaded.config.words_per_image == again.num_image_tokens == 5
    assert loaded.generate(**inputs_of(again, 0, 1), do_sample=False, max_new_tokens=5).equal(answer)


def test_a_saved_adapter_can_be_read_either_way(picking, vision, text, tmp_path):
    model, processor = picking
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / "adapter")
    adapter = LangBridgeAdapter.from_pretrained(tmp_path / "adapter")
    (by_patches, _), (by_words, _) = (adapter.join(vision, text, words_per_image=words) for words in (None, 5))
    pixel_values = inputs_of(processor, 0)["pixel_values"]
    with torch.no_grad():
        expected, found, patches = (
            each.get_image_features(pixel_values).pooler_output[0] for each in (model, by_words, by_patches)
        )
    assert found.equal(expected) and len(patches) > 5


def test_the_preview_names_the_words_but_writes_none_on_patches(picking, tmp_path):
    model, processor = picking
    callback = PhotoPreviewCallback(processor, [make_image("red")], 1, tmp_path, max_new_tokens=2)
    photos, words = callback.measure(model)
    assert words == [None] and len(photos[0]["words"]) == 5
    assert photos[0]["word_closeness"] == pytest.approx(1)  # a visual token is a word
    callback.write({"step": 0, "photos": photos, "word_closeness": 1.0, "visual_token_length": 1.0}, words)
    assert (tmp_path / "preview" / "step-000000.png").is_file()


@pytest.mark.parametrize("adapter", [None, "adapter"])
def test_the_training_script_hands_words_over(picking, vision, text, tmp_path, adapter):
    model, processor = picking
    options = {"words_per_image": 4}
    if adapter is None:
        SharedVocabulary.build([processor.tokenizer], SENTENCES, 60).save(tmp_path / "words.json")
        options |= {"vocabulary": str(tmp_path / "words.json"), "coefficient_activation": "softmax"}
    else:
        LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(tmp_path / adapter)
        options["adapter"] = str(tmp_path / adapter)
    arguments = ModelArguments(vision_tower=vision, language_model=text, projector_hidden_size=40, **options)
    composed, its_processor = compose(arguments)
    assert composed.config.words_per_image == its_processor.num_image_tokens == 4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"coefficient_activation": "linear", "words_per_image": 5}, "set `coefficient_activation`"),
        ({"coefficient_activation": "softmax", "words_per_image": 0}, "`words_per_image` is 0"),
        ({"coefficient_activation": "softmax", "words_per_image": 101}, "between 1 and `bridge_vocab_size`"),
    ],
)
def test_a_number_of_words_that_cannot_be_is_refused(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        LangBridgeConfig(bridge_vocab_size=100, **fields)
