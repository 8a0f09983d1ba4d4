# SPDX-License-Identifier: Apache-2.0
"""A folder of each kind, a small Hub, and the folders published there: a pytest plugin that three test files share."""

import json
import re
from pathlib import Path

import pytest
import torch
from hub_clients import CARD, LANGUAGE_MODEL, OTHER_TOKEN, SCRIPT, TOKEN, VISION_TOWER, Client, Publisher
from hub_server import HubServer
from hub_traps import make_traps
from tiny_parts import make_image

from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
    SharedVocabulary,
    to_llava,
)


PUBLISH = """
import json, runpy, sys
model, commands = sys.argv[1:]
for sys.argv in json.loads(commands):
    runpy.run_path(sys.argv[0], run_name="__main__")

from modeling_langbridge import (
    LangBridgeForConditionalGeneration, LangBridgeProcessor, SharedVocabulary, LangBridgeAdapter
)
bridge, processor = (
    part.from_pretrained(model) for part in (LangBridgeForConditionalGeneration, LangBridgeProcessor)
)
for part in (bridge, processor):
    part.push_to_hub("user/inherited")
LangBridgeAdapter.from_model(bridge, processor.tokenizer).push_to_hub("user/bare-adapter")
SharedVocabulary([" dog"]).push_to_hub("user/bare-vocabulary", private=True, commit_message="Words")
"""
WORDS = [" dog", " ball", " a", " the", " red"]


@pytest.fixture(scope="session")
def folders(vision, text, tmp_path_factory) -> Path:
    """One folder of each kind, named for it; the model has more than one file of weights."""
    root = tmp_path_factory.mktemp("folders")
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    torch.manual_seed(0)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, SharedVocabulary(WORDS), processor, projector_hidden_size=24
    )
    for part, name in ((model.config.vision_config, VISION_TOWER), (model.config.text_config, LANGUAGE_MODEL)):
        part._name_or_path = name  # as if it had been loaded from there
    model.save_pretrained(root / "model", max_shard_size="100KB")
    processor.save_pretrained(root / "model")
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(root / "adapter")
    SharedVocabulary(WORDS).save(root / "vocabulary" / "vocabulary.json")
    llava, llava_processor = to_llava(model, processor)
    llava.save_pretrained(root / "llava")
    llava_processor.save_pretrained(root / "llava")
    make_image().save(root / "picture.png")
    # What training runs leave beside a model, and what an attacker may.
    (root / "model" / "README.md").write_text("TRL's card")
    (root / "model" / "trainer_state.json").write_text('{"best_model_checkpoint": "/home/someone/run"}')
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(root / "model" / "adapter")
    for name, content in make_traps(root / "sprung").items():
        (root / "model" / name).write_bytes(content)
    return root


@pytest.fixture(scope="session")
def hub() -> HubServer:
    server = HubServer({TOKEN: "user", OTHER_TOKEN: "other"})
    yield server
    server.shutdown()


@pytest.fixture
def client(hub, tmp_path) -> Client:
    return Client(hub, tmp_path / "home")


@pytest.fixture(scope="session")
def publisher(hub, tmp_path_factory) -> Publisher:
    publisher = Publisher(hub, tmp_path_factory.mktemp("publisher"))
    yield publisher
    publisher.close()


@pytest.fixture(scope="session")
def published(hub, folders, publisher) -> dict[str, str]:
    """
    The commit of every kind, published as `user/model`, `user/adapter` and so on by scripts/push_to_hub.py. The model
    is published as `user/inherited`, too, by transformers' own `push_to_hub`, and its adapter and a vocabulary by
    those of this package.
    """
    tower, language_model = ["--base_model", VISION_TOWER], ["--base_model", LANGUAGE_MODEL]
    options = {"model": [], "adapter": tower, "vocabulary": [], "llava": [*tower, *language_model]}
    commands = [
        [str(SCRIPT), "--folder", str(folders / kind), "--repo_id", f"user/{kind}", *CARD, *more]
        for kind, more in options.items()
    ]
    printed = publisher.printed(PUBLISH, folders / "model", json.dumps(commands))
    return dict(zip(options, re.findall(r"commit (\w{40})\.", printed), strict=True))
