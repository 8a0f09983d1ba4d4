# SPDX-License-Identifier: Apache-2.0
"""What scripts/evaluate.py refuses."""

import json

import pytest
from paths import SCRIPTS
from tiny_parts import make_image


pytest_plugins = ["places"]
SCRIPT = SCRIPTS / "evaluate.py"
ALL = "--model {raw} --tasks caption --data {captions_json} --output_dir out"

OPTIONS = [
    ("--tasks vqa", "one of the arguments --model --compare is required"),
    ("--model {raw} --compare a b", "not allowed with argument"),
    ("--model {raw}", "--tasks is missing: name some of caption, vqa, yes_no, retrieval"),
    ("--model {raw} --tasks , --data {captions_json}", "--tasks is missing"),
    ("--model {raw} --tasks captions --data {captions_json}", "--tasks has 'captions', which is none of caption"),
    ("--model {raw} --tasks vqa,vqa --data {captions_json} {captions_json}", "names vqa twice"),
    ("--model {raw} --tasks vqa", "The task vqa has no data: .*scripts/download_data.sh"),
    ("--model {raw} --tasks caption,vqa --data {captions_json}", "The task vqa has no data"),
    ("--model {raw} --tasks caption --data {captions_json} {captions_json}", "--data has 2 entries for 1 tasks"),
    ("--model {raw} --tasks caption --data {captions_json}", "--output_dir is missing"),
    (
        "--model {raw} --tasks caption --data gone.json --output_dir out",
        "gone.json does not exist: .*download_data.sh",
    ),
    (f"{ALL} --batch_size 0", "--batch_size: must be a whole number of 1 or more"),
    (f"{ALL} --batch_size many", "--batch_size: must be a whole number of 1 or more"),
    (f"{ALL} --max_samples 1", "--max_samples: must be a whole number of 2 or more"),
    (f"{ALL} --max_new_tokens 0", "--max_new_tokens: must be a whole number of 1 or more"),
    (f"{ALL} --dtype float8", "--dtype: invalid choice"),
    (f"{ALL} --split nowhere", "no sample in split 'nowhere', only in test"),
    (f"{ALL} --hub_datasets a/b c/d", "--hub_datasets has 2 entries for 1 tasks"),
    (f"{ALL} --prompts one two", "--prompts has 2 entries for 1 tasks"),
    (f"{ALL} --num_fewshot 0", "--num_fewshot: must be a whole number of 1 or more"),
    (f"{ALL} --num_fewshot 1", "no sample in split 'train', only in test: name one of these, or another file"),
    (f"{ALL} --fewshot_data {{captions_json}}", "--fewshot_data is for examples: give --num_fewshot, too"),
    (f"{ALL} --num_fewshot 1 --fewshot_data gone.json", "--fewshot_data gone.json does not exist"),
    (f"{ALL} --num_fewshot 1 --fewshot_data a.json b.json", "--fewshot_data has 2 entries for 1 tasks"),
    (f"{ALL} --guidance_scale 0.5", "--guidance_scale: must be a number of 1 or more"),
    ("--compare taken taken --guidance_scale 2", "--guidance_scale is for evaluating checkpoints"),
    (f"{ALL} --word_bias -1", "--word_bias: must be a number of 0 or more"),
    (f"{ALL} --word_bias 2", "`word_bias` needs words that can be read, but this adapter's coefficients are raw"),
    (
        f"{ALL} --num_beams 2 --guidance_scale 2",
        "--guidance_scale is for greedy answers: leave it out",
    ),
    ("--compare taken taken --word_bias 2", "--word_bias is for evaluating checkpoints"),
    ("--compare taken taken --num_fewshot 1", "--num_fewshot is for evaluating checkpoints"),
    (f"{ALL} --hub_datasets my/data/set", "'my/data/set' is not a valid Hub id"),
    (f"{ALL} --image_folder empty", "2 of the 2 images of .*captions.json cannot be opened .*--image_folder"),
    ("--compare taken absent", "taken and absent have no task in common"),
    ("--compare taken taken --controls", "--controls is for evaluating checkpoints"),
    ("--compare taken taken --max_samples 5", "--max_samples is for evaluating checkpoints"),
    ("--compare taken taken --output_dir out", "--output_dir is for evaluating checkpoints"),
    ("--compare {raw} {raw} --tasks caption --data {captions_json} --output_dir out", "--compare names .*raw twice"),
]

PLACES = [
    (ALL.replace("{raw}", "absent"), "absent must be the folder or Hub id of a LangBridge"),
    (ALL.replace("{raw}", "{raw_adapter}"), "is an adapter alone, not a LangBridge checkpoint"),
    (ALL.replace("{raw}", "{language_model}"), "is a language model of type qwen2, not a LangBridge checkpoint"),
    (ALL.replace("{raw}", "{raw_with_nan}"), "holds values that are not finite"),
    (ALL.replace("{raw}", "{lora}"), "is a LoRA|merge it"),
    (ALL.replace("--output_dir out", "--output_dir taken"), "taken exists and holds no evaluation: name another"),
    (ALL.replace("--output_dir out", "--output_dir file"), "--output_dir file is a file: name a folder"),
    (ALL.replace("{captions_json}", "{text_txt}"), "text.txt"),
    (
        ALL.replace("caption --", "retrieval --").replace("{raw}", "{llava}"),
        "retrieval reads a LangBridge's words, not llava",
    ),
]

QUESTION = {"image": "red.png", "question": "is it red?", "answers": ["yes"], "label": "yes"}
ROWS = [
    ("vqa", [], "has no question in split 'test': it is empty"),
    ("vqa", [{**QUESTION, "split": "dev"}] * 2, "no question in split 'test', only in dev: name one of these"),
    ("vqa", ["not a row"], r"line 1: a str, not a json object"),
    ("vqa", [QUESTION, {**QUESTION, "question": " "}], r"line 2: the question is ' ', expected a text"),
    ("vqa", [{**QUESTION, "question": None}], "line 1: the question is None"),
    ("vqa", [{**QUESTION, "question": "<image> what?"}], "expected none with <image>"),
    ("vqa", [{**QUESTION, "answers": []}], r"line 1: `answers` is None, expected a list of texts"),
    ("vqa", [{**QUESTION, "answers": ["yes", 1]}], r"`answers` is \['yes', 1\], expected a list of texts"),
    ("vqa", [{**QUESTION, "answers": [{"answer": "yes"}]}], "expected a list of texts"),
    ("vqa", [{**QUESTION, "image": 3}], "an image is 3, expected a path"),
    (
        "vqa",
        [QUESTION, {**QUESTION, "image": "gone.png"}],
        r"1 of the 2 images .*gone.png.*none is left out of a score",
    ),
    ("vqa", [{**QUESTION, "images": ["red.png", "gone.png", "lost.png"]}], "2 of the 3 images"),
    ("vqa", [{**QUESTION, "image": "broken.png"}], r"1 of the 1 images .*broken.png"),
    ("yes_no", [{**QUESTION, "label": "maybe"}], "line 1: `label` is 'maybe', expected yes or no"),
    ("yes_no", [{**QUESTION, "label": True}], "`label` is True, expected yes or no"),
    ("yes_no", [{"image": "red.png", "label": "no"}], "the question is None, expected a text"),
]


@pytest.mark.parametrize(("options", "sentence"), OPTIONS + PLACES)
def test_bad_input_gets_one_sentence(refuse, options, sentence):
    refuse(options, sentence)


@pytest.mark.parametrize(("task", "rows", "sentence"), ROWS)
def test_bad_data_get_one_sentence(refuse, tmp_path, task, rows, sentence):
    make_image().save(tmp_path / "red.png")
    (tmp_path / "broken.png").write_text("no picture")
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    refuse(f"--model {{raw}} --tasks {task} --data rows.jsonl --output_dir out", sentence)


def test_controls_need_two_pictures(refuse, tmp_path):
    make_image().save(tmp_path / "red.png")
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(QUESTION)}\n" * 2)
    command = "--model {raw} --tasks vqa --data rows.jsonl --output_dir out"
    refuse(f"{command} --controls", "--controls show another picture, but there are 1")


def test_examples_are_not_asked(refuse, tmp_path):
    make_image().save(tmp_path / "red.png")
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(QUESTION)}\n" * 2)
    command = "--model {raw} --tasks vqa --data rows.jsonl --output_dir out --num_fewshot 1"
    refuse(command, "The example .*red.png of rows.jsonl is asked about, too: give --fewshot_data")


def test_an_interval_needs_two_pictures(refuse, tmp_path):
    make_image().save(tmp_path / "red.png")
    (tmp_path / "rows.jsonl").write_text(f"{json.dumps(QUESTION)}\n" * 2)
    refuse("--model {raw} --tasks vqa --data rows.jsonl --output_dir out", "has 1 picture: .* two")
