# SPDX-License-Identifier: Apache-2.0
"""The largest batch that a memory holds."""

from collections.abc import Callable


LARGEST = 4096


def largest_batch(memory_of: Callable[[int], int], limit: int) -> int:
    """
    Finds the largest batch, up to 4,096, whose step takes no more than `limit` bytes; 0 where none does.

    Args:
        memory_of (`Callable[[int], int]`): the bytes that a step takes with batches of so many samples; it grows with
            their number, nearly in proportion.
        limit (`int`): bytes.
    """
    fits, too_large = 0, LARGEST + 1
    guess = 1
    while too_large - fits > 1:
        if memory_of(guess) <= limit:
            fits = guess
        else:
            too_large = guess
        # Where a line through 1 and the last guess meets the limit: two or three steps instead of twelve.
        slope = (memory_of(guess) - memory_of(1)) / (guess - 1) if guess > 1 else 0
        line = 1 + int((limit - memory_of(1)) / slope) if slope > 0 else 2 * guess
        guess = min(max(line, fits + 1), too_large - 1)
    return fits
