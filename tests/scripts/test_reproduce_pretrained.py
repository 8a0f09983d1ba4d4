# SPDX-License-Identifier: Apache-2.0
"""The reproduction on pretrained parts, with tiny random ones in their place: its stages, its tables, and refusals."""

import dataclasses
import gzip
import json
import shutil

import pytest
from demo_parts import save_demo_parts
from paths import SCRIPTS
from tiny_parts import make_image

from experiments.flickr8k.caption_corpora import most_used_words
from experiments.flickr8k.neighbour_words import find_neighbour_words
from experiments.flickr8k.pretrained_reproduction import ROWS, reproduce, stages_of
from experiments.flickr8k.pretrained_world import QUICK, PretrainedWorld, prepare_language_models
from trainer.data.caption_words import content_words


pytest_plugins = ["places"]
SCRIPT = SCRIPTS / "reproduce.py"
CAPTIONS = {
    "red": ["A dog runs in the snow.", "A brown dog", "The dog in snow", "A dog on snow", "The dog plays"],
    "blue": ["A boy in the water.", "The boy swims", "A boy in a pool", "The boy in water", "A child swims"],
}


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> PretrainedWorld:
    """Photos of two colours: a photo's nearest ones have its colour, and with it its captions."""
    data, parts = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("parts")
    save_demo_parts(parts)
    (data / "flickr8k" / "images").mkdir(parents=True)
    rows = []
    for split, count in (("train", 16), ("dev", 4), ("test", 6)):
        for position in range(count):
            colour = list(CAPTIONS)[position % 2]
            name = f"{split}_{position}_{colour}.png"
            make_image(colour).resize((40 + position, 40)).save(data / "flickr8k" / "images" / name)
            rows.append(json.dumps({"image": name, "split": split, "captions": CAPTIONS[colour]}))
    (data / "flickr8k" / "captions.jsonl").write_text("\n".join(rows))
    (data / "caption_text").mkdir()
    with gzip.open(data / "caption_text" / "text.txt.gz", "wt") as file:
        file.write("\n".join(f"a {colour} dog runs on grass {number}" for number in range(20) for colour in CAPTIONS))
    return PretrainedWorld(
        data=data,
        output_dir=tmp_path_factory.mktemp("output"),
        sizes=QUICK,
        adapter_seeds=(0,),
        parts={name: parts / name for name in ("efficientnet_lite0", "smollm2", "gemma3")},
        words_only=False,
    )


def test_neighbours_words_are_those_of_the_captions_of_like_photos(world, tmp_path):
    find_neighbour_words(dataclasses.replace(world, output_dir=tmp_path / "output"), tmp_path)
    words = json.loads((tmp_path / "words.json").read_text())
    for photo in [*world.photos("test"), *world.photos("train")[: world.sizes.examples]]:
        right = {word for caption in photo.captions for word in content_words(caption)}
        assert words[photo.name][0] in right


def test_what_people_say_leaves_out_the_caption_that_is_measured(world):
    photo = world.photos("test")[0]
    words = most_used_words(photo.captions[1:], 8)
    assert words[0] == "dog" and "runs" not in words


def test_language_models_are_asked_in_the_form_of_the_examples(world, tmp_path):
    from transformers import AutoTokenizer

    prepare_language_models(world, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "smollm2")
    messages = [{"role": "user", "content": " dog"}, {"role": "assistant", "content": "A dog."}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == f"Words: dog\nCaption: A dog.{tokenizer.eos_token}"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="scoring captions needs Java")
def test_all_stages_lead_to_tables_and_a_second_run_repeats_none(world):
    words = reproduce(dataclasses.replace(world, words_only=True))
    table = reproduce(world)
    for line in words.splitlines():  # what is added changes nothing of the words' rows
        assert line in table or not line.startswith("| ")
    assert ROWS["mlp"] in table and ROWS["mlp"] not in words
    for name in world.language_models:
        assert f"{name}:" in table
        measures = json.loads((world.output_dir / f"measures_{name}_0" / "measures.json").read_text())
        assert all(len(row["captions"]) == 6 and len(row["losses"]) == 6 for row in measures.values())
        assert measures["grounded"]["words"].keys() == measures["grounded"]["captions"].keys()
        # The two have the same words of a photo, whatever is behind them.
        assert measures["grounded"]["words"] == measures["taught_grounded"]["words"]
    for row, label in ROWS.items():  # raw coefficients are trained through the first language model alone
        assert table.count(f"| {label} |") >= (1 if row.startswith("raw_") else 2)
    stages = [name for group in stages_of(world) for name in group]
    marks = {name: (world.output_dir / name).stat().st_mtime_ns for name in stages}
    assert reproduce(world) == table
    assert marks == {name: (world.output_dir / name).stat().st_mtime_ns for name in stages}


REFUSED = [
    ("", "Gemma 3 may be used under the Gemma Terms of Use alone"),
    ("--accept_gemma_terms --tokenizers qwen2 llama3", "--tokenizers is of --parts miniature"),
    ("--accept_gemma_terms --parts pretrain", "--parts: invalid choice: 'pretrain'"),
    ("--accept_gemma_terms --data absent", "there is no folder absent/caption_text"),
]


@pytest.mark.parametrize(("options", "sentence"), REFUSED)
def test_bad_input_gets_one_sentence(refuse, world, monkeypatch, options, sentence):
    monkeypatch.setenv("LANGBRIDGE_CACHE", str(world.parts["smollm2"].parent))
    refuse(f"--data {world.data} --parts pretrained --output_dir out {options}", sentence)
