# SPDX-License-Identifier: Apache-2.0
"""The largest batch that fits."""

import pytest

from trainer.planning.fitting import LARGEST, largest_batch


MEMORIES = {
    "in proportion": lambda batch: 100 + 7 * batch,
    "a part that does not grow, up to some batch": lambda batch: max(900, 100 + 7 * batch),
    "steeper from some batch on": lambda batch: 100 + 7 * batch + 5 * max(0, batch - 40),
    "flatter from some batch on": lambda batch: 100 + 7 * batch - 5 * max(0, batch - 40),
}


@pytest.mark.parametrize("name", MEMORIES)
@pytest.mark.parametrize("limit", [99, 106, 107, 113, 500, 899, 1000, 5000])
def test_it_fits_and_one_more_does_not(name, limit):
    memory_of = MEMORIES[name]
    expected = max((batch for batch in range(1, LARGEST + 1) if memory_of(batch) <= limit), default=0)
    assert largest_batch(memory_of, limit) == expected


def test_few_steps_are_tried():
    tried = set()
    largest_batch(lambda batch: tried.add(batch) or 10**9 + 10**7 * batch, 24 * 10**9)
    assert len(tried) <= 5


def test_it_ends_where_everything_fits():
    assert largest_batch(lambda batch: 1, 10) == LARGEST
