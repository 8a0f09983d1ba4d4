# SPDX-License-Identifier: Apache-2.0
"""Intervals by bootstrap over images."""

import pytest
import torch

from trainer.evaluation.intervals import estimate


def test_the_value_is_of_all_that_was_counted_and_lies_in_its_interval():
    found = estimate(torch.tensor([1.0, 8, 3]), torch.tensor([2, 10, 4]))
    assert found.value == pytest.approx(12 / 16) and found.low <= found.value <= found.high
    assert found == estimate(torch.tensor([1.0, 8, 3]), torch.tensor([2, 10, 4]))


def test_images_alike_leave_no_doubt_and_more_images_less():
    same = estimate(torch.tensor([3.0, 30, 6]), torch.tensor([4, 40, 8]))
    assert same.low == same.high == 0.75
    hits = torch.rand(400, generator=torch.Generator().manual_seed(0)).round()
    few, many = (estimate(hits[:number], torch.ones(number)) for number in (40, 400))
    assert many.high - many.low < 0.5 * (few.high - few.low)
    assert many.high - many.low == pytest.approx(2 * 1.96 * 0.5 / 400**0.5, rel=0.1)


def test_patches_of_one_image_do_not_count_as_independent():
    hits = torch.rand(40, generator=torch.Generator().manual_seed(0)).round()
    one, ten = (estimate(hits * patches, torch.full((40,), patches)) for patches in (1, 10))
    assert one == pytest.approx(ten)


def test_it_is_written_with_three_digits():
    assert str(estimate(torch.tensor([1.0, 1]), torch.tensor([3, 3]))) == "0.333 [0.333, 0.333]"


@pytest.mark.parametrize("images", [0, 1])
def test_fewer_than_two_images_have_no_interval(images):
    with pytest.raises(ValueError, match="at least two images with something to count"):
        estimate(torch.ones(images), torch.ones(images))
