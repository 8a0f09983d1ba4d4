# SPDX-License-Identifier: Apache-2.0
"""Numbers on a command line, refused where they are out of range."""

import argparse
import math
from collections.abc import Callable


def at_least(minimum: float, kind: type = int) -> Callable[[str], float]:
    """
    The `type` of an argparse option that takes finite numbers from a minimum on.

    Args:
        minimum (`float`): The smallest number.
        kind (`type`, *optional*, defaults to `int`): `int` or `float`.
    """
    what = "a whole number" if kind is int else "a number"

    def parse(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        if not minimum <= number < math.inf:
            raise argparse.ArgumentTypeError(f"must be {what} of {minimum} or more, but is {text!r}")
        return number

    return parse
