# SPDX-License-Identifier: Apache-2.0
"""How closely answers keep to the images, on a command line."""

import argparse
from typing import TYPE_CHECKING

from .number_arguments import at_least


if TYPE_CHECKING:
    from .evaluation.decoding import Decoding


KEEPS_TO_IMAGES = ("guidance_scale", "word_bias")


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--guidance_scale` and `--word_bias`."""
    group = parser.add_argument_group("closer to the picture", "See docs/evaluation.md.")
    group.add_argument(
        "--guidance_scale",
        type=at_least(1, float),
        metavar="SCALE",
        help="above 1, such as 1.25, what the picture adds counts more; takes up to twice as long (default: none)",
    )
    group.add_argument(
        "--word_bias",
        type=at_least(0, float),
        metavar="NATS",
        help="such as 2: the words that the adapter sees become likelier, each until it is written (default: none)",
    )


def read_decoding(arguments: argparse.Namespace, num_beams: int | None = None) -> "Decoding":
    from .evaluation.decoding import Decoding

    return Decoding(arguments.guidance_scale, arguments.word_bias, num_beams)
