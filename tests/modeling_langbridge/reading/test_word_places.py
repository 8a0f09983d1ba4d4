# SPDX-License-Identifier: Apache-2.0
"""The place of a word in a photo: on grids of any size, and the same for a photo and its mirror image."""

import os
from pathlib import Path

import pytest
import torch
from PIL import ImageOps

from modeling_langbridge import LangBridgeAdapter
from modeling_langbridge.image_opening import open_image
from modeling_langbridge.reading.patch_words import PatchWords, strongest_words
from modeling_langbridge.reading.word_places import PlacedWord, name_place, place_words
from trainer.data.captioned_photos import read_captioned_photos


PARTS = Path(os.environ.get("LANGBRIDGE_CACHE") or "~/.cache/langbridge/parts").expanduser()
PLACES = [["upper left", "top", "upper right"], ["left", "centre", "right"], ["lower left", "bottom", "lower right"]]


@pytest.mark.parametrize("grid", [(3, 3), (7, 7), (24, 24), (5, 14)])
def test_a_word_of_one_patch_is_where_the_patch_is(grid):
    for row in range(3):
        for column in range(3):
            strengths = torch.zeros(grid)
            strengths[round((row + 0.5) / 3 * grid[0] - 0.5), round((column + 0.5) / 3 * grid[1] - 0.5)] = 0.1
            assert name_place(strengths) == PLACES[row][column]


def test_a_word_of_a_row_or_a_column_has_its_side_alone():
    for place, name in ((0, "top"), (1, "throughout"), (2, "bottom")):
        assert name_place(torch.eye(3)[place][:, None].expand(3, 3)) == name
    for place, name in ((0, "left"), (1, "throughout"), (2, "right")):
        assert name_place(torch.eye(3)[place].expand(3, 3)) == name


@pytest.mark.parametrize("strengths", [torch.ones(7, 7), torch.ones(2, 2), torch.zeros(7, 7), torch.eye(3)])
def test_a_word_of_the_whole_photo_is_throughout(strengths):
    assert name_place(strengths) == "throughout"


def test_half_of_a_word_makes_its_place():
    strengths = torch.zeros(3, 3)
    strengths[0, 0], strengths[1, 1], strengths[2, 2] = 0.5, 0.3, 0.2
    assert name_place(strengths) == "upper left"
    strengths[0, 0] = 0.49
    assert name_place(strengths) == "throughout"


def test_a_patch_between_two_thirds_counts_for_both():
    strengths = torch.zeros(4, 4)
    strengths[1, 1] = 1  # from 1/4 to 1/2: a third of it is in the upper third, and on the left
    assert name_place(strengths) == "centre"
    assert name_place(torch.ones(1, 1)) == "throughout"


def place(seen: PatchWords) -> list[PlacedWord]:
    return place_words(seen.photo, seen.names, seen.coefficients)


def test_in_the_mirror_left_is_right(data):
    if not (PARTS / "efficientnet_lite0").is_dir():
        pytest.skip(f"no efficientnet_lite0 in {PARTS}: `make parts` fetches it")
    adapter = LangBridgeAdapter.grounded_efficientnet_lite0()
    model, processor = adapter.join(str(PARTS / "efficientnet_lite0"), words_per_image=8)
    named = []
    for photo in read_captioned_photos(str(data / "flickr8k" / "captions.jsonl"), None, "dev")[:40]:
        image = open_image(photo.image)
        mirrored = {word.word: word.place for word in place(strongest_words(model, processor, ImageOps.mirror(image)))}
        words = place(strongest_words(model, processor, image))
        named += [(word.place, mirrored[word.word]) for word in words if word.word in mirrored]
    sides = [(place, other) for place, other in named if "left" in place or "right" in place]
    assert len(sides) > 30
    swapped = {"left": "right", "right": "left"}
    right = sum(swapped[place.split()[-1]] in other for place, other in sides)
    wrong = sum(place.split()[-1] in other for place, other in sides)
    assert right > 0.6 * len(sides) and wrong < 0.02 * len(sides), (right, wrong, len(sides))
