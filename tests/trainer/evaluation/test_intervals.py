# SPDX-License-Identifier: Apache-2.0
"""Intervals by bootstrap over images."""

import pytest
import torch
from scipy.stats import binomtest

from trainer.evaluation.intervals import Measure, estimate, mean_of, ratio


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


def test_a_ratio_and_its_interval_are_of_the_sums_and_nothing_below_makes_0():
    hits, found = torch.tensor([1.0, 0, 2, 0]), torch.tensor([2.0, 1, 2, 0])
    measure = Measure(torch.stack([hits, found], 1), ratio)
    assert measure.value() == pytest.approx(3 / 5)
    assert measure.estimate().low <= 3 / 5 <= measure.estimate().high
    assert Measure(torch.zeros(2, 2), ratio).estimate() == (0, 0, 0)


def test_a_difference_is_paired():
    generator = torch.Generator().manual_seed(0)
    level = torch.rand(60, generator=generator)  # what both models have in common
    one, other = mean_of(level), mean_of(level + 0.05)
    difference = other.minus(one)
    assert difference.value == pytest.approx(0.05)
    assert difference.high - difference.low < 1e-6 < one.estimate().high - one.estimate().low
    assert other.p_value(one) < 0.001


def test_a_difference_that_is_chance_has_a_large_p_value_and_an_interval_around_0():
    generator = torch.Generator().manual_seed(1)
    one, other = (mean_of(torch.rand(200, generator=generator)) for _ in range(2))
    difference = other.minus(one)
    assert difference.low < 0 < difference.high and 0.05 < other.p_value(one)
    assert one.p_value(one) == 1


def test_p_values_of_right_and_wrong_are_mcnemars():
    right = torch.tensor([1.0] * 9 + [0] * 1 + [1] * 2)
    wrong = torch.tensor([0.0] * 9 + [1] * 1 + [1] * 2)
    exact = binomtest(9, 10).pvalue
    assert mean_of(right).p_value(mean_of(wrong)) == pytest.approx(exact)


def test_p_values_are_uniform_where_nothing_differs():
    generator = torch.Generator().manual_seed(2)
    found = [
        mean_of(torch.rand(8, generator=generator)).p_value(mean_of(torch.rand(8, generator=generator)))
        for _ in range(60)
    ]
    assert 0.3 < sum(found) / len(found) < 0.7 and sum(p < 0.1 for p in found) < 15
