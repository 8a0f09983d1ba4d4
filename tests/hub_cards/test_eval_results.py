# SPDX-License-Identifier: Apache-2.0
"""Results in the Hub's form: written, read, published with the folder and shown in its card, or refused by name."""

import shutil

import pytest
import yaml
from huggingface_hub import EvalResultEntry
from tiny_training import save_langbridge

from hub_cards.cards import make_card
from hub_cards.eval_results import read_eval_results, write_eval_results
from hub_cards.facts import CardFacts
from hub_cards.repository import files_to_push


BASES = ["Qwen/Qwen2-0.5B", "openai/clip-vit-large-patch14-336"]
ENTRY = EvalResultEntry(
    dataset_id="lmms-lab/POPE", task_id="yes_no", value=0.7321, date="2026-11-29", notes="accuracy | split test"
)


@pytest.fixture(scope="module")
def saved(vision, text, composed, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_langbridge(vision, text, composed[1], folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def test_the_file_has_the_hubs_form_and_reads_back(tmp_path):
    path = write_eval_results(tmp_path, "pope", [ENTRY])
    assert path == tmp_path / ".eval_results" / "pope.yaml"
    assert yaml.safe_load(path.read_text()) == [
        {
            "dataset": {"id": "lmms-lab/POPE", "task_id": "yes_no"},
            "value": 0.7321,
            "date": "2026-11-29",
            "notes": "accuracy | split test",
        }
    ]
    assert read_eval_results(tmp_path) == [ENTRY]


def test_the_card_shows_them_and_does_not_say_that_nothing_was_measured(folder):
    without = str(make_card(folder, CardFacts(base_models=BASES)))
    assert "was not measured" in without and "## Results" not in without and "lmms-lab" not in without
    write_eval_results(folder, "pope", [ENTRY])
    card = str(make_card(folder, CardFacts(base_models=BASES)))
    assert "was not measured" not in card and card.count("## Results") == 1
    (row,) = (line for line in card.splitlines() if "lmms-lab/POPE" in line)
    assert "`0.7321`" in row and "`2026-11-29`" in row and r"accuracy \| split test" in row


def test_they_are_published_with_the_folder(folder):
    assert not any("eval_results" in name for name in files_to_push(folder, "model"))
    write_eval_results(folder, "pope", [ENTRY])
    (folder / ".eval_results" / "notes.txt").write_text("mine")
    found = [name for name in files_to_push(folder, "model") if "eval_results" in name]
    assert found == [".eval_results/pope.yaml"]


@pytest.mark.parametrize(
    "content",
    [
        "a: [",
        "just text",
        "- value: 1",
        "- dataset: {id: user/data}\n  value: 1",
        "- dataset: {id: user/data, task_id: a}",
        "- dataset: {id: 'no good id', task_id: a}\n  value: 1",
        "- dataset: {id: user/data, task_id: a}\n  value: 1\n  source: {name: me}",
    ],
)
def test_a_file_in_another_form_is_named(tmp_path, content):
    (tmp_path / ".eval_results").mkdir()
    (tmp_path / ".eval_results" / "odd.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"odd\.yaml is not in the Hub's form"):
        read_eval_results(tmp_path)


def test_a_dataset_that_is_no_hub_id_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="not a valid Hub id"):
        write_eval_results(tmp_path, "mine", [EvalResultEntry(dataset_id="my file.json", task_id="vqa", value=1)])
    assert not list(tmp_path.iterdir())
