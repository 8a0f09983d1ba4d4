# SPDX-License-Identifier: Apache-2.0
"""What is read of every form that people keep samples in, and how each faulty one is refused."""

import base64
import pickle
from pathlib import Path

import pytest
from tiny_parts import make_image

from trainer.data.samples import (
    CAPTION_QUESTION,
    SampleError,
    name_of,
    naming,
    read_sample,
    split_captions,
)


IMAGE = {"type": "image", "text": None}


def words(text: str) -> dict:
    return {"type": "text", "text": text}


def user(*blocks: dict) -> dict:
    return {"role": "user", "content": list(blocks)}


def assistant(text: str) -> dict:
    return {"role": "assistant", "content": [words(text)]}


def llava(*values: str | None, **fields) -> dict:
    turns = [{"from": ("human", "gpt")[turn % 2], "value": value} for turn, value in enumerate(values)]
    return {"conversations": turns, **fields}


def chat(*contents, **fields) -> dict:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": c} for i, c in enumerate(contents)], **fields}


FORMS = {
    "llava": llava("<image>\nwhat?", "a dog", id=7, image="a.png"),
    "llava, the image last": llava("what?\n<image>", "a dog", id=7, image="a.png"),
    "llava without placeholder": llava("what?", "a dog", id=7, image=["a.png"]),
    "messages": chat("what?", "a dog", id=7, images=["a.png"]),
    "messages in blocks": chat([{"type": "image"}, words("what?")], [words("a dog")], id=7, images=("a.png",)),
    "an image in a block": chat(
        [{"type": "image", "image": "a.png", "url": None}, words("what?")], [words("a dog")], id=7
    ),
    "a path in a block": chat([{"type": "image", "path": "a.png"}, words("what?")], "a dog", id=7),
    "a url in a block": chat([{"type": "image", "url": "a.png"}, words("what?")], "a dog", id=7),
    "an image_url": chat([{"type": "image_url", "image_url": {"url": "a.png"}}, words("what?")], "a dog", id=7),
    "question and answer": {"question": "<image>what?", "answer": "a dog", "id": 7, "image": "a.png"},
    "question and answers": {"question": "what?", "answers": ["a cat", "a dog ", "a dog"], "id": 7, "image": "a.png"},
    "VQA's answers": {
        "question": "what?",
        "answers": [{"answer": "a dog", "answer_id": 1}, {"answer": "a cat", "answer_id": 2}],
        "multiple_choice_answer": "a dog",
        "id": 7,
        "image": "a.png",
    },
    "question and answer beside a caption": {
        "question": "what?",
        "answer": "a dog",
        "caption": "a brown dog",
        "id": 7,
        "image": "a.png",
    },
    "prompt and completion": {"prompt": "<image>what?", "completion": " a dog ", "id": 7, "image": "a.png"},
    "prompt and completion as messages": {
        "prompt": [user(words("what?"))],
        "completion": [assistant("a dog")],
        "id": 7,
        "images": ["a.png"],
    },
    "with empty columns": {**llava("what?", "a dog", id=7, image="a.png"), "images": None, "messages": None},
    "an image of datasets": chat("what?", "a dog", id=7, images=[{"bytes": None, "path": "a.png"}]),
    "an image by pathlib": chat("what?", "a dog", id=7, images=[Path("a.png")]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_becomes_the_same_sample(form):
    question = [words("what?"), IMAGE] if "last" in form else [IMAGE, words("what?")]
    expected = {
        "id": "7",
        "images": ["a.png"],
        "messages": [user(*question), assistant("a dog")],
        "answers_from": int("prompt" in form),
    }
    sample = read_sample(FORMS[form])
    assert sample == expected
    assert read_sample(sample) == expected


@pytest.mark.parametrize(
    ("row", "fault", "reason"),
    [
        ({"question": "what?", "answer": 2}, "malformed", "`answer` is 2, expected text"),
        ({"question": ["what?"], "answer": "a dog"}, "malformed", "`question` is .*, expected text"),
        ({"question": "what?", "answers": "a dog"}, "malformed", "`answers` is 'a dog', expected a list"),
        ({"question": "what?", "answers": []}, "malformed", r"`answers` is \[\], expected a list"),
        ({"question": "what?", "answers": [{"text": "a dog"}]}, "malformed", "`answers` is None, expected text"),
        ({"question": "what?", "answers": ["", " "]}, "empty answer", "an empty answer"),
        ({"question": "what?", "answer": "B", "choices": ["a", "b"]}, "unread field", "`choices` stands beside"),
        ({"question": "what?", "answer": "B", "options": ["a", "b"]}, "unread field", "`options` stands beside"),
        ({"question": "what?"}, "no conversation", "`question` and `answer`"),
        ({"answer": "a dog"}, "no conversation", "`question` and `answer`"),
    ],
)
def test_a_question_and_its_answer_are_texts(row, fault, reason):
    with pytest.raises(SampleError, match=reason) as caught:
        read_sample({"image": "a.png", **row})
    assert caught.value.fault == fault


@pytest.mark.parametrize("key", ["caption", "text"])
def test_an_image_with_a_caption_answers_a_question(key):
    sample = read_sample({"image": "a.png", key: "a dog"})
    assert sample["messages"] == [user(IMAGE, words(CAPTION_QUESTION)), assistant("a dog")]
    assert read_sample(sample) == sample


@pytest.mark.parametrize(
    "fields",
    [
        {"jpg": b"\0", "txt": "a dog"},
        {"JPEG": b"\0", "txt": b"a dog"},
        {"png": b"\0", "json": {"caption": "a dog", "image": "elsewhere.png", "id": 5, "messages": None}},
        {"webp": b"\0", "jpg": None, "json": {"text": "a dog"}, "__url__": "shard.tar"},
    ],
)
def test_a_webdataset_sample_is_named_by_its_key(fields):
    sample = read_sample({"__key__": "shard/7", **fields})
    assert (sample["id"], sample["images"]) == ("shard/7", [b"\0"])
    assert sample["messages"][1] == assistant("a dog")


def test_a_webdataset_sample_may_have_several_images_or_none():
    several = {"__key__": "7", "0.jpg": b"\0", "1.png": b"\1", "json": llava("<image>or<image>?", "the first")}
    assert read_sample(several)["images"] == [b"\0", b"\1"]
    assert read_sample({"__key__": "7", "txt": "no image"})["images"] == []
    assert read_sample({"__key__": "7", "json": {"image": "a.png", "caption": "a dog"}})["images"] == ["a.png"]


def test_images_are_taken_in_the_order_of_their_blocks():
    photo = make_image()
    row = chat(
        [{"type": "image", "image": "a.png"}, words("or"), {"type": "image", "image": photo}, words("?")],
        "the first",
        [words("and"), {"type": "image_url", "image_url": {"url": "https://example.org/c.png"}}],
        "no",
    )
    sample = read_sample(row, "photos")
    assert sample["images"] == ["photos/a.png", photo, "https://example.org/c.png"]
    assert [[block["type"] for block in message["content"]] for message in sample["messages"][::2]] == [
        ["image", "text", "image", "text"],
        ["text", "image"],
    ]


def test_images_that_no_block_places_go_before_the_first_question():
    row = {
        "images": ["a.png", "b.png"],
        "messages": [{"role": "system", "content": "Be brief."}, *chat("what?", "dogs")["messages"]],
    }
    assert read_sample(row)["messages"][:2] == [
        {"role": "system", "content": [words("Be brief.")]},
        user(IMAGE, IMAGE, words("what?")),
    ]


@pytest.mark.parametrize(
    "content", ["<image>\nwhat?", [words("<image>what?")], [{"type": "image"}, words("what?")], [words("what?")]]
)
def test_a_placeholder_is_a_placeholder_in_text_or_a_block(content):
    assert read_sample(chat(content, "a dog", images=["a.png"]))["messages"][0] == user(IMAGE, words("what?"))


def test_texts_of_a_question_stay_as_they_are_and_those_of_an_answer_become_one():
    row = chat([words("what"), words(" is it? "), words(None)], [words(" a"), words("dog "), words("runs\n")])
    expected = [user(words("what"), words(" is it? ")), assistant("a dog runs")]
    assert read_sample(row)["messages"] == expected


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("what\n<image>\nis it?", ["what", None, "is it?"]),
        ("what <image> is it?", ["what ", None, " is it?"]),
        ("\nwhat \n<image>\n\nis it?\n", ["\nwhat \n", None, "\n\nis it?\n"]),
        ("<image>\n<image>\n", [None, None, "\n"]),
        ("<image> <image>", [None, " ", None]),
    ],
)
def test_text_around_an_image_keeps_its_blanks_but_for_the_line_break_that_the_template_writes(text, blocks):
    expected = user(*(IMAGE if block is None else words(block) for block in blocks))
    row = chat(text, "a dog", images=["a.png"] * blocks.count(None))
    assert read_sample(row)["messages"][0] == expected


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("b/a.png", "photos/b/a.png"),
        ("/b/a.png", "/b/a.png"),
        ("https://example.org/a.png", "https://example.org/a.png"),
        ("data:image/png;base64,AA", "data:image/png;base64,AA"),
        ({"bytes": None, "path": "a.png"}, "photos/a.png"),
        ({"bytes": b"\0", "path": "a.png"}, {"bytes": b"\0", "path": "a.png"}),
        (b"\0", b"\0"),
    ],
)
def test_only_relative_paths_are_looked_for_in_the_folder(image, expected):
    assert read_sample(llava("what?", "a dog", image=image), "photos")["images"] == [expected]


def test_a_sample_without_an_id_is_named_by_its_first_image_or_its_answer():
    assert read_sample(llava("what?", "a dog", image=["a.png", "b.png"]))["id"] == "a.png"
    assert read_sample(llava("what?", "a dog", image={"bytes": b"\0", "path": "a.png"}))["id"] == "a.png"
    assert read_sample(llava("what?", "a dog " * 30))["id"] == f"the one answered {('a dog ' * 30)[:60]!r}"
    assert read_sample(llava("what?", "a dog", image=make_image()))["id"] == "the one answered 'a dog'"
    assert read_sample(llava("what?", "a dog", id=0))["id"] == "0"


FAULTS = {
    "no conversation": [
        {},
        {"image": "a.png"},
        {"prompt": "what?"},
        {"messages": None},
        {"__key__": "7", "jpg": b"\0"},
    ],
    "unknown role": [
        {"conversations": [{"from": "alien", "value": "what?"}]},
        {"messages": [{"content": "what?"}]},
        {"messages": [{"role": ["user"], "content": "what?"}]},
    ],
    "unknown content": [
        chat([{"type": "video"}], "a dog"),
        *(
            chat(f"{mark}\nwhat?", "a dog")
            for mark in ("<video>", "<audio>", "<|video_pad|>", "<image 1>", "<|image_1|>")
        ),
        chat("what?", "a dog", system="Look at <video>."),
    ],
    "turns out of order": [
        {"messages": [assistant("a dog")]},
        {"messages": [user(words("a")), user(words("b")), assistant("c")]},
        {"messages": [user(words("a")), {"role": "system", "content": "b"}, assistant("c")]},
        {"prompt": [user(words("a")), assistant("b")], "completion": "c"},
    ],
    "no answer": [
        chat("what?"),
        {"messages": []},
        {"prompt": "what?", "completion": []},
        chat("a", "b", "c") | {"answers_from": 2},
    ],
    "unread field": [
        llava("what?", "a dog", video="a.mp4"),
        llava("what?", "a dog", image="a.png", audio={"bytes": b"\0", "path": None}),
        {"__key__": "7", "mp4": b"\0", "txt": "a dog"},
        chat("what?", "a dog", tools=[{"name": "zoom"}]),
        chat("what?", "a dog", weight=0.5),
        chat("what?", "a dog", completion_mask=[0, 1]),
        {"messages": [user(words("what?")), assistant("a dog") | {"weight": 0}]},
        {"messages": [user(words("what?")), assistant("a dog") | {"train": False}]},
        {"messages": [user(words("what?")) | {"loss": True}, assistant("a dog")]},
        {"messages": [user(words("what?")), assistant("a dog") | {"reasoning_content": "It barks."}]},
        {"messages": [user(words("what?")), assistant("a dog") | {"tool_calls": [{"id": "1"}]}]},
        {"messages": [user(words("what?")) | {"images": ["a.png"]}, assistant("a dog")]},
        {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b", "weight": 0}]},
        {"prompt": "what?", "completion": "a dog", "thinking": "It barks."},
        {"prompt": "what?", "completion": "a dog", "history": [["a", "b"]]},
        {"prompt": "what?", "completion": "a cat", "label": False},
        {"image": "a.png", "caption": "a dog", "question": "what?"},
        {**chat("what?", "a dog"), **llava("what?", "a cat")},
        chat("what?", "a dog", image_path="b/a.png"),
        chat("what?", "a dog", photo={"bytes": b"\0", "path": None}),
        chat("what?", "a dog", image="a.png", image_2="b.png"),
        chat("what?", "a dog", image="a.png", images=["b.png"]),
        {"messages": [{"role": "system", "content": "a"}, *chat("b", "c")["messages"]], "system": "d"},
        chat("what?", "a dog", system="a", system_prompt="b"),
    ],
    "image in an answer": [
        llava("what?", "<image> a dog", image="a.png"),
        {"messages": [{"role": "system", "content": "<image>"}, *chat("what?", "a dog")["messages"]]},
        chat("what?", [{"type": "image", "image": "a.png"}, words("a dog")]),
    ],
    "empty answer": [
        llava("what?", " \n"),
        llava("what?", None),
        llava("what?", "a dog", "where?", ""),
        chat("what?", []),
        {"image": "a.png", "caption": ""},
    ],
    "placeholder mismatch": [
        llava("<image> what?", "a dog"),
        llava("<image> or <image>?", "a dog", image="a.png"),
        llava("<image> what?", "a dog", image=["a.png", "b.png"]),
        chat([{"type": "image"}, words("what does <image> mean?")], "a dog", images=["a.png"]),
        chat([{"type": "image", "image": "a.png"}, {"type": "image"}, words("same?")], "no", images=["b.png"]),
    ],
    "malformed": [
        {"conversations": 5},
        {"conversations": "talk"},
        {"conversations": {"from": "human"}},
        {"conversations": [5]},
        llava(5, "a dog"),
        {"messages": ["a"]},
        {"messages": "a"},
        chat({"text": "what?"}, "a dog"),
        chat(["what?"], "a dog"),
        chat([{}], "a dog"),
        chat([{"type": 5}], "a dog"),
        chat([words(5)], "a dog"),
        {"prompt": 5, "completion": "a"},
        {"prompt": "a", "completion": {}},
        {"caption": 5},
        {"caption": ["a", "b"]},
        llava("what?", "a dog", image=3),
        llava("what?", "a dog", image=""),
        llava("what?", "a dog", image=[None]),
        llava("what?", "a dog", image={"a": 1}),
        llava("what?", "a dog", image={"bytes": "text", "path": None}),
        llava("what?", "a dog \ud83d"),
        llava("what?", "a dog", image="\udce9.png"),
        llava("what?", "a dog", system=5),
        llava("what?", "a dog", answers_from="x"),
        llava("what?", "a dog", answers_from=-1),
        chat([{"type": "image", "image": 3}], "a dog"),
        {"__key__": "7", "json": 5},
        {"__key__": "7", "json": ["a"]},
    ],
}


@pytest.mark.parametrize(("fault", "row"), [(fault, row) for fault, rows in FAULTS.items() for row in rows])
def test_each_fault_is_told_apart(fault, row):
    with pytest.raises(SampleError) as caught:
        read_sample(row, "photos")
    assert caught.value.fault == fault


def test_a_fault_says_what_is_wrong_where():
    with pytest.raises(SampleError, match="a text is 5, expected a string"):
        read_sample(chat([words(5)], "a dog"))
    with pytest.raises(SampleError, match="2 <image> placeholders, but 1 images"):
        read_sample(llava("<image> or <image>?", "a dog", image="a.png"))


def test_fields_that_change_nothing_are_no_fault():
    messages = [
        {**user(words("what?")), "weight": 0, "train": False, "tool_calls": None, "images": []},
        {**assistant("Write <video> and close it."), "weight": 1, "train": True, "thinking": " ", "name": "bot"},
    ]
    beside = {"source": "web", "license": "mit", "split": "train", "width": 640, "label": 3, "weight": 1.0}
    empty = {"video": "", "audio": {"bytes": None, "path": None}, "tools": "[]", "history": [], "conversations": []}
    row = {"id": 7, "messages": messages, **beside, **empty}
    assert read_sample(row) == read_sample(chat("what?", "Write <video> and close it.", id=7))
    page = "What does <video>\n<source src='a'>\n</video> show?"
    assert read_sample(chat(page, "a clip"))["messages"][0] == user(words(page))
    assert read_sample(chat("what?", "a dog", image="a.png", thumbnail="b.png"))["images"] == ["a.png"]


@pytest.mark.parametrize("name", ["system", "system_prompt"])
@pytest.mark.parametrize(
    ("row", "given"),
    [
        (llava("what?", "a dog", image="a.png"), 0),
        (chat("what?", "a dog", image="a.png"), 0),
        (chat("what?", "a dog", image="a.png", answers_from=1), 1),
        ({"prompt": "what?", "completion": "a dog", "image": "a.png"}, 1),
        ({"image": "a.png", "caption": "a dog"}, 0),
    ],
)
def test_a_system_column_is_the_system_message(name, row, given):
    plain, sample = read_sample(row), read_sample(row | {name: "Be brief."})
    assert sample["messages"] == [{"role": "system", "content": [words("Be brief.")]}, *plain["messages"]]
    # The message in front moves all positions; without given answers, what is learnt is the same.
    assert (plain["answers_from"], sample["answers_from"]) == (given, given + 1)
    assert read_sample(sample | {name: "Be brief."}) == sample


@pytest.mark.parametrize(
    "images",
    [
        {"image": "a.png", "images": []},
        {"image": "", "images": ["a.png"]},
        {"image": ["a.png"], "images": ["a.png"]},
        {"image": "a.png", "images": ["a.png"]},
    ],
)
def test_an_empty_column_of_images_hides_no_other(images):
    assert read_sample(chat("what?", "a dog", **images))["images"] == ["a.png"]


def test_an_image_in_base64_is_no_path_and_no_name():
    text = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(3000)).decode()
    for image in (text, f"data:image/png;base64,{text}"):
        sample = read_sample(llava("what?", "a dog", image=image), "photos")
        assert (sample["images"], sample["id"]) == ([image], "the one answered 'a dog'")
        assert name_of({"image": image}) == "sample with the fields ['image']"


@pytest.mark.parametrize("suffix", ["gif", "bmp", "tif", "TIFF"])
def test_a_webdataset_may_have_any_common_image(suffix):
    assert read_sample({"__key__": "7", suffix: b"\0", "txt": "a dog"})["images"] == [b"\0"]


def test_reading_leaves_the_row_as_it_was():
    row = chat([{"type": "image", "image": "a.png"}, words("what?")], "a dog", images=[])
    read_sample(row)
    assert row == chat([{"type": "image", "image": "a.png"}, words("what?")], "a dog", images=[])


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"id": "42", "__key__": "a"}, "sample 42"),
        ({"id": 0}, "sample 0"),
        ({"id": None, "__key__": "shard/7"}, "sample shard/7"),
        ({"id": None, "images": ["a.png", "b.png"], "messages": []}, "sample a.png"),
        ({"image": {"bytes": b"\0", "path": "a.png"}}, "sample a.png"),
        ({"image": make_image(), "caption": 5}, "sample with the fields ['caption', 'image']"),
    ],
)
def test_a_row_that_cannot_be_read_has_a_name_too(row, name):
    assert name_of(row) == name
    with pytest.raises(SampleError, match="no dog here") as caught, naming(row):
        raise SampleError("missing dog", "no dog here")
    assert caught.value.fault == "missing dog"
    assert str(caught.value).startswith(f"{name}: no dog here")


def test_a_fault_comes_back_from_another_process():
    error = pickle.loads(pickle.dumps(SampleError("empty answer", "an empty answer")))
    assert (type(error), error.fault, str(error)) == (SampleError, "empty answer", "an empty answer")


@pytest.mark.parametrize("key", ["captions", "caption", "text"])
def test_each_of_several_captions_is_a_sample(key):
    rows = split_captions({"id": 7, "image": "a.png", key: ["a dog", "a brown dog"]})
    assert [read_sample(row)["messages"][1] for row in rows] == [assistant("a dog"), assistant("a brown dog")]
    assert {read_sample(row)["id"] for row in rows} == {"7"}


def test_a_photo_without_any_caption_is_not_lost_but_a_fault():
    (row,) = split_captions({"image": "a.png", "captions": []})
    with pytest.raises(SampleError, match="an empty answer"):
        read_sample(row)


def test_a_conversation_is_not_split_by_a_list_beside_it():
    row = llava("what?", "a dog", text=["some", "tags"])
    assert split_captions(row) == [row]
    assert split_captions({"image": "a.png", "caption": "a dog"}) == [{"image": "a.png", "caption": "a dog"}]


@pytest.mark.parametrize(
    "name",
    "video videos video_path video_paths audio audios audio_path audio_paths tools functions tool_calls function_call "
    "reasoning reasoning_content thinking loss_mask completion_mask assistant_masks history chat_template_kwargs "
    "weight loss_weight sample_weight loss_scale".split(),
)
@pytest.mark.parametrize("in_turn", [False, True])
def test_a_field_that_would_be_ignored_is_refused_by_its_name(name, in_turn):
    row = chat("what?", "a dog", image="a.png")
    (row["messages"][1] if in_turn else row)[name] = [0.5]
    with pytest.raises(SampleError, match=f"`{name}`") as caught:
        read_sample(row)
    assert caught.value.fault == "unread field"
