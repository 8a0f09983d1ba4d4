# SPDX-License-Identifier: Apache-2.0
import copy
import gc
import os
from pathlib import Path

from paths import DATA, ROOT


os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when huggingface_hub is imported
# Child processes, too, import the project from here, wherever the one that is installed lies.
os.environ["PYTHONPATH"] = os.pathsep.join(
    [str(ROOT), str(ROOT / "tests" / "child_processes"), *filter(None, [os.environ.get("PYTHONPATH")])]
)

import pytest
import torch
from in_process import run_script_here
from tiny_parts import make_image, save_language_model, save_vision_tower

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor


gc.set_threshold(10_000)  # as child_processes/sitecustomize.py


def pytest_collection_finish() -> None:
    """
    Takes what the imports have made out of garbage collection, which else walks millions of objects that stay: a third
    of a second for every training, as accelerate collects at its start.
    """
    gc.collect()
    gc.freeze()


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


@pytest.fixture(scope="session")
def composed(vision, text) -> tuple[LangBridgeForConditionalGeneration, LangBridgeProcessor, torch.Tensor]:
    """A model, its processor, and the state of the random numbers after; tests are given copies."""
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    torch.manual_seed(0)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor=processor, projector_hidden_size=40
    )
    return model, processor, torch.get_rng_state()


@pytest.fixture
def processor(composed) -> LangBridgeProcessor:
    return copy.deepcopy(composed[1])


@pytest.fixture
def model(composed) -> LangBridgeForConditionalGeneration:
    torch.set_rng_state(composed[2])
    return copy.deepcopy(composed[0])


@pytest.fixture
def run_script(request):
    """The test file's `SCRIPT` as a command, in this process: what it prints, or the sentence that it ends with."""

    def run(*arguments) -> str:
        result = run_script_here(request.module.SCRIPT, *arguments)
        return result.stderr.rstrip("\n").rpartition("\n")[2] if result.returncode else result.stdout

    return run


@pytest.fixture
def saved(model, processor, tmp_path) -> Path:
    """A folder with a saved `model` and a photo, `picture.png`."""
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    make_image().save(tmp_path / "picture.png")
    return tmp_path
