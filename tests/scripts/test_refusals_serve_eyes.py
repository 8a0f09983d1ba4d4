# SPDX-License-Identifier: Apache-2.0
"""Bad input to scripts/serve_eyes.py: each kind ends with one sentence, before anything is served."""

import socket

import pytest
from paths import SCRIPTS
from refusals import assert_refused
from tiny_parts import save_language_model, save_vision_tower
from wordy_models import compose

from modeling_langbridge import LangBridgeAdapter


ADAPTER, TOWER = ["--adapter", "adapter"], ["--vision_tower", "tower"]
UP = ["--upstream", "http://localhost:9/v1"]
GOOD = [*ADAPTER, *TOWER, *UP, "--port", "0"]
REFUSED = {
    "nothing": ([], "arguments are required: --adapter, --vision_tower, --upstream"),
    "no URL": ([*GOOD, "--upstream", "localhost:8000"], "--upstream localhost:8000 is no URL: give one such as"),
    "no adapter": ([*GOOD, "--adapter", "none"], "none"),
    "a tower as an adapter": ([*GOOD, "--adapter", "tower"], "tower"),
    "no tower": ([*GOOD, "--vision_tower", "none"], "none"),
    "a language model as a tower": ([*GOOD, "--vision_tower", "text"], "text"),
    "a tower that does not fit": ([*GOOD, "--vision_tower", "other"], "does not fit"),
    "raw coefficients": (
        [*GOOD, "--adapter", "raw"],
        "raw has raw coefficients, which do not read as words: give one",
    ),
    "no words": ([*GOOD, "--words", "0"], "--words is 0, but must be from 1 to the adapter's"),
    "too many words": ([*GOOD, "--words", "5000"], "--words is 5000, but must be from 1 to the adapter's"),
    "a template without words": ([*GOOD, "--template", "words"], r"--template has no \{words\} in it"),
    "a share above one": ([*GOOD, "--sure", "4"], "--sure is 4, but must be a share from 0 to 1"),
    "a share that is no number": ([*GOOD, "--sure", "nan"], "--sure is nan, but must be a share"),
    "a port that is none": ([*GOOD, "--port", "70000"], "--host 127.0.0.1 --port 70000 cannot be listened on"),
    "an address of another machine": (
        [*GOOD, "--host", "192.0.2.1"],
        "--host 192.0.2.1 --port 0 cannot be listened on",
    ),
    "no images": ([*GOOD, "--max_images", "0"], "--max_images: must be a whole number of 1 or more"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parts")
    save_vision_tower("clip", folder / "tower")
    save_vision_tower("siglip", folder / "other")
    save_language_model("qwen2", folder / "text")
    for name, fields in (("adapter", {"coefficient_activation": "gated_softmax"}), ("raw", {})):
        model, processor = compose(str(folder / "tower"), str(folder / "text"), **fields)
        LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize(("arguments", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_bad_input_is_one_sentence(folder, arguments, sentence):
    assert_refused(SCRIPTS / "serve_eyes.py", arguments, sentence, folder)


def test_a_port_that_is_taken_is_named_before_anything_is_loaded(folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        arguments = [*GOOD, "--adapter", "none", "--port", port]
        assert_refused(SCRIPTS / "serve_eyes.py", arguments, f"--port {port} cannot be listened on .*in use", folder)
