# SPDX-License-Identifier: Apache-2.0
"""scripts/check_data.py and what it is made of: planted faults are found, each where it lies, and nothing else is."""

import json
import runpy
import sys
from collections import Counter
from copy import deepcopy
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value
from in_process import run_script_here
from paths import SCRIPTS
from tiny_parts import make_image, make_tokenizer

from trainer.data import checking
from trainer.data.checking import check_file, write_clean_rows


SCRIPT = SCRIPTS / "check_data.py"
MAX_LENGTH = 300  # far more than the tokens of a clean row, far fewer than those of the planted long one


@pytest.fixture
def images(tmp_path) -> Path:
    """A folder of good and bad images."""
    folder = tmp_path / "images"
    folder.mkdir()
    for colour in ("red", "blue", "green"):
        make_image(colour).save(folder / f"{colour}.jpg")
        make_image(colour).save(folder / f"{colour}.png")
    for suffix in ("jpg", "png"):
        whole = (folder / f"red.{suffix}").read_bytes()
        (folder / f"truncated.{suffix}").write_bytes(whole[: len(whole) * 4 // 5])
    (folder / "text.jpg").write_text("not a photo at all")
    (folder / "empty.jpg").touch()
    (folder / "folder.jpg").mkdir()
    return folder


def row(name: str, image: str | None = "red.jpg", answer: str = "a red ball") -> dict:
    turns = [{"from": "human", "value": "what is in the picture?"}, {"from": "gpt", "value": answer}]
    return {"id": name, **({"image": image} if image else {}), "conversations": turns}


def changed(name: str, **turns: dict) -> dict:
    """A row whose question or answer is replaced."""
    new = row(name, answer=f"the answer of {name}")
    new["conversations"][0].update(turns.get("question", {}))
    new["conversations"][1].update(turns.get("answer", {}))
    return new


def write(path: Path, rows: list) -> list[int]:
    """Writes rows over several lines each (a .jsonl: with blank lines between) and says on which each begins."""
    lines, text = [], "" if path.suffix == ".jsonl" else "[\n\n"
    for position, content in enumerate(rows):
        lines.append(text.count("\n") + 1)
        if path.suffix == ".jsonl":
            text += (content if isinstance(content, str) else json.dumps(content)) + "\n" * (1 + position % 2)
        else:
            text += json.dumps(content, indent=1) + (",\n" if position + 1 < len(rows) else "\n]\n")
    path.write_text(text)
    return lines


def found(report) -> dict[tuple[int, str], str]:
    return {(fault.line, kind): fault.message for kind, faults in report.examples.items() for fault in faults}


def planted() -> list[tuple[str | None, object]]:
    """Rows, each with the one fault that it has."""
    question = [{"type": "text", "text": "what?"}]
    return [
        (None, row("first")),
        ("not json", '{"id": "cut off'),
        ("no conversation", {"id": "bare", "image": "red.jpg"}),
        ("unknown role", changed("alien", question={"from": "alien"})),
        (
            "unknown content",
            {"id": "film", "messages": [{"role": "user", "content": [*question, {"type": "video"}]}]},
        ),
        ("turns out of order", changed("twice", question={"from": "gpt"})),
        ("no answer", {"id": "silent", "conversations": row("")["conversations"][:1]}),
        ("image in an answer", changed("drawn", answer={"value": "<image> a ball"})),
        ("empty answer", changed("mute", answer={"value": " \n"})),
        (None, row("between", "blue.png", "a blue ball")),
        ("placeholder mismatch", changed("two", question={"value": "<image><image> what?"})),
        ("malformed", {"id": "five", "conversations": 5}),
        ("unread field", {**row("clip", None), "video": "a.mp4"}),
        ("missing image", row("gone", "gone.jpg")),
        ("truncated image", row("cut", "truncated.jpg")),
        ("undecodable image", row("text", "text.jpg")),
        ("too long", row("long", answer="a red ball " * MAX_LENGTH)),
        ("duplicate", row("another name for the first")),
        ("repeated id", row("between", "blue.png", "another answer")),
        (None, row("last", None, "no image at all")),
    ]


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_every_planted_fault_is_found_with_its_line_and_nothing_else(images, processor, tmp_path, suffix):
    kinds, rows = zip(*planted(), strict=True)
    path = tmp_path / f"samples{suffix}"
    lines = write(path, list(rows))
    report = check_file(path, images, processor, MAX_LENGTH)
    assert set(found(report)) == {(line, kind) for line, kind in zip(lines, kinds, strict=True) if kind}
    assert report.counts == Counter(kind for kind in kinds if kind)
    assert (report.num_samples, report.num_faulty, report.num_clean) == (len(rows), len(rows) - 3, 3)
    assert found(report)[lines[17], "duplicate"].endswith(f"first ({path}:1)" if suffix == ".jsonl" else f"({path}:3)")
    assert f"({path}:{lines[9]})" in found(report)[lines[18], "repeated id"]
    names = [fault.sample for faults in report.examples.values() for fault in faults]
    assert {"gone", "cut", "alien", "five", "row 1"} <= set(names)


def test_each_nonsense_is_a_fault_and_no_traceback(images, tmp_path):
    talk = row("")["conversations"]
    nonsense = [
        {"conversations": None},
        {"conversations": [5]},
        {"conversations": "talk"},
        {"conversations": [{"from": ["human"], "value": "what?"}]},
        {"conversations": [{"from": "human", "value": 5}]},
        {"messages": [{"role": "user", "content": [{}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "red.jpg"}]}]},
        {"image": "red.jpg", "caption": 5},
        {"image": "red.jpg", "captions": []},
        {"prompt": 5, "completion": {}},
        {"conversations": talk, "answers_from": "x"},
        {"conversations": talk, "image": 5},
        {"conversations": talk, "image": [None]},
        {"conversations": talk, "image": {"a": 1}},
        {"conversations": talk, "image": "\0"},
        {"conversations": [talk[0], {"from": "gpt", "value": "\ud83d"}]},
        {"__key__": "a", "json": 5},
        {},
        [],
        5,
        None,
    ]
    path = tmp_path / "samples.json"
    write(path, nonsense)
    report = check_file(path, images, num_examples=100)
    assert report.faulty_rows == set(range(len(nonsense)))
    assert report.counts.total() == len(nonsense)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        ("truncated.jpg", "truncated image"),
        ("truncated.png", "truncated image"),
        ("text.jpg", "undecodable image"),
        ("empty.jpg", "undecodable image"),
        ("folder.jpg", "missing image"),
        ("gone.jpg", "missing image"),
    ],
)
def test_a_broken_image_is_named(images, tmp_path, image, kind):
    path = tmp_path / "samples.jsonl"
    write(path, [row("good"), row("bad", ["blue.jpg", image]), row("bad too", image, "another answer")])
    report = check_file(path, images)
    assert report.counts == {kind: 2}
    assert all(str(images / image) in fault.message for fault in report.examples[kind])
    assert [fault.sample for fault in report.examples[kind]] == ["bad", "bad too"]
    assert report.num_images == 3


def test_a_sample_with_two_faults_is_one_faulty_sample(images, tmp_path):
    path = tmp_path / "samples.json"
    write(path, [row("first"), row("both", ["gone.jpg", "text.jpg"])])
    report = check_file(path, images)
    assert report.counts == {"missing image": 1, "undecodable image": 1}
    assert (report.num_faulty, report.num_clean) == (1, 1)


def test_an_image_that_many_samples_share_is_decoded_once(images, tmp_path, monkeypatch):
    opened = []

    def open_and_note(image):
        opened.append(Path(image).name)
        return open_image(image)

    open_image = checking.open_image
    monkeypatch.setattr(checking, "open_image", open_and_note)
    path = tmp_path / "samples.json"
    names = ["red.jpg", "blue.jpg", "gone.jpg"]
    num_rows = 2 * checking.ROWS_AT_ONCE
    write(path, [row(str(number), names[number % 3], f"answer {number}") for number in range(num_rows)])
    report = check_file(path, images)
    assert Counter(opened) == Counter(names)
    assert (report.num_rows, report.num_images) == (num_rows, len(names))
    assert report.counts == {"missing image": num_rows // 3}
    assert len(report.examples["missing image"]) == 3


def test_image_paths_are_relative_to_the_file_unless_told_otherwise(images):
    write(images / "samples.json", [row("first")])
    assert check_file(images / "samples.json").counts == {}
    assert check_file(images / "samples.json", images.parent).counts == {"missing image": 1}


def test_the_same_images_and_messages_are_a_duplicate_whatever_the_id(images, tmp_path):
    path = tmp_path / "samples.jsonl"
    rows = [row("a"), row("a", "blue.jpg"), row("b"), row("b", answer="other"), row("a"), row("c", "red.png")]
    write(path, rows)
    path.write_text(path.read_text().replace("\n\n", "\n"))
    report = check_file(path, images)
    assert set(found(report)) == {(2, "repeated id"), (3, "duplicate"), (4, "repeated id"), (5, "duplicate")}
    assert found(report)[5, "duplicate"].endswith(f"a ({path}:1)")


def test_duplicates_and_repeated_ids_are_found_far_apart(images, tmp_path):
    path = tmp_path / "samples.json"
    rows = [row(str(number), None, f"answer {number}") for number in range(2 * checking.ROWS_AT_ONCE)]
    lines = write(path, [*rows, row("new", None, "answer 3"), row("5", None, "new")])
    assert set(found(check_file(path, images))) == {(lines[-2], "duplicate"), (lines[-1], "repeated id")}


def test_rows_without_an_id_are_never_called_repeated(images, tmp_path):
    rows = [row("", answer="one"), row("", answer="two")]
    for content in rows:
        del content["id"]
    write(tmp_path / "samples.json", rows)
    report = check_file(tmp_path / "samples.json", images)
    assert (report.num_samples, report.num_faulty, report.num_images) == (2, 0, 1)


def test_each_caption_of_a_row_is_a_sample_under_the_rows_id(images, tmp_path):
    path = tmp_path / "samples.jsonl"
    rows = [
        {"id": "a", "image": "red.jpg", "captions": ["a red ball", "a ball", "red"]},
        {"id": "b", "image": "blue.jpg", "captions": ["a blue ball", "", "a blue ball"]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    report = check_file(path, images)
    assert set(found(report)) == {(2, "empty answer"), (2, "duplicate")}
    assert (report.num_rows, report.num_samples, report.num_clean, report.num_images) == (2, 6, 4, 2)
    assert report.faulty_rows == {1}


def test_a_sample_is_too_long_from_the_first_token_above_the_maximum(images, processor, tmp_path):
    path = tmp_path / "samples.json"
    write(path, [row("first", ["red.jpg", "blue.jpg"])])
    question = [{"type": "image", "image": make_image()}] * 2 + [{"type": "text", "text": "what is in the picture?"}]
    answer = [{"type": "text", "text": "a red ball"}]
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    length = len(processor.apply_chat_template(messages, tokenize=True, return_dict=True)["input_ids"][0])
    assert length > 2 * 16  # those of the images are counted
    assert check_file(path, images, processor, length).counts == {}
    assert list(found(check_file(path, images, processor, length - 1))) == [(3, "too long")]


def test_a_conversation_that_the_chat_template_refuses_is_a_fault(images, processor, tmp_path):
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system prompts') }}{% endif %}"
    processor.chat_template = refusal + processor.chat_template
    path = tmp_path / "samples.json"
    ordered = row("ordered", answer="another")
    ordered["conversations"].insert(0, {"from": "system", "value": "Be brief."})
    lines = write(path, [row("first"), ordered])
    report = check_file(path, images, processor, MAX_LENGTH)
    assert list(found(report)) == [(lines[1], "template")]
    assert "no system prompts" in found(report)[lines[1], "template"]


@pytest.fixture
def saved_dataset(images, tmp_path) -> Path:
    """A folder of `Dataset.save_to_disk` with the images inside; rows 1 (truncated), 2 (empty answer), 4 (repeat)."""
    answers = ["a red ball", "what was that?", "", "a blue ball", "a red ball"]
    names = ["red.png", "truncated.png", "red.png", "blue.png", "red.png"]
    rows = [
        {
            "messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": answer}],
            "images": [{"bytes": (images / name).read_bytes(), "path": None}],
        }
        for answer, name in zip(answers, names, strict=True)
    ]
    Dataset.from_list(rows).cast_column("images", List(Image())).save_to_disk(tmp_path / "dataset")
    return tmp_path / "dataset"


def test_a_saved_dataset_is_checked_by_row(saved_dataset):
    report = check_file(saved_dataset)
    assert set(found(report)) == {(1, "truncated image"), (2, "empty answer"), (4, "duplicate")}
    assert f"({saved_dataset}, row 0)" in found(report)[4, "duplicate"]
    assert (report.num_samples, report.num_clean, report.num_images) == (5, 2, 3)


def test_a_saved_dataset_may_have_its_images_inside_the_messages(images, tmp_path):
    rows = []
    for name in ("red.png", "truncated.png"):
        image = {"bytes": (images / name).read_bytes(), "path": None}
        question = [{"type": "image", "image": image, "text": None}, {"type": "text", "image": None, "text": "what?"}]
        answer = [{"type": "text", "image": None, "text": "a red ball"}]
        rows.append({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
    block = {"type": Value("string"), "image": Image(), "text": Value("string")}
    features = Features({"messages": List({"role": Value("string"), "content": List(block)})})
    Dataset.from_list(rows, features=features).save_to_disk(tmp_path / "dataset")
    report = check_file(tmp_path / "dataset")
    assert (set(found(report)), report.num_images) == ({(1, "truncated image")}, 2)


def test_a_saved_dataset_may_mix_text_and_blocks(tmp_path):
    answers = ["a red ball", [{"type": "text", "text": "a red ball"}], [{"type": "text", "text": ""}]]
    rows = [
        {"messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": answer}]}
        for answer in answers
    ]
    Dataset.from_list(rows, on_mixed_types="use_json").save_to_disk(tmp_path / "dataset")
    assert set(found(check_file(tmp_path / "dataset"))) == {(1, "duplicate"), (2, "empty answer")}


def test_the_clean_rows_of_a_saved_dataset_are_a_saved_dataset(saved_dataset, tmp_path):
    write_clean_rows(check_file(saved_dataset), tmp_path / "clean")
    clean = Dataset.load_from_disk(str(tmp_path / "clean"))
    assert [content["messages"][1]["content"] for content in clean] == ["a red ball", "a blue ball"]
    assert check_file(tmp_path / "clean").counts == {}


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_the_clean_rows_are_unchanged_and_pass_their_own_check(images, tmp_path, suffix):
    rows = [deepcopy(content) for _, content in planted()]
    rows[0].update(source="Straße 狗", score=0.5, more=[None, {"a": True}])
    path, clean = tmp_path / f"samples{suffix}", tmp_path / "new" / f"clean{suffix}"
    write(path, rows)
    write_clean_rows(check_file(path, images), clean)
    text = clean.read_text(encoding="utf-8")
    written = [json.loads(line) for line in text.splitlines()] if suffix == ".jsonl" else json.loads(text)
    assert written == [rows[0], rows[9], rows[16], rows[19]]  # 16 is too long, for which nobody asked
    assert "Straße 狗" in text
    report = check_file(clean, images)
    assert (report.num_samples, report.num_faulty) == (4, 0)
    assert [file.name for file in clean.parent.iterdir()] == [clean.name]


def test_half_a_character_in_an_unused_field_is_written_as_it_was(images, tmp_path):
    path = tmp_path / "samples.json"
    rows = [row("first") | {"source": "a \ud83d"}, row("gone", "gone.jpg")]
    write(path, rows)
    write_clean_rows(check_file(path, images), tmp_path / "clean.json")
    assert json.loads((tmp_path / "clean.json").read_text(encoding="utf-8")) == rows[:1]


def test_fields_that_training_does_not_use_are_listed(images, tmp_path, call_script):
    path = tmp_path / "samples.json"
    write(path, [row("a") | {"source": "web"}, row("b", answer="b") | {"license": "mit", "video": ""}])
    status, printed = call_script(path, "--image_folder", images)
    assert status == 0 and "Fields that training does not use: license, source.\n" in printed


def test_an_existing_file_is_never_overwritten(images, tmp_path):
    path, other = tmp_path / "samples.json", tmp_path / "other.json"
    write(path, [row("first")])
    other.write_text("dear to somebody")
    with pytest.raises(FileExistsError, match=r"other\.json exists"):
        write_clean_rows(check_file(path, images), other)
    assert other.read_text() == "dear to somebody"


def test_without_a_clean_sample_nothing_is_written(images, tmp_path):
    path = tmp_path / "samples.json"
    write(path, [row("first", "gone.jpg"), row("second", "text.jpg")])
    with pytest.raises(ValueError, match="no clean sample"):
        write_clean_rows(check_file(path, images), tmp_path / "clean.json")
    assert not (tmp_path / "clean.json").exists()


def test_writing_that_fails_leaves_nothing_behind(images, tmp_path):
    path = tmp_path / "samples.json"
    write(path, [row("first"), row("second", answer="another")])
    report = check_file(path, images)
    path.write_text(path.read_text()[:-60])
    with pytest.raises(ValueError, match="cannot be read"):
        write_clean_rows(report, tmp_path / "new" / "clean.json")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_file_that_cannot_be_read_is_refused_by_name(images, tmp_path):
    contents = {
        "object.json": b'{"id": 1}',
        "cut.json": b'[{"id": 1}, {"id"',
        "empty.json": b"[]",
        "empty.jsonl": b"\n\n",
        "binary.jsonl": b"\xff\xfe\x00",
        "table.csv": b"image,caption",
        "packed.json.gz": b"\x1f\x8b",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    DatasetDict(test=Dataset.from_list([row("first")])).save_to_disk(tmp_path / "splits")
    for name in [*contents, "absent.json", "absent.jsonl", "images", "splits"]:
        with pytest.raises(ValueError, match=name):
            check_file(tmp_path / name, images)


def test_real_photos_are_clean(data, tmp_path):
    rows = json.loads((data / "llava_format" / "instruct_mix.json").read_text())[::40]
    write(tmp_path / "samples.json", rows)
    report = check_file(tmp_path / "samples.json", data)
    assert (report.counts, report.num_samples, report.num_images) == ({}, len(rows), len(rows))


def test_the_script_shows_a_table_and_writes_what_is_clean(images, processor, tmp_path):
    processor.save_pretrained(tmp_path / "processor")
    path, clean = tmp_path / "samples.json", tmp_path / "clean.json"
    rows = [row("long", answer="a " * 900), row("gone", "gone.jpg"), row("gone too", "gone.jpg", "yes"), row("good")]
    lines = write(path, rows)
    arguments = ["--image_folder", images, "--processor", tmp_path / "processor", "--max_length", MAX_LENGTH]
    result = run_script_here(SCRIPT, path, *arguments, "--clean_output", clean)
    assert result.returncode == 1, result.stderr
    printed = result.stdout.splitlines()
    counts = [line.rsplit(maxsplit=1) for line in printed if line.rsplit(maxsplit=1)[-1:] in (["2"], ["1"])]
    assert counts == [["missing image", "2"], ["too long", "1"]]
    assert "4 samples, 3 faulty, 1 clean, 2 images" in printed
    example = next(line for line in printed if f"{path}:{lines[2]}:" in line)
    assert "gone too" in example and str(images / "gone.jpg") in example
    assert json.loads(clean.read_text()) == rows[3:]


def test_the_script_says_in_one_sentence_what_it_cannot_read(tmp_path):
    result = run_script_here(SCRIPT, tmp_path / "absent.json")
    assert (result.returncode, result.stdout) == (2, "")
    assert "absent.json cannot be read" in result.stderr.splitlines()[-1]


@pytest.fixture
def call_script(monkeypatch, capsys):
    """Calls the script's `main` in this process, since a fresh one takes seconds to import transformers."""
    script = runpy.run_path(str(SCRIPT))

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["check_data.py", *map(str, arguments)])
        status = script["main"]()
        return status, capsys.readouterr().out

    return call


def test_the_script_is_content_with_a_clean_file(images, tmp_path, call_script):
    path = tmp_path / "samples.jsonl"
    write(path, [row("first")])
    assert call_script(path, "--image_folder", images) == (0, "1 samples, 0 faulty, 1 clean, 1 images\n")


def test_the_script_finds_faults_even_where_no_sample_is_clean(images, tmp_path, call_script):
    path = tmp_path / "samples.json"
    write(path, [row("first", "gone.jpg")])
    status, printed = call_script(path, "--image_folder", images, "--clean_output", tmp_path / "clean.json")
    assert status == 1 and "1 samples, 1 faulty, 0 clean, 1 images" in printed
    assert not (tmp_path / "clean.json").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--image_folder", "nowhere"], "--image_folder nowhere is no folder"),
        (["--max_length", "100"], "--max_length needs --processor"),
        (["--processor", "somewhere", "--max_length", "0"], "--max_length is 0"),
        (["--processor", "somewhere", "--max_length", "9"], "--processor somewhere must be a Hub id or a folder"),
        (["--processor", "tokenizer", "--max_length", "9"], "not a LangBridgeProcessor"),
        (["--clean_output", "samples.json"], "--clean_output samples.json exists"),
        (["--clean_output", "clean.jsonl"], "clean.jsonl must end in .json"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_read(tmp_path, monkeypatch, call_script, options, complaint):
    monkeypatch.chdir(tmp_path)
    make_tokenizer().save_pretrained("tokenizer")
    Path("samples.json").write_text("no json at all, so reading it would be refused otherwise")
    with pytest.raises(ValueError, match=complaint):
        call_script("samples.json", *options)
