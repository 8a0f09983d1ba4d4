# SPDX-License-Identifier: Apache-2.0
"""Cards: true to the folder, taken by the Hub's rules, their own lines run, and text from outside stays text."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from tiny_parts import SENTENCES, make_image
from transformers import CLIPVisionConfig, Qwen2Config

from hub_cards.cards import make_card
from hub_cards.facts import CardFacts, Result
from hub_cards.training_record import (
    TRAINING_RECORD,
    TrainedPart,
    TrainingRecord,
    write_training_records,
)
from modeling_langbridge import (
    LangBridgeAdapter,
    LangBridgeConfig,
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
    SharedVocabulary,
)
from modeling_langbridge.conversion.to_llava import to_llava


HASH = "0123456789abcdef0123456789abcdef01234567"
BASES = ["Qwen/Qwen2-0.5B", "openai/clip-vit-large-patch14-336"]
RESULT = Result(
    metric="CIDEr-D",
    value=0.345,
    dataset="Flickr8k",
    split="test",
    command="python scripts/evaluate.py",
    date="2026-11-25",
    machine="2 cores of an Intel Xeon",
)
RECORD = TrainingRecord(
    stage="finetuning",
    parts={
        "vision_tower": TrainedPart(mode="frozen", hub_id=BASES[1]),
        "projector": TrainedPart(mode="full", learning_rate=2e-3),
        "language_model": TrainedPart(mode="lora", learning_rate=1e-5, lora_rank=8, hub_id=BASES[0]),
    },
    datasets=["user/captions"],
    local_data=["more.json"],
    steps=1500,
    samples=24000,
    batch_size=16,
    epochs=2.5,
    optimizer="AdamW",
    schedule="cosine",
    precision="bfloat16",
    seed=0,
    first_loss=6.25,
    last_loss=1.5,
    hardware="NVIDIA H100",
    processes=8,
    seconds=3 * 3600 + 120.0,
    date="2026-11-25",
    versions={"torch": "2.13.0"},
)
KINDS = ["model", "adapter", "vocabulary", "llava"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, vision, text) -> dict[str, Path]:
    """One folder of each kind, whole, as the project writes them."""
    top = tmp_path_factory.mktemp("folders")
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    vocabulary = SharedVocabulary.build([processor.tokenizer], SENTENCES, 60)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, vocabulary, processor, projector_hidden_size=24
    )
    for part in (model, processor):
        part.save_pretrained(top / "model")
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(top / "adapter")
    vocabulary.save_pretrained(top / "vocabulary")
    for part in to_llava(model, processor):
        part.save_pretrained(top / "llava")
    return {kind: top / kind for kind in KINDS}


def write_config(folder: Path, language_model: str = "", vision_tower: str = "", **fields) -> Path:
    """A model's folder, as far as a card reads it."""
    config = LangBridgeConfig(
        vision_config=CLIPVisionConfig(),
        text_config=Qwen2Config(name_or_path=language_model),
        image_token_index=151646,
        **{"projector_hidden_size": 896, **fields},
    )
    config.vision_config._name_or_path = vision_tower
    config.save_pretrained(folder)
    return folder


def python_of(card: ModelCard) -> str:
    (lines,) = (token.content for token in MarkdownIt().parse(card.text) if token.info == "python")
    return lines


def bases_of(kind: str) -> list[str]:
    return {"model": BASES, "adapter": BASES[1:], "vocabulary": [], "llava": BASES}[kind]


def test_a_cards_own_lines_load_what_it_is_the_card_of(folders, vision, text, tmp_path):
    make_image().save(tmp_path / "photo.png")
    ends = {
        "model": "assert type(pipe.model).__name__ == 'LangBridgeForConditionalGeneration'",
        "llava": "assert type(pipe.model).__module__.startswith('transformers.')",
        "adapter": "assert model.config.bridge_vocab_size == 60",
        "vocabulary": "assert len(vocabulary) == 60",
    }
    # The Hub's users have no package, for the first two.
    code = ["import sys; sys.modules['modeling_langbridge'] = None"]
    for kind, end in ends.items():
        facts = CardFacts(repo_id="user/name", revision=HASH, base_models=bases_of(kind), transfers=["user/text"])
        lines = python_of(make_card(folders[kind], facts))
        for name, here in {"user/name": folders[kind], BASES[1]: vision, "user/text": text}.items():
            lines = lines.replace(f'"{name}"', f'"{here}"')
        assert lines.count(HASH) == 1
        if kind == "adapter":
            code.append("del sys.modules['modeling_langbridge']")
        code.append(f"exec({lines + chr(10) + end!r}, {{}})\nprint({kind!r})")
    process = subprocess.run(
        [sys.executable, "-c", "\n".join(code)],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert process.stdout.split()[-1:] == ["vocabulary"], process.stderr
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_the_front_matter_is_what_the_hub_wants_and_survives_being_read_again(kind, folders):
    facts = CardFacts(
        repo_id="user/name",
        base_models=bases_of(kind),
        license="apache-2.0",
        language=["en"],
        tags=["captioning"],
        results=[RESULT, replace(RESULT, metric="BLEU-4", value="0.2 ± 0.01")],
    )
    card = make_card(folders[kind], facts)
    again = ModelCard(str(card))
    assert str(again) == str(card)
    data = again.data
    assert (data.license, data.language) == ("apache-2.0", ["en"])
    assert data.tags == ["langbridge", "captioning"]
    assert data.pipeline_tag == (None if kind == "vocabulary" else "image-text-to-text")
    assert data.library_name == {"model": "transformers", "llava": "transformers"}.get(kind, "langbridge")
    assert data.base_model == (bases_of(kind) or None)
    relation = {"model": "merge", "llava": "merge", "adapter": "adapter", "vocabulary": None}[kind]
    assert data.get("base_model_relation") == relation
    first, second = data.eval_results
    assert (first.task_type, first.dataset_name, first.dataset_split) == ("image-text-to-text", "Flickr8k", "test")
    assert (first.metric_name, first.metric_value, second.metric_value) == ("CIDEr-D", 0.345, "0.2 ± 0.01")
    assert data.model_name == "name"


def test_a_langbridge_trained_further_is_its_finetune(tmp_path):
    write_config(tmp_path, *BASES)
    assert make_card(tmp_path, CardFacts()).data.base_model == BASES
    write_training_records(tmp_path / TRAINING_RECORD, [replace(RECORD, started_from="user/langbridge")])
    data = make_card(tmp_path, CardFacts()).data
    assert (data.base_model, data["base_model_relation"]) == (["user/langbridge"], "finetune")


def test_a_transfer_after_the_training_makes_the_new_language_model_the_base(tmp_path):
    write_config(tmp_path, "user/other", BASES[1])
    write_training_records(tmp_path / TRAINING_RECORD, [replace(RECORD, started_from="user/langbridge")])
    assert make_card(tmp_path, CardFacts()).data.base_model == ["user/other", BASES[1]]


def test_an_adapters_base_is_the_vision_tower_it_was_trained_with(folders, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in folders["adapter"].iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    write_training_records(folder / TRAINING_RECORD, [replace(RECORD, started_from="user/langbridge")])
    card = make_card(folder, CardFacts(repo_id="user/name"))
    assert (card.data.base_model, card.data["base_model_relation"]) == ([BASES[1]], "adapter")
    assert f'vision, text = "{BASES[1]}", "{BASES[0]}"' in card.text


def test_a_card_tells_the_run_as_it_was_recorded(tmp_path):
    write_config(tmp_path, *BASES)
    write_training_records(tmp_path / TRAINING_RECORD, [RECORD])
    card = make_card(tmp_path, CardFacts())
    assert card.data.datasets == ["user/captions"]
    training = " ".join(card.text.partition("## How it was trained")[2].partition("\n## ")[0].split())
    for told in (
        "Finetuning: 24,000 samples (2.5 epochs) in 1,500 steps, batch size 16, in 3 h 2 min by 8 processes",
        "by 8 processes on `NVIDIA H100`, `2026-11-25`.",
        "| `projector` | trained in full | 0.002 |",
        "| `language_model` | trained by LoRA of rank 8 | 1e-05 |",
        "[`user/captions`](https://huggingface.co/datasets/user/captions), `more.json`",
        "`AdamW`, schedule `cosine`, bfloat16 (mixed), seed 0",
        "6.25 at first, 1.5 at last",
    ):
        assert told in training
    assert "evaluation loss" not in training  # there was none
    assert "Run 1" not in training


def test_a_card_names_all_language_models_that_took_turns(tmp_path):
    write_config(tmp_path, *BASES)
    record = replace(RECORD, language_models=[BASES[0], "one of type llama"])
    write_training_records(tmp_path / TRAINING_RECORD, [record])
    names = f"[`{BASES[0]}`](https://huggingface.co/{BASES[0]}), `one of type llama`"
    assert f"- language models, in turn, batch by batch: {names}" in make_card(tmp_path, CardFacts()).text


def test_all_stages_are_told_in_their_order(tmp_path):
    write_config(tmp_path, *BASES)
    grounding = replace(RECORD, stage="grounding", seconds=None)
    pretraining = replace(grounding, stage="pretraining", steps=1, samples=4, epochs=1.0)
    write_training_records(tmp_path / TRAINING_RECORD, [grounding, pretraining, RECORD])
    text = make_card(tmp_path, CardFacts()).text
    told = ["### Run 1", "Grounding in words", "### Run 2", "Pretraining of the adapter", "### Run 3", "Finetuning:"]
    assert [text.index(part) for part in told] == sorted(text.index(part) for part in told)
    assert "Pretraining of the adapter alone: 4 samples (1 epoch) in 1 step, batch size 16, by 8 processes" in text
    assert text.count(" 3 h 2 min ") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_card_says_nothing_of_what_nobody_said(kind, folders):
    card = make_card(folders[kind], CardFacts(base_models=[]))
    assert card.data.to_dict().keys() <= {"library_name", "pipeline_tag", "tags"}
    for absent in ("## Results", "## How it was trained", "words.png", "revision", "known to work", "None", "nan"):
        assert absent not in card.text
    assert "path/to/this/folder" in card.text


@pytest.mark.parametrize(
    "fields, told, untold",
    [
        ({}, "raw, signed", "LLaVA's two-layer"),
        ({"coefficient_activation": "softmax"}, "are a distribution over the words.", "raw"),
        ({"coefficient_activation": "gated_softmax"}, "times a gate between 0 and 1", "raw"),
        (
            {"coefficient_activation": "softmax", "words_per_image": 8},
            "the 8 strongest words stand for an image",
            "| visual tokens per image | 576 |",
        ),
        ({"coefficient_activation": "softmax", "linear_remainder": True}, "A linear map beside the words", "raw"),
        ({"adapter_type": "mlp"}, "LLaVA's two-layer MLP", "coefficients"),
        ({"adapter_type": "linear"}, "VLAP's single linear layer", "coefficients"),
    ],
    ids=["raw", "softmax", "gated", "words_per_image", "remainder", "mlp", "linear"],
)
def test_a_models_card_describes_the_adapter_that_it_has(fields, told, untold, tmp_path):
    text = make_card(write_config(tmp_path, *BASES, **fields), CardFacts()).text
    assert told in text and untold not in text


def test_a_picture_of_words_is_shown_where_there_is_one(tmp_path):
    write_config(tmp_path, *BASES)
    assert "words.png" not in make_card(tmp_path, CardFacts()).text
    make_image().save(tmp_path / "words.png")
    assert "](words.png)" in make_card(tmp_path, CardFacts()).text


HOSTILE = "a`b``c | d\n---\n# heading <img src=x onerror=1>\n```\n[l](http://x) {{ 7 * 6 }} $$x$$ \x00é"
AS_ONE_LINE = " ".join(HOSTILE.replace("\x00", " ").split())


def test_text_from_outside_breaks_neither_the_yaml_nor_the_markdown(tmp_path):
    write_config(tmp_path, *BASES)
    hostile = replace(RECORD, hardware=HOSTILE, local_data=[HOSTILE], versions={HOSTILE: HOSTILE}, optimizer=HOSTILE)
    result = Result(**dict.fromkeys(RESULT.__dict__, HOSTILE))
    outline = {}
    for name, record, results in (("plain", RECORD, [RESULT]), ("hostile", hostile, [result])):
        write_training_records(tmp_path / TRAINING_RECORD, [record])
        card = make_card(tmp_path, CardFacts(repo_id="user/name", results=results, tags=[HOSTILE]))
        card = ModelCard(str(card))
        tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(card.text)
        outline[name] = [token.type for token in tokens if token.type != "inline"]
        inline = [child for token in tokens if token.type == "inline" for child in token.children]
        assert not [token for token in [*tokens, *inline] if token.type.startswith("html")]
    assert outline["hostile"] == outline["plain"]
    assert card.data.tags == ["langbridge", AS_ONE_LINE]
    assert card.data.eval_results[0].metric_name == AS_ONE_LINE
    cells = [token.content for token in inline if token.type == "code_inline"]
    assert cells.count(AS_ONE_LINE) == 9  # a row of six, machine, data and optimizer
    (command,) = (token.content for token in tokens if token.info == "shell")
    assert command.strip() == HOSTILE.replace("\x00", "\N{REPLACEMENT CHARACTER}")  # what CommonMark makes of it


@pytest.mark.parametrize(
    "facts, said",
    [
        ({"base_models": None}, "give the ids of its base models"),
        ({"base_models": ["/home/somebody/qwen"]}, "'/home/somebody/qwen' is not a valid Hub id"),
        ({"repo_id": "user/a/b"}, "'user/a/b' is not a valid Hub id"),
        ({"repo_id": "user/na me"}, "'user/na me' is not a valid Hub id"),
        ({"datasets": ["data/captions.json/x"]}, "is not a valid Hub id"),
        ({"license": "Apache 2.0"}, "'Apache 2.0' is not one of the Hub's"),
        ({"language": ["English"]}, "'English' is not a code"),
        ({"revision": 'x", trust'}, "is not valid: give a commit hash"),
        ({"transfers": ["models/of/mine"]}, "'models/of/mine' is not a valid Hub id"),
        ({"results": [replace(RESULT, value=float("nan"))]}, "`value` of a result is nan"),
        ({"results": [replace(RESULT, command="")]}, "`command` of a result is ''"),
        ({"results": [replace(RESULT, split=None)]}, "`split` of a result is None"),
    ],
)
def test_a_wrong_fact_is_refused_in_one_sentence(facts, said, tmp_path):
    write_config(tmp_path)
    with pytest.raises(ValueError, match=re.escape(said)) as error:
        make_card(tmp_path, CardFacts(**{"base_models": BASES, **facts}))
    assert "\n" not in str(error.value)


def test_a_base_model_that_is_a_folder_here_is_refused(tmp_path, monkeypatch):
    write_config(tmp_path / "model")
    (tmp_path / "my-qwen").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="my-qwen is a path on this machine"):
        make_card(tmp_path / "model", CardFacts(base_models=["my-qwen"]))


def test_a_vocabulary_has_no_base_model(folders):
    with pytest.raises(ValueError, match="name no base model"):
        make_card(folders["vocabulary"], CardFacts(base_models=BASES))


def test_an_adapters_base_is_no_language_model(folders):
    with pytest.raises(ValueError, match="name its vision tower alone"):
        make_card(folders["adapter"], CardFacts(base_models=BASES))
