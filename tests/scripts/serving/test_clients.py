# SPDX-License-Identifier: Apache-2.0
"""Clients that people have: OpenAI's, huggingface_hub's and curl ask a text server about pictures."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from chat_requests import ask, image_part, text_part
from huggingface_hub import InferenceClient, constants
from huggingface_hub.errors import HfHubHTTPError
from matplotlib.cbook import get_sample_data
from openai import OpenAI
from paths import SCRIPTS
from PIL import Image
from serving_fixtures import start

from modeling_langbridge.adapter.adapter import SHIPPED


pytest_plugins = "serving_fixtures"
PARTS = Path(os.environ.get("LANGBRIDGE_CACHE") or "~/.cache/langbridge/parts").expanduser()
QUESTION = ask(image_part(), text_part(), model="tiny", max_tokens=5)


@pytest.fixture
def client(eyes) -> OpenAI:
    return OpenAI(base_url=str(eyes.base_url.join("/v1")), api_key="sk-secret", max_retries=0)


def test_openais_client_asks_and_streams(client, upstream):
    whole = client.chat.completions.create(**QUESTION).choices[0].message.content
    assert whole and "[Image 1 shows" in upstream.received()[-1]["body"]
    assert dict(upstream.received()[-1]["headers"])["authorization"] == "Bearer sk-secret"
    pieces = [event.choices[0].delta.content for event in client.chat.completions.create(**QUESTION, stream=True)]
    assert len(pieces) > 1 and "".join(pieces) == whole
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_openais_client_raises_its_own_errors(client):
    none = ask({"type": "image_url", "image_url": {"url": "data:image/png;base64,bm9uZQ=="}})
    with pytest.raises(openai.BadRequestError, match="is of no format that can be decoded") as caught:
        client.chat.completions.create(**none)
    assert (caught.value.code, caught.value.param) == ("invalid_image", "messages[0].content[0]")
    with pytest.raises(openai.RateLimitError, match="Too much"):
        client.chat.completions.create(**ask(image_part(), model="refuses"))
    with pytest.raises(openai.APIError, match="broke off"):
        list(client.chat.completions.create(**ask(image_part(), model="breaks off"), stream=True))


def test_huggingfaces_client_asks_and_streams(eyes, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # the server is on this machine
    client = InferenceClient(base_url=str(eyes.base_url.join("/v1")))
    whole = client.chat_completion(**QUESTION).choices[0].message.content
    pieces = [event.choices[0].delta.content for event in client.chat_completion(**QUESTION, stream=True)]
    assert len(pieces) > 1 and "".join(pieces) == whole
    with pytest.raises(HfHubHTTPError, match="has no image"):
        client.chat_completion(**ask({"type": "image_url", "image_url": {}}))


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl_streams(eyes, tmp_path):
    body = ask(image_part(size=(700, 700)), text_part(), model="is slow", stream=True)
    (tmp_path / "chat.json").write_text(json.dumps(body))
    url = str(eyes.base_url.join("/v1/chat/completions"))
    curl = ["curl", "-sN", url, "-H", "Content-Type: application/json", "-d", f"@{tmp_path / 'chat.json'}"]
    with subprocess.Popen(curl, stdout=subprocess.PIPE, text=True) as process:
        lines = [(time.monotonic(), line.strip()) for line in process.stdout if line.strip()]
    assert lines[-1][1] == "data: [DONE]" and "one" in lines[0][1]
    assert lines[-1][0] - lines[0][0] > 0.8


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory) -> Iterator[tuple[str, str]]:
    """`transformers serve` with SmolLM2, and the eyes that ship before it: their address, and the model's name."""
    if missing := [name for name in ("smollm2", "efficientnet_lite0") if not (PARTS / name).is_dir()]:
        pytest.skip(f"no {missing[0]} in {PARTS}: `make parts` fetches it")
    log = tmp_path_factory.mktemp("smollm2")
    model, port = str(PARTS / "smollm2"), "8791"
    command = [Path(sys.executable).with_name("transformers"), "serve", model, "--port", port]
    text_server = subprocess.Popen(command, stdout=(log / "text").open("w"), stderr=subprocess.STDOUT)
    own = ("--adapter", SHIPPED, "--vision_tower", PARTS / "efficientnet_lite0", "--port", 0)
    eyes, line = start(SCRIPTS / "serve_eyes.py", *own, "--upstream", f"http://localhost:{port}/v1", log=log / "eyes")
    url = line.split()[0]
    client = OpenAI(base_url=url, api_key="none", timeout=30)
    end = time.monotonic() + 120
    while True:
        try:
            client.chat.completions.create(model=model, messages=[{"role": "user", "content": "hi"}], max_tokens=1)
            break
        except openai.InternalServerError:
            assert time.monotonic() < end, (log / "text").read_text()
            time.sleep(1)
    yield url, model
    for server in (eyes, text_server):
        server.terminate()
        server.wait()


@pytest.mark.slow
def test_a_real_language_model_tells_who_is_on_a_real_photo(smollm2, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    url, model = smollm2
    photo = Image.open(get_sample_data("grace_hopper.jpg", asfileobj=False))
    question = text_part("Describe the picture in one sentence.")
    body = ask(image_part(photo), question, model=model, max_tokens=40, temperature=0)
    answers = []
    for client in (
        OpenAI(base_url=url, api_key="none").chat.completions.create,
        InferenceClient(base_url=url).chat_completion,
    ):
        answers.append(client(**body).choices[0].message.content)
        answers.append("".join(event.choices[0].delta.content or "" for event in client(**body, stream=True)))
    (tmp_path / "chat.json").write_text(json.dumps({**body, "stream": True}))
    curl = ["curl", "-sN", f"{url}/chat/completions", "-H", "Content-Type: application/json", "-d"]
    printed = subprocess.run([*curl, f"@{tmp_path / 'chat.json'}"], capture_output=True, text=True, check=True).stdout
    events = [json.loads(line[6:]) for line in printed.splitlines() if line.startswith("data: {")]
    answers.append("".join(event["choices"][0]["delta"].get("content") or "" for event in events))
    assert len({*answers}) == 1 and "man" in answers[0], answers
