# SPDX-License-Identifier: Apache-2.0
"""Balanced yes/no questions about photos, in POPE's form, made of what their human captions name."""

import argparse
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trainer.command_line import check_output_file, run_script
from trainer.data.caption_words import content_words
from trainer.data.captioned_photos import CaptionedPhoto, read_captioned_photos


THINGS = (
    "ball beach bench bicycle boat boy building camera car cat crowd dog fence girl grass guitar hat helmet horse man "
    "mountain motorcycle ocean pool rock sand skateboard snow street surfboard swing table tree water woman"
).split()
ENOUGH = 3  # captions of five that must name a thing for it to be there


def choose_things(photos: Sequence[CaptionedPhoto]) -> Iterator[tuple[int, str, bool]]:
    """
    The place of each photo that allows it with a thing that most captions name and then with one that none names; and
    whether it is there. A thing is absent about as often as it is present, so that the word alone tells little.
    """
    named = [[thing for caption in photo.captions for thing in content_words(caption)] for photo in photos]
    present = [[thing for thing in THINGS if words.count(thing) >= ENOUGH] for words in named]
    shown = [(place, random.Random(place).choice(things)) for place, things in enumerate(present) if things]
    missing = [thing for _, thing in shown]
    random.Random(0).shuffle(missing)
    for place, thing in shown:
        absent = next((other for other in missing if other not in named[place]), None)
        if absent is None:
            continue
        missing.remove(absent)
        yield place, thing, True
        yield place, absent, False


def ask_about(photos: Sequence[CaptionedPhoto]) -> Iterator[dict[str, Any]]:
    """One question of each kind about each photo that allows both, see [`choose_things`]."""
    for number, (place, thing, present) in enumerate(choose_things(photos), start=1):
        yield {
            "question_id": number,
            "image": photos[place].name,
            "text": f"Is there a {thing} in the image?",
            "label": "yes" if present else "no",
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", required=True, help="photos with captions, as for retrieve.py")
    parser.add_argument("--split", default="dev", help="as for retrieve.py (default: dev)")
    parser.add_argument("--questions", type=int, default=100, help="how many (default: 100)")
    parser.add_argument("--output", type=Path, required=True, help="the .jsonl to write")
    arguments = parser.parse_args()
    check_output_file(arguments.output)
    questions = list(ask_about(read_captioned_photos(arguments.captions, None, arguments.split)))
    lines = "".join(f"{json.dumps(question)}\n" for question in questions[: arguments.questions])
    with arguments.output.open("x", encoding="utf-8") as file:
        file.write(lines)


if __name__ == "__main__":
    run_script(main)
