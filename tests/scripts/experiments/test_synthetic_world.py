# SPDX-License-Identifier: Apache-2.0
import random

import numpy as np
import pytest

from experiments.synthetic.synthetic_world import (
    COLOURS,
    IMAGE_SIZE,
    OPPOSITE,
    PROMPT,
    SHAPES,
    UNSEEN_PAIRS,
    Scene,
    Thing,
    attribute_accuracy,
    attribute_hits,
    language_documents,
    make_scenes,
    read_caption,
)


SCENE = Scene(Thing("small", "red", "circle"), Thing("large", "blue", "star"), "left", seed=3)


def things(scenes):
    return {(thing.colour, thing.shape) for scene in scenes for thing in (scene.first, scene.second)}


def compositions(scenes):
    return {(scene.first, scene.second, scene.relation) for scene in scenes}


def test_training_pictures_never_show_an_unseen_pair_but_every_colour_and_shape():
    seen = things(make_scenes(3000, ("train",), seed=0))
    assert not seen & UNSEEN_PAIRS
    assert {colour for colour, _ in seen} == set(COLOURS)
    assert {shape for _, shape in seen} == set(SHAPES)


def test_every_held_out_scene_shows_an_unseen_pair():
    scenes = make_scenes(300, ("held_out",), seed=0)
    assert all(things([scene]) & UNSEEN_PAIRS for scene in scenes)
    assert things(scenes) >= UNSEEN_PAIRS


def test_no_text_is_about_a_held_out_scene_but_some_about_unseen_pairs():
    text = make_scenes(6000, ("train", "text"), seed=0)
    assert not compositions(text) & compositions(make_scenes(6000, ("held_out",), seed=1))
    assert things(text) >= UNSEEN_PAIRS


def test_the_seed_decides_the_scenes_and_their_pictures():
    one, same, other = (make_scenes(20, ("train",), seed) for seed in (4, 4, 5))
    assert one == same != other
    assert all(np.array_equal(a.draw(), b.draw()) for a, b in zip(one, same, strict=True))


def where(scene, thing):
    """Rows and columns of the pixels that look like the thing's colour."""
    pixels = np.asarray(scene.draw(), dtype=float)
    assert pixels.shape == (IMAGE_SIZE, IMAGE_SIZE, 3)
    return np.nonzero(np.abs(pixels - COLOURS[thing.colour]).max(-1) < 40)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_picture_shows_what_the_scene_says(shape):
    for seed in range(10):
        small, large = Thing("small", "blue", shape), Thing("large", "red", shape)
        beside, stacked = Scene(small, large, "left", seed), Scene(small, large, "above", seed)
        rows, columns = where(beside, small)
        assert columns.max() < where(beside, large)[1].min()
        assert len(rows) < len(where(beside, large)[0])
        assert where(stacked, small)[0].max() < where(stacked, large)[0].min()


def test_all_shapes_look_different():
    pictures = [np.asarray(Scene(Thing("large", "red", s), SCENE.second, "left", 0).draw(), float) for s in SHAPES]
    for index, picture in enumerate(pictures):
        assert all(np.abs(picture - other).max() > 100 for other in pictures[:index])


def test_every_wording_of_a_caption_states_all_attributes():
    rng = random.Random(0)
    scenes = make_scenes(300, ("train", "text", "held_out"), seed=0)
    captions = [scene.caption(rng) for scene in scenes]
    assert set(attribute_accuracy(scenes, captions).values()) == {1.0}
    assert len({caption.split()[0] for caption in captions}) > 3


@pytest.mark.parametrize(
    "caption",
    [
        "a small red circle to the left of a large blue star",
        "There is a huge blue star right of a tiny red disc.",
    ],
)
def test_either_order_of_naming_is_right(caption):
    assert attribute_hits(SCENE, caption) == dict.fromkeys(("colour", "shape", "size", "relation", "all", "exact"), 1)


@pytest.mark.parametrize(
    ("caption", "kind", "share"),
    [
        ("a small green circle left of a large blue star", "colour", 0.5),
        ("a small red circle left of a large blue cross", "shape", 0.5),
        ("a large red circle left of a large blue star", "size", 0.5),
        ("a small red circle above a large blue star", "relation", 0),
        ("a large blue star left of a small red circle", "relation", 0),
    ],
)
def test_one_wrong_attribute_costs_that_attribute(caption, kind, share):
    hits = attribute_hits(SCENE, caption)
    assert hits.pop(kind) == share
    assert hits.pop("all") == pytest.approx(6 / 7)
    assert hits.pop("exact") == 0
    assert set(hits.values()) == {1}


def test_a_colour_on_the_wrong_thing_is_wrong():
    assert attribute_hits(SCENE, "a small blue circle left of a large red star")["colour"] == 0


def test_naming_everything_earns_nothing():
    everything = " ".join(f"a {colour} {shape}" for colour in COLOURS for shape in SHAPES) + " left right above below"
    two_things = " ".join(everything.split()[:6])
    assert attribute_hits(SCENE, everything)["all"] <= attribute_hits(SCENE, f"{two_things} left of")["all"]
    assert read_caption("a green red blue circle")[0] == [{"colour": "green", "shape": "circle"}]


@pytest.mark.parametrize("caption", ["", "a a a", "Describe the scene."])
def test_a_caption_that_says_nothing_scores_nothing(caption):
    assert set(attribute_hits(SCENE, caption).values()) == {0}


def test_documents_end_in_the_prompt_and_a_caption_of_the_scene_their_lines_are_about():
    scenes = make_scenes(200, ("train",), seed=0)
    documents = language_documents(scenes, seed=0)
    for scene, document in zip(scenes, documents, strict=True):
        *prefix, prompt, caption = document.split("\n")
        assert prompt == PROMPT
        assert attribute_hits(scene, caption)["exact"] == 1
        for line in prefix:
            assert scene.first.colour in line and scene.second.colour in line
    assert {document.count("\n") for document in documents} == {1, 2, 3, 4}


def test_loose_words_name_each_thing_with_its_place_and_start_with_a_space():
    words = SCENE.words(random.Random(0))
    assert words.startswith(" ")
    assert set(words.split()) >= {"red", "blue", "star", "left", "right"}
    assert OPPOSITE["left"] == "right"


def test_the_fields_that_things_cover_are_those_where_the_picture_shows_them():
    for scene in make_scenes(20, ("train",), seed=1):
        coverage = scene.coverage()  # (2, rows, columns)
        pixels = np.asarray(scene.draw(), dtype=float)
        fields = pixels.reshape(7, 8, 7, 8, 3)  # (rows, height, columns, width, 3)
        for share, thing in zip(coverage, (scene.first, scene.second), strict=True):
            row, column = np.unravel_index(share.argmax(), share.shape)
            inside = fields[row, :, column].reshape(-1, 3)
            near = np.linalg.norm(inside - COLOURS[thing.colour], axis=1) < 60
            assert near.mean() == pytest.approx(share[row, column], abs=0.12)
        assert (coverage.sum(0) == 0).any() and coverage.min() == 0 and coverage.max() <= 1
