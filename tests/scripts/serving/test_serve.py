# SPDX-License-Identifier: Apache-2.0
"""scripts/serve.py: OpenAI's own client asks a checkpoint that `transformers serve` alone would not load."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
import torch
from chat_requests import ask, image_part, text_part
from huggingface_hub.utils import httpx
from openai import OpenAI
from paths import SCRIPTS
from tiny_parts import make_image
from transformers import PreTrainedModel, ProcessorMixin

from modeling_langbridge import (
    LangBridgeForConditionalGeneration,
    LangBridgeNextForConditionalGeneration,
    LangBridgeNextProcessor,
    LangBridgeProcessor,
)


pytest_plugins = ["places"]
SCRIPT = SCRIPTS / "serve.py"
Answer = Callable[[list[dict]], str]


def strengthen(model: PreTrainedModel) -> None:
    """Makes a fresh language model mind what it is shown and told; its own weights are too small for that."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.5)


@pytest.fixture(scope="module")
def serve(tmp_path_factory) -> Iterator[Callable[..., tuple[OpenAI, str, Answer]]]:
    """Saves a model and serves it: a client, the model's name there, and what the model itself answers."""
    servers = []

    def serve_one(model: PreTrainedModel, processor: ProcessorMixin) -> tuple[OpenAI, str, Answer]:
        strengthen(model.eval())
        folder = tmp_path_factory.mktemp("served")
        model.save_pretrained(folder / "model")
        processor.save_pretrained(folder / "model")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, SCRIPT, "--model", folder / "model", "--port", port, "--dtype", "float32"]
        with (folder / "log").open("w") as log:
            servers.append(subprocess.Popen(list(map(str, command)), stdout=log, stderr=log))
        url = f"http://127.0.0.1:{port}"
        wait_for(f"{url}/health", folder / "log", servers[-1])

        def answer(messages: list[dict]) -> str:
            inputs = processor.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
            )
            output = model.generate(**inputs, do_sample=False, max_new_tokens=6)
            return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)

        return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0), str(folder / "model"), answer

    yield serve_one
    for server in servers:
        server.kill()
        server.wait()


def wait_for(url: str, log: Path, server: subprocess.Popen) -> None:
    end = time.monotonic() + 200
    while True:
        try:
            httpx.get(url)
            return
        except httpx.ConnectError:
            assert time.monotonic() < end and server.poll() is None, log.read_text()
            time.sleep(0.5)


# As some language models' templates do.
REFUSAL = "{% if messages[0].role == 'system' %}{{ raise_exception('There is no system turn.') }}{% endif %}"


@pytest.fixture(scope="module")
def served(serve, vision, text):
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    processor.chat_template = REFUSAL + processor.chat_template
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor=processor, projector_hidden_size=40
    )
    return serve(model, processor)


def chat(client: OpenAI, name: str, *messages: dict, **fields) -> str:
    """A greedy answer to messages."""
    body = {"model": name, "messages": list(messages), "max_tokens": 6, "temperature": 0, **fields}
    return client.chat.completions.create(**body).choices[0].message.content


def user(*parts: dict) -> dict:
    return ask(*parts)["messages"][0]


def seen(*colours: str, text: str = "what is it?") -> list[dict]:
    """A turn about pictures as the processor takes it."""
    images = [{"type": "image", "image": make_image(colour)} for colour in colours]
    return [{"role": "user", "content": [*images, {"type": "text", "text": text}]}]


def test_answers_are_the_models_own_with_one_picture_two_or_none(served):
    client, name, answer = served
    asked = (("red",), ("blue",), ("red", "blue"), ("blue", "red"), ())
    answers = [chat(client, name, user(*map(image_part, colours), text_part())) for colours in asked]
    assert answers == [answer(seen(*colours)) for colours in asked]
    assert len(set(answers)) == 5, "a language model that minds nothing shows nothing"


def test_a_second_turn_has_the_first_before_it(served):
    client, name, answer = served
    turns = {"role": "assistant", "content": "a ball"}, {"role": "user", "content": "is it red?"}
    second = chat(client, name, user(image_part(), text_part()), *turns)
    assert second == answer([*seen("red"), *turns])
    assert second != chat(client, name, turns[1])


def test_answers_stream_in_pieces(served):
    client, name, answer = served
    body = ask(image_part(), text_part(), model=name, max_tokens=6, temperature=0)
    pieces = [event.choices[0].delta.content for event in client.chat.completions.create(**body, stream=True)]
    assert len(list(filter(None, pieces))) > 1
    assert "".join(filter(None, pieces)) == answer(seen("red"))


def test_the_responses_api_answers_too(served):
    client, name, answer = served
    picture = {"type": "input_image", "image_url": image_part()["image_url"]["url"]}
    asked = [{"role": "user", "content": [picture, {"type": "input_text", "text": "what is it?"}]}]
    body = {"model": name, "input": asked, "max_output_tokens": 6, "temperature": 0}
    # transformers streams where a request does not say.
    assert client.responses.create(**body, stream=False).output_text == answer(seen("red"))
    pieces = [event.delta for event in client.responses.create(**body, stream=True) if "text.delta" in event.type]
    assert "".join(pieces) == answer(seen("red"))


UNREADABLE = {
    "a typed placeholder": ((image_part(), text_part("is <image> red?")), "2 <image> tokens and 1 images"),
    "a typed placeholder alone": ((text_part("<image> red?"),), "1 <image> tokens in the text but no images"),
    "no picture": (
        ({"type": "image_url", "image_url": {"url": "data:image/png;base64,bm9uZQ=="}},),
        "of no format that can be decoded",
    ),
    "no file": (({"type": "image_url", "image_url": {"url": "/no/such.png"}},), "/no/such.png does not exist"),
}


@pytest.mark.parametrize(("parts", "sentence"), UNREADABLE.values(), ids=UNREADABLE.keys())
@pytest.mark.parametrize("stream", [False, True])
def test_what_cannot_be_read_is_the_clients_error_in_one_sentence(served, parts, sentence, stream):
    client, name, _ = served
    with pytest.raises(openai.BadRequestError, match=sentence) as caught:
        client.chat.completions.create(**ask(*parts, model=name, stream=stream))
    assert caught.value.type == "invalid_request_error"
    assert chat(client, name, user(text_part()))  # and the server goes on


def test_turns_that_the_chat_template_refuses_are_the_clients_error(served):
    client, name, _ = served
    with pytest.raises(openai.BadRequestError, match="There is no system turn"):
        chat(client, name, {"role": "system", "content": "be kind"}, user(text_part()))


@pytest.mark.slow
def test_a_langbridge_next_is_served_in_tiles(serve, vision, text):
    pinpoints = [[32, 64], [64, 32]]
    processor = LangBridgeNextProcessor.from_vision_text_pretrained(vision, text, image_grid_pinpoints=pinpoints)
    model = LangBridgeNextForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor=processor, projector_hidden_size=40
    )
    client, name, answer = serve(model, processor)
    wide, tall = ({"type": "image", "image": make_image("red", size)} for size in ((90, 40), (40, 90)))
    asked = [chat(client, name, user(image_part(picture["image"]), text_part())) for picture in (wide, tall)]
    question = {"type": "text", "text": "what is it?"}
    assert asked == [answer([{"role": "user", "content": [picture, question]}]) for picture in (wide, tall)]
    assert asked[0] != asked[1]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("", "the following arguments are required: --model"),
        ("--model absent", "absent must be the folder or Hub id of a LangBridge checkpoint"),
        ("--model {llava}", "not a LangBridge checkpoint"),
        ("--model {raw_with_nan} --port 0", "holds values that are not finite"),
        ("--model {raw} --port 70000", "--host 127.0.0.1 --port 70000 cannot be listened on"),
        ("--model {raw} --port 0 --dtype float9", "Unsupported dtype: 'float9'"),
    ],
)
def test_bad_input_is_one_sentence(refuse, options, sentence):
    refuse(options, sentence)
