# SPDX-License-Identifier: Apache-2.0
"""Yes/no questions made of captions: balanced, true, and not to be answered from the word alone."""

import json
import runpy
from collections import Counter

from in_process import run_here

from experiments.flickr8k import yes_no_questions
from experiments.flickr8k.yes_no_questions import ask_about
from trainer.data.captioned_photos import CaptionedPhoto


THINGS = ("dog", "boat", "woman", "horse")
PHOTOS = [
    CaptionedPhoto(f"{place}.png", None, [f"a {THINGS[place % 4]} in the sun"] * 3 + ["a hat", "a hat"])
    for place in range(24)
]


def test_a_thing_that_most_captions_name_and_one_that_none_names():
    questions = list(ask_about(PHOTOS))
    named = {photo.name: " ".join(photo.captions) for photo in PHOTOS}
    assert len(questions) >= 40
    for yes, no in zip(questions[::2], questions[1::2], strict=True):
        assert (yes["label"], no["label"]) == ("yes", "no") and yes["image"] == no["image"]
        assert yes["text"].split()[3] in named[yes["image"]] and no["text"].split()[3] not in named[no["image"]]
        assert "hat" not in yes["text"]  # two captions of five are not most


def test_a_thing_is_asked_for_about_as_often_with_either_answer():
    times = Counter((question["text"], question["label"]) for question in ask_about(PHOTOS))
    for text in {text for text, _ in times}:
        assert abs(times[text, "yes"] - times[text, "no"]) <= 2, text


def test_the_command_writes_popes_form_and_overwrites_nothing(tmp_path):
    rows = [{"image": photo.name, "captions": photo.captions, "split": "dev"} for photo in PHOTOS]
    (tmp_path / "captions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    command = ["yes_no_questions", "--captions", "captions.jsonl", "--questions", "10", "--output", "out.jsonl"]
    result = run_here(lambda: runpy.run_path(yes_no_questions.__file__, run_name="__main__"), command, tmp_path)
    assert result.returncode == 0, result.stderr
    written = (tmp_path / "out.jsonl").read_text()
    questions = list(map(json.loads, written.splitlines()))
    assert len(questions) == 10 and set(questions[0]) == {"question_id", "image", "text", "label"}
    again = run_here(lambda: runpy.run_path(yes_no_questions.__file__, run_name="__main__"), command, tmp_path)
    assert again.returncode == 1 and "exists" in again.stderr.lower()
    assert (tmp_path / "out.jsonl").read_text() == written
