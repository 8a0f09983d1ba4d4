# SPDX-License-Identifier: Apache-2.0
"""A text server and `serve_eyes.py` before it, each a process of its own: a pytest plugin."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import pytest
import uvicorn
from huggingface_hub.utils import httpx
from paths import SCRIPTS
from wordy_models import compose

from modeling_langbridge import LangBridgeAdapter
from serving.app import Limits, Proxy, build_app
from serving.seeing import Eyes, open_eyes
from serving.upstream import Upstream
from serving.wording import TEMPLATE


TEXT_SERVER = Path(__file__).with_name("text_server.py")
# As of SmolLM2 and Qwen: it takes strings, and has a special token at either end of a turn.
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|endoftext|>' + message.role + '\n' + message.content + '<|endoftext|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|endoftext|>assistant\n' }}{% endif %}"
)


def start(*command: object, log: Path) -> tuple[subprocess.Popen, str]:
    """Starts a server; returns it and the first line that it prints."""
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, *map(str, command)],
            stdout=subprocess.PIPE,
            stderr=file,
            stdin=subprocess.DEVNULL,
            text=True,
        )
    line = server.stdout.readline().strip()
    assert line, log.read_text()
    return server, line


class TextServer:
    """The text server of text_server.py: its `url`, and what it saw."""

    def __init__(self, url: str):
        self.url = url

    def received(self) -> list[dict]:
        return httpx.get(f"{self.url}/received").json()

    def stopped(self) -> list[str]:
        return httpx.get(f"{self.url}/stopped").json()


@pytest.fixture(scope="session")
def parts(vision, text, tmp_path_factory) -> tuple[Path, str]:
    """A grounded adapter and its vision tower."""
    folder = tmp_path_factory.mktemp("parts")
    model, processor = compose(vision, text, coefficient_activation="gated_softmax")
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(folder / "adapter")
    return folder / "adapter", vision


@pytest.fixture(scope="session")
def language_model(text, tmp_path_factory) -> Path:
    """A language model with a chat template."""
    folder = tmp_path_factory.mktemp("language_model") / "model"
    shutil.copytree(text, folder)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    return folder


@pytest.fixture(scope="session")
def upstream(language_model, tmp_path_factory) -> Iterator[TextServer]:
    """The text server with that language model."""
    server, url = start(TEXT_SERVER, language_model, log=tmp_path_factory.mktemp("upstream") / "log")
    yield TextServer(url)
    server.kill()
    server.wait()


@pytest.fixture(scope="session")
def serve(parts, tmp_path_factory) -> Iterator[Callable[..., tuple[str, Path, subprocess.Popen]]]:
    """Starts `serve_eyes.py` before an upstream; returns its address, its log and its process."""
    servers = []

    def serve_one(upstream_url: str, *options: object) -> tuple[str, Path, subprocess.Popen]:
        log = tmp_path_factory.mktemp("eyes") / "log"
        own = ("--adapter", parts[0], "--vision_tower", parts[1], "--upstream", f"{upstream_url}/v1", "--port", 0)
        server, line = start(SCRIPTS / "serve_eyes.py", *own, *options, log=log)
        servers.append(server)
        return line.partition("/v1")[0], log, server

    yield serve_one
    for server in servers:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def serve_here(parts) -> Iterator[Callable[..., str]]:
    """Serves with other settings, in a thread of this process, which is faster; returns the address."""
    servers = []

    def serve_one(
        upstream_url: str,
        *,
        num_words: int = 8,
        sure: float = 0.04,
        max_pixels: int = 10**7,
        timeout: float = 60,
        template: str = TEMPLATE,
        limits: Limits = Limits(max_images=32, max_bytes=2**25, allow_web_images=False),  # noqa: B008
    ) -> str:
        seeing = Eyes(*open_eyes(str(parts[0]), parts[1], num_words), sure, max_pixels)
        app = build_app(Proxy(seeing, Upstream(f"{upstream_url}/v1", timeout), template, limits))
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
        thread = Thread(target=server.run, args=([listening],))
        thread.start()
        servers.append((server, thread, listening))
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield serve_one
    for server, thread, listening in servers:
        server.should_exit = True
        thread.join()
        listening.close()


@pytest.fixture(scope="session")
def eyes(serve, upstream) -> Iterator[httpx.Client]:
    """A client of `serve_eyes.py` with its defaults."""
    url, *_ = serve(upstream.url)
    with httpx.Client(base_url=url, timeout=60) as client:
        yield client
