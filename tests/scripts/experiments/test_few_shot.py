# SPDX-License-Identifier: Apache-2.0
"""A language model after examples: as if prompt and examples were read anew each time."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from experiments.flickr8k.few_shot import FewShot
from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor


EXAMPLES = ["Words: dog ball\nCaption: a dog and a ball\n\n"]
PROMPTS = ["Words: man\nCaption:", "Words: children water two\nCaption:", "Words: red\nCaption:"]


@pytest.fixture(scope="module")
def few_shot(vision, text) -> FewShot:
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor=processor, projector_hidden_size=40
    )
    return FewShot(model.eval(), processor, EXAMPLES)


@pytest.fixture(scope="module")
def language_model(text):
    return AutoModelForCausalLM.from_pretrained(text)


def full_prompt(few_shot: FewShot, prompt: str) -> torch.Tensor:
    # Tokenized in the same pieces, since a tokenizer may join what meets.
    return torch.tensor([few_shot.encode(EXAMPLES[0]) + few_shot.encode(prompt)])


def test_what_it_writes_is_what_the_language_model_writes_after_the_whole_text(few_shot, language_model):
    written = few_shot.complete([few_shot.embed([prompt]) for prompt in PROMPTS], max_new_tokens=6, batch_size=2)
    for prompt, answer in zip(PROMPTS, written, strict=True):
        ids = full_prompt(few_shot, prompt)
        output = language_model.generate(input_ids=ids, do_sample=False, max_new_tokens=6)[0, ids.shape[1] :]
        expected = few_shot.tokenizer.decode(output, skip_special_tokens=True)
        assert answer == " ".join(expected.split("\n")[0].split())
    assert any(written)


def test_words_that_are_likelier_are_written_in_each_row_by_itself(few_shot):
    prompts = [few_shot.embed([prompt]) for prompt in PROMPTS]
    plain = few_shot.complete(prompts, max_new_tokens=6, batch_size=2)
    words = [few_shot.encode(" dog"), *([] for _ in PROMPTS[1:])]
    named = few_shot.complete(prompts, max_new_tokens=6, batch_size=2, words=words, word_bias=100.0)
    assert named[0].split()[0] == "dog" and named[1:] == plain[1:]


def test_answers_are_rated_by_the_likelihood_of_their_first_tokens(few_shot, language_model):
    choices = [" a", " the", " dog"]
    first = [few_shot.encode(choice)[0] for choice in choices]
    with torch.no_grad():
        last = [language_model(input_ids=full_prompt(few_shot, prompt)).logits[0, -1] for prompt in PROMPTS]
        expected = torch.stack(last).log_softmax(-1)[:, first]
    prompts = [few_shot.embed([prompt]) for prompt in PROMPTS]
    torch.testing.assert_close(few_shot.rate(prompts, choices, batch_size=2), expected)


def test_visual_tokens_may_stand_among_the_text(few_shot):
    words = few_shot.look_up(few_shot.encode(" dog ball"))
    mixed, text = (
        few_shot.embed(["Words:", words, "\nCaption:"]),
        few_shot.embed(["Words:", " dog ball", "\nCaption:"]),
    )
    assert torch.equal(mixed, text)


def test_without_examples_the_prompt_is_all_that_is_read(few_shot, language_model):
    alone = FewShot(few_shot.model, few_shot)
    loss = alone.losses([alone.embed([PROMPTS[0]])], [" a man"])
    prompt, answer = few_shot.encode(PROMPTS[0]), few_shot.encode(" a man")
    labels = torch.tensor([[-100] * len(prompt) + answer])
    with torch.no_grad():
        expected = language_model(input_ids=torch.tensor([prompt + answer]), labels=labels).loss
    torch.testing.assert_close(loss[0], expected)


def test_in_bfloat16_it_reads_as_the_language_model_does_under_autocast(few_shot, language_model):
    half = FewShot(copy.deepcopy(few_shot.model), few_shot, EXAMPLES, bf16=True)
    prompts = [half.embed([prompt]) for prompt in PROMPTS]
    with torch.no_grad():
        found = half.read(prompts)
        with torch.autocast("cpu", torch.bfloat16):
            expected = language_model.model(full_prompt(few_shot, PROMPTS[0])).last_hidden_state
    count = len(prompts[0])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0, :count], expected[0, -count:].float(), atol=0.02, rtol=0.02)


def test_in_bfloat16_losses_and_captions_come_from_a_bfloat16_output_layer_and_the_embeddings_stay(few_shot):
    half = FewShot(copy.deepcopy(few_shot.model), few_shot, EXAMPLES, bf16=True)
    again = FewShot(half.model, few_shot, EXAMPLES, bf16=True)
    assert half.model.lm_head.weight.dtype == torch.bfloat16
    assert torch.equal(half.model.get_input_embeddings().weight, few_shot.model.get_input_embeddings().weight)
    prompts, answers = [half.embed([prompt]) for prompt in PROMPTS], [" a man", " two dogs play", " a"]
    expected = few_shot.losses(prompts, answers)
    for one in (half, again):
        torch.testing.assert_close(one.losses(prompts, answers), expected, atol=0.02, rtol=0.02)
        assert len(one.complete(prompts, max_new_tokens=3)) == len(prompts)
