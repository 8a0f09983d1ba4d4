# SPDX-License-Identifier: Apache-2.0
"""Checking explanations from the shell: the tables that `explain.py --check` prints, and what it refuses."""

import json

import pytest
from paths import SCRIPTS
from refusals import assert_refused
from tiny_parts import make_image
from wordy_models import compose

from modeling_langbridge import LangBridgeAdapter


SCRIPT = SCRIPTS / "explain.py"
CHECK = ["--model", "model", "--check", "--dataset", "captions.jsonl"]
ADAPTER = ["--adapter", "adapter", "--vision_tower", "tower", "--check", "--dataset", "captions.jsonl"]
PAGES = ["--model", "model", "--images", "red.png", "--output_dir", "out"]
REFUSED = {
    "no photos": (["--model", "model", "--check"], "arguments are required: --dataset"),
    "images": ([*CHECK, "--images", "red.png"], "--images does not go with .*--check makes tables and no pages"),
    "an output": ([*CHECK, "--output_dir", "out"], "--output_dir does not go with .*--check makes tables"),
    "a second model": ([*CHECK, "--compare", "other"], "--compare does not go with"),
    "photos for pages": (
        [*PAGES, "--dataset", "captions.jsonl"],
        "--dataset does not go with .*is what reads",
    ),
    "a folder for pages": ([*PAGES, "--image_folder", "."], "--image_folder does not go with .*is what reads"),
    "scores for pages": ([*PAGES, "--cider"], "--cider belongs to --check: give both"),
    "scores without a language model": ([*ADAPTER, "--cider"], "--adapter has no language model .*leave out --cider"),
    "one photo": ([*CHECK, "--max_photos", "1"], "--max_photos: must be a whole number of 2 or more"),
    "photos that are no number": ([*CHECK, "--max_photos", "all"], "--max_photos: must be a whole number"),
    "half a photo": ([*CHECK, "--max_photos", "2.5"], "--max_photos: must be a whole number"),
    "absent photos": ([*CHECK[:4], "absent.jsonl"], "absent.jsonl"),
    "an absent split": ([*CHECK, "--split", "dev"], "no sample in split 'dev', only in lone, test"),
    "a split of one photo": ([*CHECK, "--split", "lone"], "one photo in split 'lone': the check needs two"),
    "photos elsewhere": ([*CHECK, "--image_folder", "empty"], "image empty/.* does not exist"),
    "no captions": ([*CHECK[:4], "bare.jsonl"], "bare.jsonl, line 1"),
    "a broken photo": ([*CHECK[:4], "broken.jsonl"], "broken.png"),
    "no json": ([*CHECK[:4], "notes.jsonl"], "notes.jsonl, line 1"),
    "several images a row": ([*CHECK[:4], "pairs.jsonl"], "has 2 images: .* takes one a row"),
    "an absent model": (["--model", "no/where", *CHECK[2:]], "^no/where must be the folder or Hub id"),
    "more words than there are": (
        ["--model", "mlp", *CHECK[2:], "--vocab_size", "99999"],
        "ask for 1 to .* not 99999",
    ),
    "words for a model of words": ([*CHECK, "--vocab_size", "5"], "leave out --vocabulary and --vocab_size"),
}


@pytest.fixture(scope="module")
def folder(vision, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("checked")
    (folder / "tower").symlink_to(vision)
    model, processor = compose(vision, text, coefficient_activation="gated_softmax")
    LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(folder / "adapter")
    for name, parts in {"model": (model, processor), "mlp": compose(vision, text, adapter_type="mlp")}.items():
        for part in parts:
            part.save_pretrained(folder / name)
    rows = []
    for colour in ("red", "blue", "green"):
        make_image(colour).save(folder / f"{colour}.png")
        captions = [f"a {colour} ball", f"the {colour} ball and a dog"]
        rows.append({"image": f"{colour}.png", "captions": captions, "split": "test"})
    pair = {"images": ["red.png", "blue.png"], "caption": "two balls"}
    (folder / "broken.png").write_text("no image")
    (folder / "empty").mkdir()
    for name, content in {
        "captions": [*rows, {**rows[0], "split": "lone"}],
        "bare": [{"image": "red.png"}],
        "broken": [rows[0], {"image": "broken.png", "caption": "a ball"}],
        "pairs": [pair, pair],
    }.items():
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, content)))
    (folder / "notes.jsonl").write_text("no json")
    return folder


def test_substitution_and_precision_of_a_checkpoint_are_printed(folder, run_script):
    printed = run_script("--model", folder / "model", "--check", "--dataset", folder / "captions.jsonl")
    blocks = printed.split("\n\n")
    assert blocks[0] == f"{folder / 'model'}, 3 photos; in brackets 95 % intervals over photos."
    rows = [line.split(" | ")[0] for line in blocks[2].splitlines()]
    assert rows[0] == "| handed to the language model" and len(rows) == 7
    assert blocks[2].splitlines()[2].endswith("0.000 [0.000, 0.000] |")  # all words are the visual token
    assert blocks[4].splitlines()[0] == "| of the strongest words | 5 | 10 |"


def test_an_adapter_alone_has_precision_only(folder, run_script):
    parts = ("--adapter", folder / "adapter", "--vision_tower", folder / "tower")
    printed = run_script(*parts, "--check", "--data", folder / "captions.jsonl", "--max_photos", 2)
    assert "2 photos" in printed and "language model" not in printed
    assert "| a photo's own | " in printed and "| most frequent in captions | 0.600 [0.600, 0.600] |" in printed


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_checked_is_refused(folder, case):
    arguments, sentence = REFUSED[case]
    assert_refused(SCRIPT, arguments, sentence, folder)
