# SPDX-License-Identifier: Apache-2.0
"""The experiment on words in place of images: what is asked, what is right, and that it goes on where it was."""

import json
import sys

import pytest
from tiny_parts import make_image

from experiments.flickr8k.caption_corpora import read_flickr8k
from experiments.flickr8k.served_eyes import ROWS, Question, ask_questions, build_chat, is_right, main, show_with


pytest_plugins = "serving_fixtures"
CAPTIONS = {"red": "a dog runs on the grass", "blue": "a boat on the water", "green": "a dog and a ball"}


@pytest.fixture(scope="module")
def flickr8k(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flickr8k")
    (folder / "images").mkdir()
    rows = []
    for split in ("train", "test"):
        for colour, caption in CAPTIONS.items():
            name = f"{split}_{colour}.jpg"
            make_image(colour).save(folder / "images" / name)
            rows.append({"image": name, "split": split, "captions": [caption] * 5})
    (folder / "captions.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return folder


@pytest.fixture
def run(flickr8k, eyes, tmp_path, monkeypatch, capsys):
    """Runs the experiment; returns its table, and the answers that it has kept."""
    captions = {f"{split}_{colour}.jpg": "a thing" for split in ("train", "test") for colour in CAPTIONS}
    (tmp_path / "captions.json").write_text(json.dumps(captions))

    def run_experiment(*options: object) -> tuple[str, list[dict]]:
        places = {
            "url": eyes.base_url.join("/v1"),
            "data": flickr8k,
            "output_dir": tmp_path,
            "model": "answers at once",
        }
        parts = {"language_model": "none", "vision_tower": "none"}
        flags = [str(word) for name, value in {**places, **parts}.items() for word in (f"--{name}", value)]
        monkeypatch.setattr(sys, "argv", ["served_eyes", *flags, *map(str, options)])
        main()
        lines = (tmp_path / "answers.jsonl").read_text().splitlines()
        return capsys.readouterr().out, [json.loads(line) for line in lines]

    return run_experiment


def test_every_row_is_asked_the_same_and_a_second_run_asks_only_what_is_new(run, upstream):
    table, few = run("--photos", 2)
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(lines) == len(ROWS) and all(name in line for name, line in zip(ROWS.values(), lines, strict=True))
    assert len({len([answer for answer in few if answer["row"] == row]) for row in ROWS}) == 1
    number = len(upstream.received())
    assert run("--photos", 2) == (table, few) and len(upstream.received()) == number
    _, more = run("--photos", 3)
    assert more[: len(few)] == few and len(more) > len(few)
    assert len(upstream.received()) == number + len(more) - len(few)


def test_a_photo_is_shown_as_its_row_says_after_examples_of_the_same_kind(flickr8k):
    photos = {photo.name: photo for photo in read_flickr8k(flickr8k, "test")}
    examples = read_flickr8k(flickr8k, "train")[:1]
    shows = show_with(dict.fromkeys([*photos, "train_red.jpg"], "a cat"))
    question = Question("caption", "test_blue.jpg", "Describe.")
    for row, expected in {
        "nothing": None,
        "caption": "[Image 1 shows, strongest first: a cat]",
        "people": "[Image 1 shows, strongest first: boat, water]",
    }.items():
        example, caption, asked = build_chat(question, photos, shows[row], examples)
        assert caption["content"] == "a dog runs on the grass."
        assert [part["text"] for part in asked["content"]] == [*filter(None, [expected]), "Describe."]
        assert len(example["content"]) == len(asked["content"])
    assert build_chat(question, photos, shows["image"], [])[0]["content"][0]["type"] == "image_url"
    assert len(build_chat(Question("yes_no", "test_blue.jpg", "?"), photos, shows["people"], examples)) == 1


def test_one_of_two_names_a_thing_that_is_there_and_one_that_is_not(flickr8k):
    questions = [one for one in ask_questions(read_flickr8k(flickr8k, "test")) if one.task == "one_word"]
    assert questions
    for question in questions:
        caption = CAPTIONS[question.photo.removesuffix(".jpg").removeprefix("test_")]
        assert question.right in caption and question.wrong not in caption
        assert question.right in question.text and question.wrong in question.text


@pytest.mark.parametrize(
    ("answer", "right"),
    [("Dog.", True), ("A dog, not a cat", True), ("a cat or a dog", False), ("hotdog", False), ("", False)],
)
def test_the_first_of_the_two_that_is_named_counts(answer, right):
    assert is_right({"answer": answer, "right": "dog", "wrong": "cat"}) == right
