# SPDX-License-Identifier: Apache-2.0
"""Questions are read from files as the field has them, and each other picture is another one."""

import json
from pathlib import Path

import pytest
from paths import DATA
from tiny_parts import make_image

from trainer.evaluation.answer_files import digest_questions
from trainer.evaluation.controls import find_others, with_other_images
from trainer.evaluation.questions import (
    SHORT_ANSWER,
    Data,
    Question,
    read_caption_questions,
    read_vqa_questions,
    read_yes_no_questions,
)


def write(folder: Path, rows: list[dict]) -> Data:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return Data(str(path))


def test_short_answers_one_or_many_about_any_number_of_images(tmp_path):
    rows = [
        {"image": "a.png", "question": "what?", "answers": ["a", "b"]},
        {"images": ["a.png", "b.png"], "question": "which?", "answer": "a"},
        {"question": "why?", "answer": "so"},
        {"image": "a.png", "question": "when?", "answer": "now", "split": "dev"},
    ]
    one, two, none = read_vqa_questions(write(tmp_path, rows), SHORT_ANSWER)
    assert one == Question(0, [f"{tmp_path}/a.png"], f"what?\n{SHORT_ANSWER}", ["a", "b"])
    assert two.images == [f"{tmp_path}/a.png", f"{tmp_path}/b.png"] and two.references == ["a"]
    assert none.images == [] and none.picture == "question 2"


def test_popes_own_rows_and_ours(tmp_path):
    rows = [
        {"question_id": 1, "image": "a.png", "text": "Is there a dog?", "label": "yes"},
        {"image": "a.png", "question": "Is there a cat?", "label": "No"},
    ]
    found = read_yes_no_questions(write(tmp_path, rows), "")
    assert [question.prompt for question in found] == ["Is there a dog?", "Is there a cat?"]
    assert [question.references for question in found] == [["yes"], ["no"]]


@pytest.mark.parametrize("name", ["pope.json", "pope.jsonl"])
def test_popes_lines_are_read_whatever_the_file_is_called(tmp_path, name):
    row = {"image": "a.png", "text": "Is there a dog?", "label": "yes"}
    (tmp_path / name).write_text(f"{json.dumps(row)}\n" * 3)
    assert [question.key for question in read_yes_no_questions(Data(str(tmp_path / name)), "")] == [0, 1, 2]
    (tmp_path / name).write_text(f"{json.dumps(row)}\n{{\n")
    with pytest.raises(ValueError, match=f"{name}, line 2: not json"):
        read_yes_no_questions(Data(str(tmp_path / name)), "")


def test_images_lie_beside_the_file_in_its_folder_images_or_where_one_says(tmp_path):
    (tmp_path / "images").mkdir()
    make_image().save(tmp_path / "images" / "a.png")
    data = write(tmp_path, [{"image": "a.png", "question": "what?", "answer": "a"}])
    assert read_vqa_questions(data, "")[0].images == [f"{tmp_path}/images/a.png"]
    assert read_vqa_questions(Data(data.path, "/elsewhere"), "")[0].images == ["/elsewhere/a.png"]


def test_captions_are_one_question_a_photo(tmp_path):
    data = write(tmp_path, [{"image": "a.png", "captions": ["a dog", "a brown dog"], "split": "test"}])
    assert read_caption_questions(data, "Describe.") == [
        Question(0, [f"{tmp_path}/a.png"], "Describe.", ["a dog", "a brown dog"])
    ]


@pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data: set LANGBRIDGE_DATA ({DATA} is not a folder)")
def test_daquar_as_it_is():
    found = read_vqa_questions(Data(str(DATA / "daquar_vqa" / "eval.jsonl")), SHORT_ANSWER)
    assert len(found) > 5000 and found[0].references == ["garbage_bin"] and Path(found[0].images[0]).is_file()


def test_every_picture_has_another_one_always_the_same():
    names = [f"{number}.png" for number in range(20)]
    questions = [Question(key, [name], "what?", ["a"]) for key, name in enumerate(names * 2)]
    others = find_others(questions)
    assert sorted(others.values()) == sorted(names) and all(name != other for name, other in others.items())
    assert others == find_others(questions[::-1])
    assert with_other_images(questions[0], others).images == [others["0.png"]]


def test_images_in_the_data_themselves_are_told_apart_by_their_content():
    one, other = ({"bytes": content, "path": "same.png"} for content in (b"one", b"other"))
    others = find_others([Question(key, [image], "what?", ["a"]) for key, image in enumerate((one, other, one))])
    assert sorted(image["bytes"] for image in others.values()) == [b"one", b"other"]
    question = Question(0, [one], "what?", ["a"])
    assert with_other_images(question, others).images == [other]


def test_the_digest_is_of_what_is_asked_and_not_of_where_it_lies():
    question = Question(0, ["/here/a.png"], "what?", ["a"])
    digest = digest_questions([question])
    assert digest == digest_questions([Question(0, ["/there/a.png"], "what?", ["a"])])
    for other in (
        Question(0, ["/here/b.png"], "what?", ["a"]),
        Question(0, ["/here/a.png"], "why?", ["a"]),
        Question(0, ["/here/a.png"], "what?", ["b"]),
    ):
        assert digest != digest_questions([other])
