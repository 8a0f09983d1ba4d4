# SPDX-License-Identifier: Apache-2.0
"""Adds and subtracts photos and words, and reads the sum: its nearest words, its caption, the nearest photos."""

import argparse
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.command_line import check_output_file, run_script
from trainer.data.samples import CAPTION_QUESTION
from trainer.number_arguments import at_least


if TYPE_CHECKING:
    from torch import Tensor


EPILOG = """examples:
  python scripts/arithmetic.py --model my-langbridge --plus brown_dog.jpg --minus-text brown --plus-text black
  python scripts/arithmetic.py --model my-langbridge --plus swimmer.jpg dog.jpg --minus child.jpg --photos album

On tokens, the visual tokens are added, patch by patch, and the language model captions the sum. On words, it is the
photos' pooled coefficients, and the caption is made of the strongest words alone. docs/reading_words.md says more.
"""
NUM_WORDS, NUM_GAINED, NUM_PHOTOS = 10, 5, 5
Terms = list[tuple[int, str]]  # 1 or -1, and a photo's path or a text


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    several = {"nargs": "+", "action": "extend", "default": []}
    parser.add_argument("--model", required=True, help="a LangBridge checkpoint, by folder or Hub id")
    parser.add_argument("--plus", **several, required=True, metavar="PHOTO", help="photos to add, at least one")
    parser.add_argument("--minus", **several, metavar="PHOTO", help="photos to subtract")
    parser.add_argument("--plus-text", "--plus_text", **several, metavar="TEXT", help="words to add")
    parser.add_argument("--minus-text", "--minus_text", **several, metavar="TEXT", help="words to subtract")
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="where to look for the nearest photos")
    parser.add_argument(
        "--on",
        choices=("tokens", "words"),
        default="tokens",
        help="what is added: visual tokens (default), or words, for coefficients that are distributions",
    )
    parser.add_argument(
        "--question", default=CAPTION_QUESTION, help=f"what the caption answers (default: {CAPTION_QUESTION!r})"
    )
    parser.add_argument(
        "--vocabulary",
        help="for adapters without words: file of a shared vocabulary (default: Qwen 2's and Llama 3's)",
    )
    parser.add_argument(
        "--vocab_size", type=at_least(1), help="how many of its words (default: a file's all, else 19200)"
    )
    parser.add_argument("--output", type=Path, metavar="FILE", help="also write what is printed to this json file")
    arguments = parser.parse_args()
    check_output_file(arguments.output)
    return arguments


def format_sum(photos: Terms, texts: Terms) -> str:
    terms = [(sign, Path(path).name) for sign, path in photos] + [(sign, f'"{text}"') for sign, text in texts]
    return " ".join(f"{'+' if sign > 0 else '-'} {name}" for sign, name in terms).removeprefix("+ ")


def calculate(arguments: argparse.Namespace) -> list[dict]:
    """What is seen in the first photo and, where there is more, in the sum."""
    import torch

    from modeling_langbridge.adapter.loading import open_model
    from trainer.data.photo_folders import find_photos, leave_out_broken
    from trainer.evaluation.retrieval import cosines
    from trainer.evaluation.semantic_arithmetic import caption_tokens, read_tokens, read_words
    from trainer.evaluation.word_scores import gives_distributions, mean_tokens, pool_photos, reading_words

    album = None
    if arguments.photos is not None:
        album = leave_out_broken(find_photos(arguments.photos, "--photos"), f"--photos {arguments.photos}")
    model, processor = open_model(arguments.model)
    vocabulary, embeddings = reading_words(model, processor.tokenizer, arguments.vocabulary, arguments.vocab_size)
    if arguments.on == "words" and not gives_distributions(model.config):
        raise ValueError(
            "--on words needs coefficients that are distributions, softmax or gated_softmax, which this adapter does "
            "not have: use --on tokens."
        )
    if arguments.on == "tokens":
        read = partial(read_tokens, model, processor, embeddings)
    else:
        read = partial(read_words, model, processor, vocabulary)
    photos = [(1, path) for path in arguments.plus] + [(-1, path) for path in arguments.minus]
    texts = [(1, text) for text in arguments.plus_text] + [(-1, text) for text in arguments.minus_text]
    sums = [(photos[:1], []), (photos, texts)] if len(photos) + len(texts) > 1 else [(photos, texts)]
    found = [read(*terms) for terms in sums]  # sums x ((V,), (d,) or (V,), (tokens, d))
    readings = [
        {
            "sum": format_sum(*terms),
            "caption": caption_tokens(model, processor, tokens, arguments.question),
            "words": largest(strengths, vocabulary.surfaces, NUM_WORDS),
            "gained": largest(strengths - found[0][0], vocabulary.surfaces, NUM_GAINED),
            "photos": {},
        }
        for terms, (strengths, _, tokens) in zip(sums, found, strict=True)
    ]
    if album is not None:
        if arguments.on == "tokens":
            places = mean_tokens(model, processor.image_processor, album)  # (photos, d)
        else:
            places = pool_photos(model.model, processor.image_processor, album).sqrt()  # (photos, V)
        closeness = cosines(torch.stack([position for _, position, _ in found]), places)  # (sums, photos)
        for reading, row in zip(readings, closeness, strict=True):
            reading["photos"] = largest(row, [Path(path).name for path in album], NUM_PHOTOS)
    return readings


def largest(values: "Tensor", names: Sequence[str], number: int) -> dict[str, float]:
    """The few largest of the values above 0, by name."""
    indices = values.topk(min(number, len(values))).indices.tolist()
    return {names[i]: values[i].item() for i in indices if values[i] > 0}


def format_reading(reading: dict) -> str:
    from modeling_langbridge.reading.patch_words import readable

    lines = [reading["sum"], f"  caption  {reading['caption'] or '(an empty one)'}"]
    lines.append("  words    " + "  ".join(f"{readable(word)} {x:.3f}" for word, x in reading["words"].items()))
    if reading["gained"]:
        lines.append("  gained   " + "  ".join(f"{readable(word)} {x:+.3f}" for word, x in reading["gained"].items()))
    lines += [f"  photos   {closeness:.3f}  {name}" for name, closeness in reading["photos"].items()]
    return "\n".join(lines)


def main() -> None:
    arguments = parse_arguments()
    from modeling_langbridge.utils.files import atomic_file

    readings = calculate(arguments)
    print("\n\n".join(map(format_reading, readings)))
    if arguments.output is not None:
        with atomic_file(arguments.output) as unfinished:
            unfinished.write_text(json.dumps(readings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    run_script(main)
