# SPDX-License-Identifier: Apache-2.0
"""A running Space and the browser that visits it: a pytest plugin that two test files share."""

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
from paths import ROOT
from playwright.sync_api import expect
from tiny_parts import ask, make_image, save_language_model, save_vision_tower
from wordy_models import compose

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor


SPACE = ROOT / "hub_cards" / "space"
expect.set_options(timeout=20_000)
pytest_plugins = "browsing"


def start(folder: Path, tmp_path: Path, **settings: str) -> tuple[subprocess.Popen, str]:
    """Starts the app as the Hub does, from a copy of its folder alone; returns it and its address."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    settings |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(tmp_path / "gradio")}
    app = subprocess.Popen(
        [sys.executable, "app.py"],
        cwd=folder,
        env=os.environ | settings,
        stdout=subprocess.PIPE,
        stderr=(tmp_path / "log").open("w"),
        text=True,
    )
    for line in app.stdout:
        if "Running on local URL" in line:
            return app, f"http://127.0.0.1:{port}"
    raise AssertionError(f"the app ended with {app.wait()}")


@pytest.fixture
def visit(open_page):
    """Opens the Space's page, which asks no other host for anything."""
    return lambda address: open_page(address, address, "data:", "blob:")


@dataclass
class Demonstration:
    """A model, and the Space that shows it: its address, its process, and the folder with its files and its log."""

    model: LangBridgeForConditionalGeneration
    processor: LangBridgeProcessor
    address: str
    app: subprocess.Popen
    folder: Path

    def log(self) -> str:
        return (self.folder / "log").read_text()


@dataclass
class Visitor:
    """A visitor without a browser, who sends what they like; a session of their own."""

    address: str
    session: str = field(default_factory=lambda: uuid4().hex)

    def __post_init__(self):
        self.client = httpx.Client(base_url=f"{self.address}/gradio_api", timeout=60)
        config = self.client.get(f"{self.address}/config").json()
        self.functions = {function["api_name"]: function["id"] for function in config["dependencies"]}

    def upload(self, file: Path) -> dict:
        answer = self.client.post("/upload", files={"files": (file.name, file.read_bytes())})
        return {"path": answer.raise_for_status().json()[0], "meta": {"_type": "gradio.FileData"}}

    def join(self, function: str, *data, **fields) -> httpx.Response:
        body = {"data": data, "fn_index": self.functions[function], "session_hash": self.session, **fields}
        return self.client.post("/queue/join", json=body)

    def listen(self) -> Iterator[dict]:
        with self.client.stream("GET", "/queue/data", params={"session_hash": self.session}) as lines:
            for line in lines.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line.removeprefix("data:"))

    def send(self, function: str, *data, **fields) -> str:
        """Calls one of the page's functions; returns what it warns of, its error, or else its output."""
        self.join(function, *data, **fields).raise_for_status()
        said = []
        for message in self.listen():
            if message["msg"] == "log":
                said.append(message["log"])
            elif message["msg"] == "process_completed":
                output = message["output"]
                said.append(output.get("error") or json.dumps(output.get("data"), ensure_ascii=False))
        return said[0]


@pytest.fixture(scope="session")
def grounded(tmp_path_factory):
    """A model that hands over four words, and the Space that shows it."""
    folder = tmp_path_factory.mktemp("space")
    vision = save_vision_tower("clip", folder / "clip")
    text = save_language_model("qwen2.5", folder / "qwen2.5")
    model, processor = compose(vision, text, words_per_image=4, coefficient_activation="gated_softmax")
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    shutil.copytree(SPACE, folder / "space", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "space" / "photos").mkdir()
    make_image().save(folder / "space" / "photos" / "ball.png")
    app, address = start(folder / "space", folder, MODEL_ID=str(folder / "model"))
    yield Demonstration(model, processor, address, app, folder)
    app.terminate()
    app.wait()


def answer(model, processor, question: str, colour: str = "red") -> str:
    inputs = processor.apply_chat_template(
        ask(make_image(colour), question),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = model.generate(**inputs, do_sample=False, max_new_tokens=128)
    return processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


@pytest.fixture
def space_modules(monkeypatch):
    """The Space's modules, importable as the app itself has them."""
    monkeypatch.syspath_prepend(SPACE)
    return importlib.import_module("app")
