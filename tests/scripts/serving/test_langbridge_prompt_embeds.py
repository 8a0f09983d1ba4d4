# SPDX-License-Identifier: Apache-2.0
"""Visual tokens sent to a server of the language model alone: it computes what the LangBridge itself does."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import torch
from huggingface_hub.utils import httpx
from serving_fixtures import TEXT_SERVER, TextServer, start
from tiny_parts import make_image
from wordy_models import compose

from serving.langbridge_prompt_embeds import langbridge_prompt_embeds


pytest_plugins = "serving_fixtures"
# As of SmolLM2 and Qwen: strings, with a special token at either end of a turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|endoftext|>' + message.role + '\n' + message.content + '<|endoftext|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|endoftext|>assistant\n' }}{% endif %}"
)
FORMS = {
    "linear": {},
    "softmax": {"coefficient_activation": "softmax"},
    "gated": {"coefficient_activation": "gated_softmax"},
    "words": {"coefficient_activation": "gated_softmax", "words_per_image": 3},
    "mlp": {"adapter_type": "mlp"},
}
QUESTION = "what is in the picture?"


@pytest.fixture(scope="module")
def language_model(text, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("language_model") / "model"
    shutil.copytree(text, folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


@pytest.fixture(scope="module")
def server(language_model, tmp_path_factory) -> Iterator[TextServer]:
    process, url = start(TEXT_SERVER, language_model, log=tmp_path_factory.mktemp("server") / "log")
    yield TextServer(url)
    process.kill()
    process.wait()


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_the_servers_logits_are_the_models_own(server, vision, language_model, form):
    model, processor = compose(vision, str(language_model), **form)
    images = [make_image("red"), make_image("blue", size=(60, 30))]
    before = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "yes"}]
    part = langbridge_prompt_embeds(model, processor, images, QUESTION)
    answer = httpx.post(f"{server.url}/logits", json={"messages": [*before, {"role": "user", "content": [part]}]})
    blocks = [{"type": "image", "image": image} for image in images]
    asked = {"role": "user", "content": [*blocks, {"type": "text", "text": QUESTION}]}
    inputs = processor.apply_chat_template(
        [*before, asked], add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    with torch.no_grad():
        expected = model(**inputs).logits[0, -1]
    torch.testing.assert_close(torch.tensor(answer.json()), expected, atol=1e-5, rtol=1e-5)
    other = langbridge_prompt_embeds(model, processor, images[::-1], QUESTION)
    answer = httpx.post(f"{server.url}/logits", json={"messages": [*before, {"role": "user", "content": [other]}]})
    assert (torch.tensor(answer.json()) - expected).abs().max() > 1e-4


def test_a_text_alone_is_what_the_server_reads_itself(server, vision, language_model):
    model, processor = compose(vision, str(language_model))
    part = langbridge_prompt_embeds(model, processor, [], QUESTION)
    contents = ([part], QUESTION)
    answers = [
        httpx.post(f"{server.url}/logits", json={"messages": [{"role": "user", "content": content}]}).json()
        for content in contents
    ]
    torch.testing.assert_close(*map(torch.tensor, answers))


def test_openais_client_sends_it(server, vision, language_model):
    model, processor = compose(vision, str(language_model))
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none")
    part = langbridge_prompt_embeds(model.to(torch.bfloat16), processor, [make_image()], QUESTION)
    messages = [{"role": "user", "content": [part]}]
    answer = client.chat.completions.create(model="tiny", messages=messages, max_tokens=4)
    assert answer.choices[0].message.content
