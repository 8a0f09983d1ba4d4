# SPDX-License-Identifier: Apache-2.0
"""Groups of like patches: what is alike is one group, and its words are in reading order."""

import pytest
import torch

from experiments.flickr8k.grouped_patches import group_patches, pick_grouped_words


SKY, DOG, GRASS = 0, 1, 2


@pytest.fixture
def coefficients() -> torch.Tensor:
    """Six rows of six patches `(36, 5)`: sky above, and below it grass on the left and a dog on the right."""
    words = torch.full((6, 6), GRASS)
    words[:2], words[2:, 3:] = SKY, DOG
    chosen = torch.nn.functional.one_hot(words.flatten(), 5).float()
    generator = torch.Generator().manual_seed(0)
    return chosen + 0.1 * torch.rand(36, 5, generator=generator)


def test_like_patches_are_one_group_and_groups_are_in_reading_order(coefficients):
    groups = group_patches(coefficients, distance=0.5)
    assert groups.shape == (3, 36) and groups.sum(0).eq(1).all()
    assert (groups.float() @ coefficients).argmax(-1).tolist() == [SKY, GRASS, DOG]


def test_left_comes_before_right_whichever_patch_is_named_first(coefficients):
    mirrored = coefficients.view(6, 6, 5).flip(1).flatten(0, 1)
    groups = group_patches(mirrored, distance=0.5)
    assert (groups.float() @ mirrored).argmax(-1).tolist() == [SKY, DOG, GRASS]


@pytest.mark.parametrize(("distance", "count"), [(0.0, 36), (0.5, 3), (1.0, 1)])
def test_the_distance_decides_how_many_groups_there_are(coefficients, distance, count):
    assert len(group_patches(coefficients, distance)) == count


def test_patches_that_say_little_do_not_move_a_group(coefficients):
    faint = coefficients.view(6, 6, 5).clone()
    faint[4:] = 0.01 * coefficients[0]  # faint patches of sky below grass and dog
    faint = faint.flatten(0, 1)
    groups = group_patches(faint, distance=0.5)
    assert (groups.float() @ faint).argmax(-1).tolist() == [SKY, GRASS, DOG]


def test_words_are_in_the_order_of_the_groups_that_say_them_and_none_comes_twice(coefficients):
    words = pick_grouped_words(coefficients, distance=0.5, count=5)
    assert sorted(words.tolist()) == list(range(5))
    assert [word for word in words.tolist() if word in (SKY, DOG, GRASS)] == [SKY, GRASS, DOG]
    assert pick_grouped_words(coefficients, 0.5, 3).tolist() == [SKY, GRASS, DOG]


def test_the_strongest_word_may_come_first_whichever_group_says_it(coefficients):
    coefficients[:, DOG] *= 3
    assert pick_grouped_words(coefficients, 0.5, 3).tolist() == [SKY, GRASS, DOG]
    assert pick_grouped_words(coefficients, 0.5, 3, in_reading_order=False).tolist()[0] == DOG


def test_a_small_thing_that_one_group_says_beats_a_faint_word_of_the_whole_photo():
    coefficients = torch.zeros(36, 3)
    coefficients[:18, 0], coefficients[18:, 1] = 1.0, 1.0
    coefficients[:, 2] = 0.2  # faint in every patch: 7.2 in all, 3.6 in a group
    coefficients = torch.cat([coefficients, torch.zeros(36, 1)], dim=1)
    coefficients[:18, 3] = 0.3  # 5.4 in one group
    assert 3 in pick_grouped_words(coefficients, distance=0.3, count=3).tolist()
    assert 2 in coefficients.sum(0).topk(3).indices.tolist()
