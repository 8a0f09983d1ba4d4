# SPDX-License-Identifier: Apache-2.0
"""Groups of like patches: what is alike is one group, in reading order, and becomes its strongest word."""

import pytest
import torch

from experiments.matrix.grouped_patches import group_patches


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
    faint = coefficients.clone()
    faint[30:33] = 0.01 * coefficients[0]  # a faint patch of sky below the grass
    groups = group_patches(faint, distance=0.5)
    assert (groups.float() @ faint).argmax(-1).tolist() == [SKY, GRASS, DOG]
