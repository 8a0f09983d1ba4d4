# SPDX-License-Identifier: Apache-2.0
import os
import runpy
import sys
from pathlib import Path


os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported

import pytest
import torch
from paths import DATA
from tiny_parts import save_language_model, save_vision_tower

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real photos, captions and tokenizers, which is no part of the project."""
    if not DATA.is_dir():
        pytest.skip(f"no real data: set LANGBRIDGE_DATA ({DATA} is not a folder)")
    return DATA


@pytest.fixture(scope="session")
def vision(tmp_path_factory) -> str:
    return save_vision_tower("clip", tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="session")
def text(tmp_path_factory) -> str:
    return save_language_model("qwen2", tmp_path_factory.mktemp("qwen2"))


@pytest.fixture
def processor(vision, text) -> LangBridgeProcessor:
    return LangBridgeProcessor.from_vision_text_pretrained(vision, text)


@pytest.fixture
def model(vision, text, processor) -> LangBridgeForConditionalGeneration:
    torch.manual_seed(0)
    return LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor=processor, projector_hidden_size=40
    )


@pytest.fixture
def run_script(request, monkeypatch, capsys):
    """The test file's `SCRIPT` as a command, in this process: what it prints, or the sentence that it ends with."""
    script = str(request.module.SCRIPT)

    def run(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as end:
            return str(end.code)
        return capsys.readouterr().out

    return run
