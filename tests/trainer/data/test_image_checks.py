# SPDX-License-Identifier: Apache-2.0
"""Images that data name are allowed, looked for and, where wanted, opened before training, whatever keeps the data."""

import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from datasets import Dataset, Features, Image, IterableDataset, List, Value
from tiny_parts import make_image

from trainer import load_training_data
from trainer.data import image_checks
from trainer.data.image_checks import rows_without_bytes
from trainer.data.image_places import is_inside


FORMS = pytest.mark.parametrize("form", ["json", "messages", "blocks", "tar", "parquet", "image"])
BOTH = pytest.mark.parametrize("streaming", [False, True])


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """The current folder: photos inside it, one beside it, and what datasets prepares elsewhere."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "work"
    folder.mkdir()
    for path in ("work/good.png", "work/other.png", "beside.png"):
        make_image().save(tmp_path / path)
    (folder / "torn.png").write_bytes((folder / "good.png").read_bytes()[:60])
    (folder / "linked.png").symlink_to(tmp_path / "beside.png")
    os.mkfifo(folder / "pipe.png")
    monkeypatch.chdir(folder)
    return folder


def chat(answer: str) -> list[dict]:
    return [{"role": "user", "content": "what?"}, {"role": "assistant", "content": answer}]


def write(form: str, images: list[str], folder: Path) -> str:
    """Samples of one image each, named by their numbers, in the current folder."""
    rows = [{"id": str(n), "image": image, "caption": f"{n} dogs"} for n, image in enumerate(images)]
    path = folder / f"rows.{form}"
    if form == "messages":
        rows = [{"id": row["id"], "images": [row["image"]], "messages": chat(row["caption"])} for row in rows]
        form, path = "json", folder / "rows.json"
    if form == "json":
        path.write_text(json.dumps(rows))
    elif form == "tar":
        with tarfile.open(path, "w") as shard:
            for row in rows:
                content = json.dumps(row).encode()
                member = tarfile.TarInfo(f"{row['id']}.json")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
    elif form == "blocks":
        for row in rows:
            question = [{"type": "image", "path": row.pop("image"), "text": None}, {"type": "text", "text": "what?"}]
            answer = [{"type": "text", "text": row.pop("caption")}]
            row["messages"] = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        Dataset.from_list(rows).to_parquet(path.with_suffix(".parquet"))
        path = path.with_suffix(".parquet")
    elif form == "image":  # as datasets keeps one that is not in the dataset
        for row in rows:
            row["image"] = {"bytes": None, "path": row["image"]}
        image = {"bytes": Value("binary"), "path": Value("string")}
        features = Features({"id": Value("string"), "image": image, "caption": Value("string")})
        Dataset.from_list(rows, features=features).save_to_disk(path)
    else:
        Dataset.from_list(rows).to_parquet(path)
    return str(path)


def names(dataset: Dataset | IterableDataset) -> list[str]:
    columns = dataset.select_columns(["id"]) if dataset.features else dataset
    return [row["id"] for row in columns]


@BOTH
@FORMS
@pytest.mark.parametrize(
    ("image", "flag"),
    [("https://pictures.example/a.png", "allow_image_urls"), ("../beside.png", "allow_paths_outside")],
)
def test_only_a_flag_allows_urls_and_paths_out_of_the_folder(folder, form, streaming, image, flag):
    path = write(form, ["good.png", image], folder)
    with pytest.raises(ValueError, match=f"sample 1: the image .*{image}.*: set .*`{flag}`"):
        list(load_training_data(path, streaming=streaming, bad_images="skip"))
    assert names(load_training_data(path, streaming=streaming, **{flag: True})) == ["0", "1"]


@pytest.mark.parametrize("image", ["/etc/hostname", "HERE/../beside.png", "photos/../../beside.png", "HERE2/a.png"])
def test_no_way_leads_out_of_the_folder(folder, image):
    path = write("json", [image.replace("HERE", str(folder))], folder)
    with pytest.raises(ValueError, match=r"sample 0: the image .* is not in .*`allow_paths_outside`"):
        load_training_data(path, allow_image_urls=True)


@FORMS
def test_absolute_paths_and_links_inside_the_folder_need_no_flag(folder, form):
    path = write(form, [str(folder / "good.png"), "linked.png", "photos/../other.png"], folder)
    (folder / "photos").mkdir()
    assert names(load_training_data(path)) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("path", "folder", "expected"),
    [
        ("photos/a.png", "photos", True),
        ("photos2/a.png", "photos", False),
        ("photos/../a.png", "photos", False),
        ("a.png", ".", True),
        ("/a.png", "/", True),
    ],
)
def test_a_path_is_inside_a_folder_by_its_parts(path, folder, expected):
    assert is_inside(path, folder) == expected


@FORMS
@pytest.mark.parametrize(("image", "reason"), [("gone.png", "does not exist"), ("pipe.png", "is no file")])
def test_missing_files_are_told_and_counted_before_training(folder, form, image, reason):
    path = write(form, ["good.png", image, "good.png", image, "away.png"], folder)
    with pytest.raises(ValueError, match=f"sample 1: the image .*{image} {reason}, and 2 more samples miss theirs"):
        load_training_data(path)
    with pytest.raises(ValueError, match=f"sample 1: the image .*{image} {reason}"):
        list(load_training_data(path, streaming=True))


@BOTH
@FORMS
def test_samples_with_missing_and_broken_images_can_be_left_out(folder, form, streaming, caplog):
    path = write(form, ["good.png", "gone.png", "other.png", "torn.png", "pipe.png", "good.png"], folder)
    assert names(load_training_data(path, streaming=streaming, bad_images="skip")) == ["0", "2", "5"]
    said = "\n".join(caplog.messages)
    assert all(f"sample {n}: the image" in said for n in (1, 3, 4))
    assert ("(3 left out so far)" if streaming else "Left out 3 of 6 samples") in said


def test_broken_images_are_not_opened_unless_they_are_to_be_left_out(folder):
    assert names(load_training_data(write("json", ["good.png", "torn.png"], folder))) == ["0", "1"]


def test_a_dataset_without_a_good_image_is_refused(folder):
    with pytest.raises(ValueError, match="has no sample with all its images, such as sample 0: the image .*gone.png"):
        load_training_data(write("json", ["gone.png", "torn.png"], folder), bad_images="skip")


def test_an_image_that_many_samples_share_is_not_opened_for_each(folder, monkeypatch):
    opened, open_image = [], image_checks.open_image
    monkeypatch.setattr(image_checks, "open_image", lambda image: opened.append(image) or open_image(image))
    load_training_data(write("json", ["good.png", "other.png"] * 300, folder), bad_images="skip")
    assert set(map(os.path.basename, opened)) == {"good.png", "other.png"}
    assert len(opened) <= 2 * os.cpu_count()  # threads may begin with the same image


@BOTH
def test_images_inside_the_data_are_always_allowed(folder, streaming):
    content = (folder / "good.png").read_bytes()
    rows = [
        {"id": "0", "images": [{"bytes": content, "path": "/gone/a.png"}], "messages": chat("a dog")},
        {"id": "1", "images": [{"bytes": content[:60], "path": None}], "messages": chat("a cat")},
        {"id": "2", "images": [], "messages": chat("text")},
    ]
    messages = List({"role": Value("string"), "content": Value("string")})
    features = Features({"id": Value("string"), "images": List(Image()), "messages": messages})
    Dataset.from_list(rows, features=features).to_parquet("rows.parquet")
    assert names(load_training_data("rows.parquet", streaming=streaming)) == ["0", "1", "2"]
    assert names(load_training_data("rows.parquet", streaming=streaming, bad_images="skip")) == ["0", "2"]


def test_rows_are_looked_through_without_their_bytes():
    rows = [
        {"image": {"bytes": b"content", "path": "a"}, "images": [{"bytes": b"content", "path": None}], "n": 1},
        {"image": {"bytes": None, "path": "b"}, "images": [], "n": None},
        {"image": None, "images": None, "n": 3},
        {"image": None, "images": [None, {"bytes": None, "path": "c"}], "n": 4},
    ]
    undecoded = Image(decode=False)
    features = Features({"image": undecoded, "images": List(undecoded), "n": Value("int64")})
    emptied = [
        {"image": {"bytes": b"", "path": "a"}, "images": [{"bytes": b"", "path": None}], "n": 1},
        *rows[1:],
    ]
    dataset = Dataset.from_list(rows, features=features)
    assert list(rows_without_bytes(dataset)) == emptied
    assert list(rows_without_bytes(dataset.select([3, 0]))) == [emptied[3], emptied[0]]


def test_rows_of_mixed_content_are_looked_through_too(folder):
    answer = [{"type": "text", "text": "a dog"}]
    question = [{"type": "image", "path": "/etc/hostname"}, {"type": "text", "text": "what?"}]
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}
        for asked in ("what?", question)
    ]
    Dataset.from_list(rows, on_mixed_types="use_json").save_to_disk("mixed")
    with pytest.raises(ValueError, match="/etc/hostname is not in .*`allow_paths_outside`"):
        load_training_data("mixed")
