# SPDX-License-Identifier: Apache-2.0
"""A card claims the versions of transformers that its code was tried with, and none for other code."""

import re
import shutil
from pathlib import Path

import pytest
from packaging.version import Version
from paths import ROOT
from transformers import CLIPVisionConfig, Qwen2Config

from hub_cards import CardFacts, make_card, tested_versions
from hub_cards.repository import CODE
from hub_cards.tested_versions import VersionResult, VersionTable, hash_code
from modeling_langbridge import LangBridgeConfig
from modeling_langbridge.configuration_langbridge import OLDEST_TRANSFORMERS


WORKS = {"loads": True, "logits": True, "generates": True, "trains": True, "package": True}


def make_results(*names: str, code: str = "") -> VersionTable:
    """A version whose name ends with `!` does not train."""
    versions = [
        VersionResult(transformers=name.rstrip("!"), **{**WORKS, "trains": not name.endswith("!")}) for name in names
    ]
    return VersionTable(
        code=code, saved_with="5.23.0", torch="2.13.0", date="2026-11-29", machine="x86_64", versions=versions
    )


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model's folder, as far as a card reads it, with its code."""
    config = LangBridgeConfig(
        vision_config=CLIPVisionConfig(),
        text_config=Qwen2Config(),
        image_token_index=151646,
        projector_hidden_size=896,
    )
    config.save_pretrained(tmp_path / "model")
    for name in CODE:
        shutil.copy(ROOT / "modeling_langbridge" / name, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def card_of(folder, tmp_path, monkeypatch):
    def make(*names: str, code: str) -> str:
        monkeypatch.setattr(tested_versions, "RECORD", tmp_path / "tested_versions.json")
        make_results(*names, code=code).save()
        return make_card(folder, CardFacts(base_models=["user/tower"])).text

    return make


def test_a_card_prints_the_range_of_its_own_code(card_of, folder):
    text = card_of("5.6.2", "5.7.0!", "5.23.0", "5.24.0", code=hash_code(folder))
    assert "5.6.2 to 5.24.0, but not 5.7.0" in text


@pytest.mark.parametrize("name", CODE)
def test_a_card_claims_nothing_for_code_that_was_not_tried(name, card_of, folder):
    tried = hash_code(folder)
    with (folder / name).open("a") as file:
        file.write("# changed\n")
    assert "was tested with" not in card_of("5.6.2", "5.24.0", code=tried)


def test_a_card_claims_nothing_where_nothing_worked(card_of, folder):
    assert "was tested with" not in card_of("5.6.2!", "5.24.0!", code=hash_code(folder))


@pytest.mark.parametrize(
    "names, said",
    [
        (["5.6.2", "5.7.0"], "5.6.2 to 5.7.0"),
        (["5.6.2!", "5.7.0", "5.8.1!"], "5.7.0"),
        (["5.6.2", "5.7.0!", "5.8.1!", "5.9.0"], "5.6.2 to 5.9.0, but not 5.7.0, 5.8.1"),
        (["5.6.2!"], ""),
    ],
)
def test_the_range_leaves_out_what_fails(names, said):
    assert make_results(*names).describe() == said


def test_the_table_of_the_docs_is_the_record():
    assert VersionTable.load().to_markdown() in (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")


def test_the_declared_minimums_were_tested():
    """Of the package in setup.py, and of a checkpoint's code."""
    results = VersionTable.load().versions
    declared = re.search(r'"transformers>=([\d.]+)", "safetensors"', (ROOT / "setup.py").read_text()).group(1)
    for minimum, works in ((declared, "package"), (OLDEST_TRANSFORMERS, "works")):
        covered = [result for result in results if Version(result.transformers) >= Version(minimum)]
        assert Version(covered[0].transformers).release[:2] == Version(minimum).release[:2]
        assert all(getattr(result, works) for result in covered)
