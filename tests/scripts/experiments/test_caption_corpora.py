# SPDX-License-Identifier: Apache-2.0
"""Reading caption text and photos, and the training rows made of them."""

import gzip
import json

import pytest
from PIL import Image

from experiments.flickr8k.caption_corpora import (
    caption_dataset,
    read_caption_text,
    read_flickr8k,
    tidy,
)


@pytest.fixture
def flickr(tmp_path):
    (tmp_path / "images").mkdir()
    rows = []
    for index, split in enumerate(["train", "test", "train"]):
        Image.new("RGB", (8, 8), (40 * index, 0, 0)).save(tmp_path / "images" / f"{index}.png")
        rows.append({"image": f"{index}.png", "split": split, "captions": [f"Photo {index} .", f"Again {index}"]})
    (tmp_path / "captions.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return tmp_path


def test_captions_lose_odd_blanks_only():
    assert tidy("  A dog ,  two cats .\n") == "A dog, two cats."
    assert tidy("It 's 3.5 m!") == "It 's 3.5 m!"


def test_caption_text_holds_each_distinct_caption_once_in_an_order_given_by_the_seed(tmp_path):
    for name, lines in (("a", ["A dog .", "A cat.", ""]), ("b", ["A dog.", *(f"Photo {i}" for i in range(50))])):
        with gzip.open(tmp_path / f"{name}.txt.gz", "wt") as file:
            file.write("\n".join(lines))
    captions = read_caption_text(tmp_path, seed=0)
    assert sorted(captions) == sorted({"A dog.", "A cat.", *(f"Photo {i}" for i in range(50))})
    assert captions == read_caption_text(tmp_path, seed=0) != read_caption_text(tmp_path, seed=1)


def test_photos_of_a_split_come_in_order_with_their_captions(flickr):
    photos = read_flickr8k(flickr, "train")
    assert [(photo.name, photo.captions) for photo in photos] == [
        ("0.png", ["Photo 0.", "Again 0"]),
        ("2.png", ["Photo 2.", "Again 2"]),
    ]
    assert read_flickr8k(flickr, "train", limit=1) == photos[:1]


def test_every_human_caption_becomes_a_row_with_its_own_photo(flickr):
    rows = list(caption_dataset(read_flickr8k(flickr, "train")))
    assert [row["completion"][0]["content"] for row in rows] == ["Photo 0.", "Again 0", "Photo 2.", "Again 2"]
    assert [row["images"][0].getpixel((0, 0))[0] for row in rows] == [0, 0, 80, 80]
    assert all(row["prompt"] == [{"role": "user", "content": ""}] for row in rows)


def test_missing_text_photos_and_splits_are_named(tmp_path, flickr):
    with pytest.raises(FileNotFoundError, match="no \\*.txt.gz"):
        read_caption_text(tmp_path, seed=0)
    with pytest.raises(ValueError, match="captions.jsonl cannot be read"):
        read_flickr8k(tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match="'dev'"):
        read_flickr8k(flickr, "dev")
