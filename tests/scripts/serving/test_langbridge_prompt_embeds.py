# SPDX-License-Identifier: Apache-2.0
"""Visual tokens sent to a server of the language model alone: it computes what the LangBridge itself does."""

import openai
import pytest
import torch
from huggingface_hub.utils import httpx
from tiny_parts import make_image
from wordy_models import compose

from serving.langbridge_prompt_embeds import langbridge_prompt_embeds


pytest_plugins = "serving_fixtures"
FORMS = {
    "linear": {},
    "softmax": {"coefficient_activation": "softmax"},
    "gated": {"coefficient_activation": "gated_softmax"},
    "words": {"coefficient_activation": "gated_softmax", "words_per_image": 3},
    "mlp": {"adapter_type": "mlp"},
}
QUESTION = "what is in the picture?"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_the_servers_logits_are_the_models_own(upstream, vision, language_model, form):
    model, processor = compose(vision, str(language_model), **form)
    images = [make_image("red"), make_image("blue", size=(60, 30))]
    before = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}]
    part = langbridge_prompt_embeds(model, processor, images, QUESTION)
    answer = httpx.post(f"{upstream.url}/logits", json={"messages": [*before, {"role": "user", "content": [part]}]})
    blocks = [{"type": "image", "image": image} for image in images]
    asked = {"role": "user", "content": [*blocks, {"type": "text", "text": QUESTION}]}
    inputs = processor.apply_chat_template(
        [*before, asked], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(**inputs).logits[0, -1]
    torch.testing.assert_close(torch.tensor(answer.json()), expected, atol=1e-5, rtol=1e-5)
    other = langbridge_prompt_embeds(model, processor, images[::-1], QUESTION)
    answer = httpx.post(f"{upstream.url}/logits", json={"messages": [*before, {"role": "user", "content": [other]}]})
    assert (torch.tensor(answer.json()) - expected).abs().max() > 1e-4


def test_a_text_alone_is_what_the_server_reads_itself(upstream, vision, language_model):
    model, processor = compose(vision, str(language_model))
    part = langbridge_prompt_embeds(model, processor, [], QUESTION)
    contents = ([part], QUESTION)
    answers = [
        httpx.post(f"{upstream.url}/logits", json={"messages": [{"role": "user", "content": content}]}).json()
        for content in contents
    ]
    torch.testing.assert_close(*map(torch.tensor, answers))


def test_openais_client_sends_it(upstream, vision, language_model):
    model, processor = compose(vision, str(language_model))
    client = openai.OpenAI(base_url=f"{upstream.url}/v1", api_key="none")
    part = langbridge_prompt_embeds(model.to(torch.bfloat16), processor, [make_image()], QUESTION)
    messages = [{"role": "user", "content": [part]}]
    answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
    assert answer.choices[0].message.content
