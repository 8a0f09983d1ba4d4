# SPDX-License-Identifier: Apache-2.0
"""Every way of generating gives what the model's own probabilities say, with an image in the prompt.

The judge is plain: full forward passes over image and text, without cache and without `generate`.
"""

import copy

import pytest
import torch
from tiny_parts import ask, make_image
from transformers import set_seed


NEW = 8


@pytest.fixture
def seeing(model):
    """A model whose every word depends on the image: as they are made, tiny language models repeat their last word."""
    generator = torch.Generator().manual_seed(0)
    torch.nn.init.normal_(model.model.vocabulary_head.weight, generator=generator)
    for name, parameter in model.model.language_model.named_parameters():
        if name.endswith("_proj.weight"):
            torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    model.generation_config.eos_token_id = None
    return model


def prepare(processor, conversations):
    return processor.apply_chat_template(
        conversations,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        add_generation_prompt=True,
        processor_kwargs={"padding": True, "padding_side": "left"},
    )


@pytest.fixture
def inputs(processor):
    """Two prompts of one length with different images."""
    return prepare(processor, [ask(make_image("red")), ask(make_image("black", size=(90, 30)))])


@torch.no_grad()
def plain_greedy(model, inputs) -> torch.Tensor:
    """The `NEW` most probable tokens, one full forward pass each, `(batch, NEW)`."""
    input_ids, pixel_values = inputs.input_ids, inputs.get("pixel_values")
    for _ in range(NEW):
        logits = model(input_ids=input_ids, pixel_values=pixel_values).logits  # (batch, tokens, vocabulary)
        logits[..., model.config.image_token_id] = -torch.inf
        input_ids = torch.cat([input_ids, logits[:, -1:].argmax(-1)], dim=1)
    return input_ids[:, inputs.input_ids.shape[1] :]


@torch.no_grad()
def log_probabilities(model, sequences, pixel_values) -> torch.Tensor:
    """What the model gives to each of the `NEW` last tokens of `sequences`, `(sequences, NEW)`."""
    logits = model(input_ids=sequences, pixel_values=pixel_values).logits[:, -NEW - 1 : -1]
    return logits.log_softmax(-1).gather(-1, sequences[:, -NEW:, None])[..., 0]


def test_what_is_generated_depends_on_the_image(seeing, inputs):
    one, other = plain_greedy(seeing, inputs)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    "way",
    [
        {"use_cache": True},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 5},
    ],
    ids=lambda way: "-".join(map(str, *way.items())),
)
def test_greedy_generation_takes_the_most_probable_tokens(seeing, inputs, way):
    generated = seeing.generate(**inputs, max_new_tokens=NEW, do_sample=False, **way)
    assert torch.equal(generated[:, inputs.input_ids.shape[1] :], plain_greedy(seeing, inputs))


def test_each_prompt_of_a_left_padded_batch_generates_as_it_does_alone(seeing, processor):
    conversations = [
        ask(make_image("red")),
        ask(make_image("black", size=(90, 30)), "describe the whole picture in a few words, please"),
        [{"role": "user", "content": "a text without an image"}],
        [{"role": "user", "content": [{"type": "image", "image": make_image(c)} for c in ("green", "blue")]}],
    ]
    inputs = prepare(processor, conversations)
    generated = seeing.generate(**inputs, max_new_tokens=NEW, do_sample=False)[:, inputs.input_ids.shape[1] :]
    alone = [plain_greedy(seeing, prepare(processor, [conversation])) for conversation in conversations]
    assert torch.equal(generated, torch.cat(alone))


def test_an_assistant_changes_the_pace_only(seeing, inputs):
    one = {name: tensor[:1] for name, tensor in inputs.items()}
    assistant = copy.deepcopy(seeing)
    torch.nn.init.normal_(assistant.lm_head.weight, generator=torch.Generator().manual_seed(1))
    generated = seeing.generate(**one, max_new_tokens=NEW, do_sample=False, assistant_model=assistant)
    assert torch.equal(generated[0, inputs.input_ids.shape[1] :], plain_greedy(seeing, inputs)[0])


def test_prompts_may_be_given_as_embeddings(seeing, inputs):
    embeddings = seeing.get_input_embeddings()(inputs.input_ids)
    generated = seeing.generate(
        inputs_embeds=embeddings,
        attention_mask=inputs.attention_mask,
        pixel_values=inputs.pixel_values,
        max_new_tokens=NEW,
        do_sample=False,
    )
    assert torch.equal(generated, plain_greedy(seeing, inputs))


def test_beams_are_scored_by_their_probability(seeing, inputs):
    found = seeing.generate(
        **inputs,
        max_new_tokens=NEW,
        do_sample=False,
        num_beams=4,
        num_return_sequences=2,
        length_penalty=0.0,
        return_dict_in_generate=True,
        output_scores=True,
    )
    pixel_values = inputs.pixel_values.repeat_interleave(2, dim=0)  # (sequences, channels, height, width)
    scores = log_probabilities(seeing, found.sequences, pixel_values).sum(-1)
    torch.testing.assert_close(found.sequences_scores, scores, atol=1e-4, rtol=1e-4)
    assert len(found.sequences.unique(dim=0)) == 4
    assert (scores[::2] >= scores[1::2]).all()


def test_samples_are_drawn_with_their_probability(seeing, inputs):
    def draw():
        set_seed(0)
        return seeing.generate(
            **inputs,
            max_new_tokens=NEW,
            do_sample=True,
            num_return_sequences=3,
            return_dict_in_generate=True,
            output_logits=True,
        )

    drawn = draw()
    assert torch.equal(drawn.sequences, draw().sequences)
    assert len(drawn.sequences.unique(dim=0)) > 2
    drawn_from = torch.stack(drawn.logits, dim=1).log_softmax(-1)  # (sequences, NEW, vocabulary)
    chosen = drawn_from.gather(-1, drawn.sequences[:, -NEW:, None])[..., 0]  # (sequences, NEW)
    pixel_values = inputs.pixel_values.repeat_interleave(3, dim=0)  # (sequences, channels, height, width)
    expected = log_probabilities(seeing, drawn.sequences, pixel_values)
    torch.testing.assert_close(chosen, expected, atol=1e-4, rtol=1e-4)


def test_images_are_encoded_once_however_much_is_generated(seeing, inputs):
    encoded = []
    seeing.model.vision_tower.register_forward_hook(lambda *_: encoded.append(1))
    seeing.generate(**inputs, max_new_tokens=NEW, do_sample=True, num_return_sequences=3)
    assert len(encoded) == 1
