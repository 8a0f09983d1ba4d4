# SPDX-License-Identifier: Apache-2.0
"""Data in from every place that people keep it: alike, lazily, images undecoded, each fault by its file and sample."""

import gzip
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from datasets import (
    Audio,
    Dataset,
    DatasetDict,
    Features,
    Image,
    IterableDataset,
    List,
    Value,
    Video,
    load_dataset,
)
from paths import ROOT
from tiny_parts import make_image

from trainer import load_training_data
from trainer.data.collator import ConversationCollator
from trainer.data.conversations import ConversationEncoder
from trainer.data.dataset_rows import as_rows
from trainer.data.samples import read_sample
from trainer.data.sources import with_image_folder


MESSAGES = List({"role": Value("string"), "content": Value("string")})
BOTH = pytest.mark.parametrize("streaming", [False, True])


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch) -> Path:
    """What datasets prepares goes where pytest clears up."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def collator(processor) -> ConversationCollator:
    return ConversationCollator(ConversationEncoder(processor))


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    make_image(colour).save(buffer, "PNG")
    return buffer.getvalue()


def chat(*texts: str) -> list[dict]:
    return [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(texts)]


SAMPLES = [
    {"id": "text", "images": [], "messages": chat("what runs?", "a brown dog")},
    {"id": "one", "images": ["red"], "messages": chat("<image>what?", "a red ball", "where?", "on the grass")},
    {"id": "two", "images": ["blue", "green"], "messages": chat("<image> or <image>?", "the first")},
    {"id": "none of two", "images": [], "messages": chat("what plays?", "two small children")},
    *({"id": f"photo {n}", "images": ["black"], "messages": chat("what is it?", f"{n} dogs")} for n in range(4)),
    {"id": "last", "images": ["red", "blue", "green"], "messages": chat("and these?", "three")},
]


def write_json(folder: Path) -> str:
    rows = []
    for sample in SAMPLES:
        turns = [{"from": turn["role"], "value": turn["content"]} for turn in sample["messages"]]
        images = [f"{colour}.png" for colour in sample["images"]]
        image = {"image": images[0] if len(images) == 1 else images} if images else {}
        rows.append({"id": sample["id"], "conversations": turns, **image})
    for colour in ("red", "blue", "green", "black"):
        (folder / f"{colour}.png").write_bytes(png(colour))
    (folder / "samples.json").write_text(json.dumps(rows))
    return str(folder / "samples.json")


def write_jsonl(folder: Path) -> str:
    rows = json.loads(Path(write_json(folder)).read_text())
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "samples.jsonl")


def with_bytes(samples: list[dict]) -> Dataset:
    rows = [{**s, "images": [{"bytes": png(c), "path": f"{c}.png"} for c in s["images"]]} for s in samples]
    features = Features({"id": Value("string"), "images": List(Image()), "messages": MESSAGES})
    return Dataset.from_list(rows, features=features)


def write_parquet(folder: Path) -> str:
    with_bytes(SAMPLES[:5]).to_parquet(folder / "0.parquet")
    with_bytes(SAMPLES[5:]).to_parquet(folder / "1.parquet")
    return str(folder / "*.parquet")


def write_saved(folder: Path) -> str:
    with_bytes(SAMPLES).save_to_disk(folder / "saved")
    return str(folder / "saved")


def write_tar(path: Path, samples: dict[str, dict[str, bytes]]) -> None:
    with tarfile.open(path, "w") as shard:
        for key, files in samples.items():
            for extension, content in files.items():
                member = tarfile.TarInfo(f"{key}.{extension}")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))


def write_shards(folder: Path) -> str:
    for number, part in enumerate((SAMPLES[:3], SAMPLES[3:])):
        files = {}
        for sample in part:
            images = {f"{position}.png": png(colour) for position, colour in enumerate(sample["images"])}
            files[sample["id"]] = {**images, "json": json.dumps({"messages": sample["messages"]}).encode()}
        write_tar(folder / f"{number}.tar", files)
    return str(folder / "*.tar")


WRITERS = [write_json, write_jsonl, write_parquet, write_saved, write_shards]


@BOTH
@pytest.mark.parametrize("write", WRITERS)
def test_text_and_several_images_mix_in_every_format(tmp_path, collator, write, streaming):
    dataset = as_rows(load_training_data(write(tmp_path), streaming=streaming))
    assert isinstance(dataset, IterableDataset if streaming else Dataset)
    batch = collator(list(dataset))
    images = [[make_image(colour) for colour in sample["images"]] for sample in SAMPLES]
    expected = collator([{**sample, "images": own} for sample, own in zip(SAMPLES, images, strict=True)])
    assert batch["sample_ids"] == [sample["id"] for sample in SAMPLES]
    for name in ("input_ids", "labels", "pixel_values"):
        assert torch.equal(batch[name], expected[name])


@BOTH
def test_images_are_looked_for_in_the_given_folder_or_beside_the_json(tmp_path, streaming):
    path, photos = write_json(tmp_path), tmp_path / "photos"
    photos.mkdir()
    for colour in ("red", "blue", "green", "black"):
        (photos / f"{colour}.png").write_bytes(png(colour))
    beside, given = (
        list(load_training_data(path, folder, streaming=streaming))[1]["images"] for folder in (None, str(photos))
    )
    assert (beside, given) == ([str(tmp_path / "red.png")], [str(photos / "red.png")])


@BOTH
@pytest.mark.parametrize("write", [write_json, write_jsonl, write_parquet, write_shards])
def test_suffixes_may_be_upper_case(tmp_path, monkeypatch, write, streaming):
    path = Path(write(tmp_path))
    upper = str(path.with_suffix(path.suffix.upper()))
    for file in tmp_path.glob(f"*{path.suffix}"):
        file.rename(file.with_suffix(file.suffix.upper()))
    assert len(list(load_training_data(upper, streaming=streaming))) == len(SAMPLES)


@pytest.mark.parametrize("write", [write_json, write_parquet, write_shards])
def test_a_split_of_files_without_splits_is_refused(tmp_path, write):
    with pytest.raises(ValueError, match=r"`dataset_split` dev says nothing of .*, which has no splits"):
        load_training_data(write(tmp_path), split="dev")


@BOTH
@pytest.mark.parametrize("key", ["captions", "caption", "text"])
def test_each_of_a_photos_captions_is_a_sample(tmp_path, collator, key, streaming):
    rows = [
        {"image": {"bytes": png("red"), "path": "red.png"}, key: ["a red ball", "a ball"]},
        {"image": {"bytes": png("blue"), "path": "blue.png"}, key: ["a boat"]},
    ]
    features = Features({"image": Image(), key: List(Value("string"))})
    Dataset.from_list(rows, features=features).to_parquet(tmp_path / "photos.parquet")
    loaded = load_training_data(str(tmp_path / "photos.parquet"), streaming=streaming)
    samples = [read_sample(row) for row in as_rows(loaded)]
    assert [sample["messages"][1]["content"][0]["text"] for sample in samples] == ["a red ball", "a ball", "a boat"]
    assert [sample["id"] for sample in samples] == ["red.png", "red.png", "blue.png"]
    assert collator(samples)["pixel_values"].shape[0] == 3


@BOTH
def test_captions_of_json_and_of_shards_are_split_too(tmp_path, streaming):
    (tmp_path / "a.png").write_bytes(png("red"))
    (tmp_path / "a.jsonl").write_text(json.dumps({"id": 1, "image": "a.png", "captions": ["a dog", "a brown dog"]}))
    write_tar(tmp_path / "a.tar", {"1": {"png": png("red"), "json": b'{"captions": ["a dog", "a brown dog"]}'}})
    for name in ("a.jsonl", "a.tar"):
        rows = list(as_rows(load_training_data(str(tmp_path / name), streaming=streaming)))
        assert [row["messages"][1]["content"][0]["text"] for row in rows] == ["a dog", "a brown dog"]
        assert {row["id"] for row in rows} == {"1"}


@BOTH
def test_a_photo_without_captions_is_named_not_lost(tmp_path, collator, streaming):
    rows = [{"image": "a.png", "captions": ["a dog"]}, {"image": "b.png", "captions": []}]
    rows.append({"image": "c.png", "captions": None})
    features = Features({"image": Value("string"), "captions": List(Value("string"))})
    dataset = Dataset.from_list(rows, features=features)
    rows = list(as_rows(dataset.to_iterable_dataset() if streaming else dataset))
    assert [row["image"] for row in rows] == ["a.png", "b.png", "c.png"]
    for row, name, fault in zip(rows[1:], ("b.png", "c.png"), ("an empty answer", "it has neither"), strict=True):
        with pytest.raises(ValueError, match=f"sample {name}: {fault}"):
            collator([row])


@BOTH
def test_a_list_beside_a_conversation_is_no_list_of_captions(streaming):
    dataset = Dataset.from_list([{"messages": chat("what?", "a dog"), "text": ["some", "tags"]}])
    (row,) = as_rows(dataset.to_iterable_dataset() if streaming else dataset)
    assert read_sample(row)["messages"][1]["content"][0]["text"] == "a dog"


@BOTH
def test_a_set_of_text_has_a_column_for_images(tmp_path, collator, streaming):
    Dataset.from_list([{"messages": chat("what?", f"{n} dogs")} for n in range(4)]).select([2, 0]).to_parquet(
        tmp_path / "text.parquet"
    )
    loaded = load_training_data(str(tmp_path / "text.parquet"), streaming=streaming)
    rows = list(as_rows(loaded))
    assert [row["images"] for row in rows] == [[], []]
    assert collator(rows)["pixel_values"].shape == (0, 3, 32, 32)


def test_prompt_and_completion_of_a_dataset(collator, processor):
    rows = [{"prompt": "what?", "completion": "a dog", "image": make_image()}] * 2
    labels = collator(list(as_rows(Dataset.from_list(rows))))["labels"]
    assert processor.decode(labels[0][labels[0] != -100]) == " a dog<|endoftext|>"


@pytest.mark.parametrize("row", [{"images": []}, {"image": None}, {}])
def test_a_stream_that_does_not_say_what_it_holds(row):
    def generate():
        yield {"messages": chat("what?", "a dog"), **row}
        yield {"messages": chat("what?", "a cat"), **row, **({"images": ["a.png"]} if "images" in row else {})}

    stream = as_rows(IterableDataset.from_generator(generate))
    rows = list(stream)
    assert "image" in rows[0] or "images" in rows[0]
    assert [len(read_sample(row)["images"]) for row in rows] == [0, int("images" in row)]


def test_captions_of_a_json_stream_of_datasets_own(tmp_path):
    path = tmp_path / "captions.jsonl"
    path.write_text(
        '{"image": "a.png", "captions": ["a dog", "a brown dog"]}\n{"image": "b.png", "captions": ["a"]}\n'
    )
    stream = load_dataset("json", data_files=str(path), split="train", streaming=True)
    samples = [read_sample(row) for row in as_rows(stream)]
    assert [sample["id"] for sample in samples] == ["a.png", "a.png", "b.png"]


NOT_DECODED = {"bytes": b"no image", "path": "torn.png"}
PLACES = {
    "a column": ({"image": Image(), "caption": Value("string")}, {"image": NOT_DECODED, "caption": "a dog"}),
    "a list": (
        {"images": List(Image()), "messages": MESSAGES},
        {"images": [NOT_DECODED], "messages": chat("what?", "a dog")},
    ),
    "a block": (
        {
            "messages": List(
                {
                    "role": Value("string"),
                    "content": List({"type": Value("string"), "image": Image(), "text": Value("string")}),
                }
            )
        },
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "image", "image": NOT_DECODED, "text": None},
                        {"type": "text", "image": None, "text": "what?"},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "image": None, "text": "a dog"}]},
            ]
        },
    ),
}


@BOTH
@pytest.mark.parametrize("place", PLACES)
def test_images_stay_undecoded_until_the_batch(tmp_path, collator, place, streaming):
    features, row = PLACES[place]
    Dataset.from_list([row], features=Features(features)).to_parquet(tmp_path / "torn.parquet")
    (row,) = as_rows(load_training_data(str(tmp_path / "torn.parquet"), streaming=streaming))
    assert read_sample(row)["images"] == [NOT_DECODED]
    with pytest.raises(ValueError, match=r"sample torn\.png: the image torn\.png is of no format"):
        collator([row])


def test_a_saved_dataset_is_not_written_anew(tmp_path, own_cache):
    path = write_saved(tmp_path)
    before = sorted(file.name for file in Path(path).iterdir())
    for dataset in (as_rows(load_training_data(path)), as_rows(load_training_data(path).select([4, 1]))):
        assert {Path(file["filename"]).parent for file in dataset.cache_files} >= {Path(path)}
    assert [row["id"] for row in dataset] == ["photo 0", "one"]
    assert dataset[1]["images"][0]["bytes"] == png("red")
    assert sorted(file.name for file in Path(path).iterdir()) == before
    assert not list(own_cache.rglob("*.arrow"))


@BOTH
def test_a_split_is_chosen_by_name(tmp_path, streaming):
    DatasetDict(train=with_bytes(SAMPLES[:2]), test=with_bytes(SAMPLES[2:3])).save_to_disk(tmp_path / "saved")
    path = str(tmp_path / "saved")
    assert [row["id"] for row in load_training_data(path, streaming=streaming)] == ["text", "one"]
    assert [row["id"] for row in load_training_data(path, split="test", streaming=streaming)] == ["two"]
    with pytest.raises(ValueError, match=r"saved has no split dev: name one of \['test', 'train'\]"):
        load_training_data(path, split="dev", streaming=streaming)


@pytest.mark.parametrize("write", [write_json, write_shards])
def test_a_file_that_changed_is_read_anew(tmp_path, own_cache, write):
    path = write(tmp_path)
    assert load_training_data(path)[1]["messages"][1]["content"][0]["text"] == "a red ball"
    assert list(own_cache.rglob("*.arrow"))
    file = tmp_path / ("samples.json" if write is write_json else "0.tar")
    stat = file.stat()
    file.write_bytes(file.read_bytes().replace(b"a red ball", b"a big boat"))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1000))
    assert load_training_data(path)[1]["messages"][1]["content"][0]["text"] == "a big boat"


@BOTH
@pytest.mark.parametrize("place", ["a column", "a list", "a block", "captions", "Hub", "shards"])
def test_image_paths_of_every_source_are_relative_to_the_folder(tmp_path, monkeypatch, collator, place, streaming):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(png("red"))
    block = [{"type": "image", "path": "a.png", "text": None}, {"type": "text", "path": None, "text": "what?"}]
    rows = {
        "a column": {"image": "a.png", "caption": "a red ball"},
        "a list": {"images": ["a.png"], "messages": chat("what?", "a red ball")},
        "a block": {"messages": [{"role": "user", "content": block}, {"role": "assistant", "content": block[1:]}]},
        "captions": {"image": "a.png", "captions": ["a red ball", "a ball"]},
        "Hub": {"image": {"bytes": None, "path": "a.png"}, "caption": "a red ball"},
        "shards": {"__key__": "7", "json": {"image": "a.png", "caption": "a red ball"}},
    }
    dataset = Dataset.from_list([rows[place]])
    path = str(tmp_path / "saved")
    if place in ("Hub", "shards"):
        monkeypatch.setattr(
            "trainer.data.sources.load_dataset",
            lambda *_, streaming, **__: dataset.to_iterable_dataset() if streaming else dataset,
        )
        path = "lang/bridge" if place == "Hub" else "https://example.org/0.tar"
    elif place == "a list":
        path = str(tmp_path / "rows.parquet")
        dataset.to_parquet(path)
    else:
        dataset.save_to_disk(path)
    loaded = list(as_rows(load_training_data(path, str(tmp_path / "photos"), streaming=streaming)))
    assert len(loaded) == 1 + (place == "captions")
    expected = collator.process_images([make_image("red")])["pixel_values"]
    assert torch.equal(collator(loaded)["pixel_values"], expected.repeat(len(loaded), 1, 1, 1))


def test_a_stream_that_does_not_say_what_it_holds_has_its_image_paths_in_the_folder():
    def generate():
        yield {"image": "a.png", "caption": "a dog", "source": "web"}
        yield {"image": "b.png", "caption": "a cat"}

    rows = as_rows(with_image_folder(IterableDataset.from_generator(generate), "photos"))
    assert [read_sample(row)["images"] for row in rows] == [["photos/a.png"], ["photos/b.png"]]


def test_a_faulty_row_of_a_saved_dataset_with_a_folder_is_named(tmp_path):
    Dataset.from_list([{"id": "mute", "image": "a.png", "caption": " "}]).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match="sample mute: an empty answer"):
        load_training_data(str(tmp_path / "saved"), str(tmp_path))


@BOTH
def test_compressed_shards_and_oversized_files_in_them_are_refused(tmp_path, monkeypatch, streaming):
    path = write_shards(tmp_path)
    content = (tmp_path / "1.tar").read_bytes()
    (tmp_path / "1.tar").write_bytes(gzip.compress(content))
    with pytest.raises(ValueError, match=r"1\.tar cannot be read as an uncompressed tar file"):
        list(load_training_data(path, streaming=streaming))
    (tmp_path / "1.tar").write_bytes(content)
    monkeypatch.setattr("trainer.data.shards.MAX_BYTES", len(png("red")) - 1)
    with pytest.raises(ValueError, match=r"0\.tar, sample one: one\.0\.png has more than .* bytes"):
        list(load_training_data(path, streaming=streaming))


def test_a_dataset_without_rows_is_named(tmp_path):
    none = with_bytes(SAMPLES).select([])
    none.to_parquet(tmp_path / "none.parquet")
    none.save_to_disk(tmp_path / "none")
    for name, reason in (("none.parquet", "cannot be read: .* no data"), ("none", "has no samples")):
        with pytest.raises(ValueError, match=f"{tmp_path / name} {reason}"):
            load_training_data(str(tmp_path / name))


def test_a_parquet_that_is_none_is_named(tmp_path):
    (tmp_path / "rows.parquet").write_text("no parquet")
    with pytest.raises(ValueError, match=r"rows\.parquet.* cannot be read: .*") as caught:
        load_training_data(str(tmp_path / "rows.parquet"))
    assert len(str(caught.value).splitlines()) == 1


def test_a_transform_is_refused_not_lost():
    dataset = Dataset.from_list([{"image": "a.png", "caption": "a dog"}])
    with pytest.raises(ValueError, match="transform .* would be ignored"):
        as_rows(dataset.with_transform(lambda batch: batch))


@pytest.mark.parametrize("kind", [None, "numpy", "torch", "arrow"])
@pytest.mark.parametrize("output_all_columns", [False, True])
def test_columns_that_a_format_hides_stay_hidden(kind, output_all_columns):
    dataset = Dataset.from_list([{"image": "a.png", "caption": "a dog", "system": "Be brief."}])
    dataset.set_format(kind, columns=["image", "caption"], output_all_columns=output_all_columns)
    (row,) = as_rows(dataset)
    assert ("system" in row) == output_all_columns
    assert len(read_sample(row)["messages"]) == 2 + output_all_columns


def test_a_stream_in_another_format_is_read_as_it_is():
    sample = read_sample({"image": "a.png", "caption": "a dog", "id": 7})
    stream = Dataset.from_list([sample]).to_iterable_dataset().with_format("numpy")
    (row,) = as_rows(stream)
    assert read_sample(row) == sample


@pytest.mark.parametrize(("mode", "is_read"), [(None, True), ("RGB", True), ("L", False)])
def test_a_conversion_of_the_dataset_is_kept_or_refused(mode, is_read):
    features = Features({"image": Image(mode=mode), "caption": Value("string")})
    dataset = Dataset.from_list([{"image": {"bytes": png("red"), "path": None}, "caption": "a"}], features=features)
    if is_read:
        assert len(as_rows(dataset)) == 1
    else:
        with pytest.raises(ValueError, match="converts its images to L"):
            as_rows(dataset)


@BOTH
@pytest.mark.parametrize("kind", [Audio, Video])
def test_a_column_of_clips_is_refused_by_name_where_it_is_filled(kind, collator, streaming):
    clips = [{"bytes": b"\0", "path": "a"}, None]
    rows = [{"clip": clip, "messages": chat("what?", "a dog")} for clip in clips]
    dataset = Dataset.from_list(rows).cast_column("clip", kind())
    filled, empty = as_rows(dataset.to_iterable_dataset() if streaming else dataset)
    assert collator([empty])["pixel_values"].shape[0] == 0
    with pytest.raises(ValueError, match="`clip` holds what this sample shows"):
        collator([filled])


@BOTH
def test_fields_that_are_not_used_are_listed_once(tmp_path, caplog, streaming):
    caplog.set_level("INFO", "trainer")
    rows = [{"id": n, "messages": chat("what?", f"{n} dogs"), "source": "web", "split": "train"} for n in range(3)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    list(as_rows(load_training_data(str(tmp_path / "rows.json"), streaming=streaming)))
    dataset = Dataset.from_list(rows)
    list(as_rows(dataset.to_iterable_dataset() if streaming else dataset))
    list(as_rows(dataset.select_columns(["id", "messages"])))
    assert caplog.messages == ["Fields that training does not use: source, split."] * 2


def test_unused_fields_of_a_stream_that_does_not_say_what_it_holds_are_listed_once(caplog):
    caplog.set_level("INFO", "trainer")

    def generate():
        for number in range(3):
            yield {"image": "a.png", "caption": f"{number} dogs", "source": "web"}

    list(as_rows(IterableDataset.from_generator(generate)))
    assert caplog.messages == ["Fields that training does not use: source."]


@BOTH
@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("rows.csv", "is of no form that is read"),
        ("gone.csv", "is of no form that is read"),
        ("rows", "is of no form that is read"),
        ("rows.json.gz", "is compressed: unpack it"),
        ("photos", r"is no folder of `Dataset\.save_to_disk`"),
        ("gone/photos/rows", "is no file, no folder and no Hub id"),
        ("./gone", "is no file, no folder and no Hub id"),
        ("~/gone", "is no file, no folder and no Hub id"),
        ("gone.TXT", "is of no form that is read"),
        ("rows.CSV", "is of no form that is read"),
        ("photos.ZIP", "is compressed: unpack it"),
        ("photo.jpg", "is of no form that is read"),
        ("rows/copy", "is of no form that is read"),
        ("pipe", "is of no form that is read"),
        ("pipe.json", r"pipe\.json cannot be read: it is no file"),
        ("pipe.parquet", r"pipe\.parquet cannot be read: it is no file"),
        ("photos.json", r"photos\.json cannot be read: it is no file"),
        ("gone.parquet", r"gone\.parquet cannot be read: there is no such file"),
        ("gone*.PARQUET", r"gone\*\.PARQUET cannot be read: there is no such file"),
    ],
)
def test_what_cannot_be_read_is_refused_before_the_hub_is_asked(tmp_path, monkeypatch, name, complaint, streaming):
    monkeypatch.setattr("trainer.data.sources.load_dataset", lambda *_, **__: pytest.fail("the Hub was asked"))
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("photos", "a.png").write_bytes(png("red"))
    Path("photos.json").mkdir()
    os.mkfifo("pipe")
    os.mkfifo("pipe.json")
    os.mkfifo("pipe.parquet")
    if name == "rows/copy":
        Path("rows").mkdir()
        Path(name).touch()
        with pytest.raises(ValueError, match=complaint):
            load_training_data(name, streaming=streaming)
        return
    for file in ("rows.csv", "rows", "rows.json.gz"):
        Path(file).write_text("image,caption\na.png,a dog\n")
    with pytest.raises(ValueError, match=complaint) as caught:
        load_training_data(name, streaming=streaming)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("name", ["imdb", "lang/bridge-1.0"])
def test_a_hub_id_is_asked_for(monkeypatch, name):
    asked = {}
    dataset = with_bytes(SAMPLES)
    monkeypatch.setattr("trainer.data.sources.load_dataset", lambda path, **_: asked.setdefault(path, dataset))
    assert load_training_data(name) is asked[name]


@BOTH
@pytest.mark.parametrize("name", ["gone.json", "gone.jsonl", "gone.tar", "gone*.tar"])
def test_a_missing_file_is_named_at_once(tmp_path, name, streaming):
    with pytest.raises(ValueError, match=r"gone.* cannot be read: there is no such file"):
        load_training_data(str(tmp_path / name), streaming=streaming)


@BOTH
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "mute", "conversations": chat("what?", "a dog")}, "line 3, sample mute: unknown role None"),
        ({"messages": chat("what?", " ")}, "line 3: an empty answer"),
        ({"image": 5, "caption": "a dog"}, "line 3: an image is 5, expected a path"),
        ({"id": "half", "caption": "a dog \ud83d"}, "line 3, sample half: half a character"),
        ({"id": "film", "video": "a.mp4", "caption": "a dog"}, "line 3, sample film: `video` cannot be read"),
        (5, "line 3: a int, not a json object"),
    ],
)
def test_a_faulty_row_is_named_by_file_line_and_id(tmp_path, row, message, streaming):
    path = tmp_path / "rows.jsonl"
    good = {"messages": chat("what?", "a dog")}
    path.write_text(f"{json.dumps(good)}\n\n{json.dumps(row)}\n{json.dumps(good)}\n")
    with pytest.raises(ValueError, match=rf"rows\.jsonl, {message}"):
        list(load_training_data(str(path), streaming=streaming))


@BOTH
@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"png": b"", "json": b'{"caption": '}, r"its \.json or \.txt cannot be read"),
        ({"png": b"", "txt": b"\xff"}, r"its \.json or \.txt cannot be read"),
        ({"png": b"", "json": b"[]"}, r"the \.json is \[\], expected a json object"),
        ({"png": b""}, r"it has neither a \.json nor a \.txt"),
        ({"png": b"", "txt": b" "}, "an empty answer"),
    ],
)
def test_a_faulty_sample_of_a_shard_is_named(tmp_path, files, message, streaming):
    write_tar(tmp_path / "a.tar", {"6": {"png": b"", "txt": b"a dog"}, "7": files})
    with pytest.raises(ValueError, match=rf"a\.tar, sample 7: {message}"):
        list(load_training_data(str(tmp_path / "a.tar"), streaming=streaming))


def test_an_image_that_a_shard_names_but_does_not_hold_is_missed(tmp_path):
    write_tar(tmp_path / "a.tar", {"7": {"json": b'{"image": "gone.png", "caption": "a dog"}'}})
    with pytest.raises(ValueError, match=r"sample 7: the image gone\.png does not exist"):
        load_training_data(str(tmp_path / "a.tar"))


def test_lines_are_streamed_as_they_are_needed(tmp_path):
    path = tmp_path / "rows.jsonl"
    rows = [{"id": n, "messages": chat("what?", f"{n} dogs")} for n in range(20)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "broken")
    stream = iter(as_rows(load_training_data(str(path), streaming=True)))
    assert [next(stream)["id"] for _ in range(20)] == [str(n) for n in range(20)]
    with pytest.raises(ValueError, match=r"rows\.jsonl, line 21: not json"):
        next(stream)


def test_shards_are_streamed_as_they_are_needed(tmp_path):
    files = {f"{n:03}": {"png": bytes(20_000), "txt": f"{n} dogs".encode()} for n in range(60)}
    write_tar(tmp_path / "0.tar", files)
    write_tar(tmp_path / "1.tar", files)
    cut = tmp_path / "0.tar"
    cut.write_bytes(cut.read_bytes()[:-400_000])
    dataset = load_training_data(str(tmp_path / "*.tar"), streaming=True)
    assert dataset.num_shards == 2  # so that several processes can share them
    stream = iter(as_rows(dataset))
    assert [next(stream)["id"] for _ in range(10)] == [f"{n:03}" for n in range(10)]
    with pytest.raises(ValueError, match=r"0\.tar cannot be read as an uncompressed tar file"):
        list(stream)


@pytest.mark.parametrize("key", ["messages", "captions"])
def test_no_more_rows_are_read_than_are_needed(key):
    num_read = 0
    content = {"messages": chat("what?", "a dog")} if key == "messages" else {"image": "a.png", "captions": ["a dog"]}

    def generate():
        nonlocal num_read
        for _ in range(1000):
            num_read += 1
            yield content

    stream = iter(as_rows(IterableDataset.from_generator(generate)))
    for _ in range(10):
        next(stream)
    assert num_read <= 11


STREAM = """\
import resource, sys
from trainer import load_training_data
from trainer.data import as_rows

def bytes_read():
    return int(open("/proc/self/io").read().split("rchar:")[1].split()[0])

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

memory, read = peak(), bytes_read()
stream = iter(as_rows(load_training_data(sys.argv[1], streaming=True)))
next(stream)
first = bytes_read() - read
num_rows = 1 + sum(len(row["images"][0]["bytes"]) > 0 for row in stream)
print(num_rows, first >> 20, bytes_read() - read >> 20, peak() - memory)
"""


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["parquet", "tar"])
def test_a_large_set_begins_at_once_and_memory_stays_flat(tmp_path, suffix):
    num_parts, num_rows, size = 8, 500, 100_000  # 400 MB
    for part in range(num_parts):
        images = [os.urandom(size) for _ in range(num_rows)]
        if suffix == "tar":
            write_tar(
                tmp_path / f"{part}.tar",
                {f"{part}-{row:03}": {"png": image, "txt": b"a dog"} for row, image in enumerate(images)},
            )
            continue
        rows = [{"images": [{"bytes": image, "path": None}], "messages": chat("what?", "a dog")} for image in images]
        features = Features({"images": List(Image()), "messages": MESSAGES})
        Dataset.from_list(rows, features=features).to_parquet(tmp_path / f"{part}.parquet", batch_size=100)
    result = subprocess.run(
        [sys.executable, "-c", STREAM, str(tmp_path / f"*.{suffix}")],
        capture_output=True,
        text=True,
        timeout=200,
        cwd=ROOT,
        env={**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")},
    )
    assert result.returncode == 0, result.stderr
    rows_read, first, whole, memory = map(int, result.stdout.split())
    assert rows_read == num_parts * num_rows
    assert first < 80 < 350 < whole
    assert memory < 200
    assert not list((tmp_path / "cache").rglob("*.arrow"))
