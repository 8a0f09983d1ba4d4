# SPDX-License-Identifier: Apache-2.0
"""Shows what a model sees in photos, or in a video: HTML pages that open offline, pictures and JSON files."""

import argparse
import json
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from trainer.command_line import run_script
from trainer.data.samples import CAPTION_QUESTION
from trainer.number_arguments import at_least
from trainer.video_arguments import add_video_arguments, check_video_arguments, open_frames


if TYPE_CHECKING:
    from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
    from modeling_langbridge.reading.patch_words import NamedNumbers
    from modeling_langbridge.video_opening import Frame


EPILOG = """examples:
  python scripts/explain.py --model my-langbridge --images dog.jpg --output_dir explained
  python scripts/explain.py --model my-langbridge --compare my-other --images photos --output_dir explained

  A video, as a list of words with times and a page a frame (docs/video.md):
    python scripts/explain.py --model my-langbridge --video dog.mp4 --num_frames 8 --output_dir explained

  An adapter alone, as scripts/ground.py leaves it, without any language model:
    python scripts/explain.py --adapter grounded/adapter --vision_tower openai/clip-vit-large-patch14-336 \\
        --images photos --output_dir explained

  Whether the words are true, as tables (docs/reading_words.md, "Is the explanation true?"):
    python scripts/explain.py --model my-langbridge --check --dataset flickr8k/captions.jsonl --split dev

  A LLaVA, stock or a LangBridge without words (mlp, linear), lifted into words (docs/lifting.md):
    python scripts/explain.py --model llava-hf/llava-1.5-7b-hf --images dog.jpg --output_dir explained

docs/reading_words.md says what is shown. Images of a folder that cannot be opened are named, and the others are done.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="a LangBridge checkpoint, or a LLaVA, by folder or Hub id")
    what.add_argument("--adapter", help="with --vision_tower: an adapter alone, by folder or Hub id")
    parser.add_argument("--vision_tower", help="with --adapter: the vision tower it was trained with")
    parser.add_argument(
        "--compare", metavar="MODEL", help="with --model: another checkpoint of the same vision tower, shown beside it"
    )
    parser.add_argument("--images", type=Path, nargs="+", metavar="FILE|FOLDER", help="images, or folders of images")
    parser.add_argument("--output_dir", type=Path, metavar="FOLDER", help="the folder to write; it must not exist yet")
    parser.add_argument(
        "--words", nargs="+", default=[], metavar="WORD", help="words to show however weak they are in a photo"
    )
    parser.add_argument("--top", type=int, default=5, help="words listed per patch (default: 5)")
    parser.add_argument(
        "--layers", type=int, default=4, help="layers of the language model to look into (default: 4, 0 for none)"
    )
    parser.add_argument(
        "--vocabulary", help="for a LLaVA: file of a shared vocabulary (default: Qwen 2's and Llama 3's)"
    )
    parser.add_argument(
        "--vocab_size",
        type=int,
        help="for a LLaVA: how many of the words its tokenizer has (default: up to 19200)",
    )
    add_video_arguments(parser, "a video to put into words, instead of --images")
    add_check_options(parser)
    arguments = parser.parse_args()
    check_video_arguments(arguments, "images")
    check_check_options(parser, arguments)
    if (arguments.adapter is None) != (arguments.vision_tower is None):
        raise ValueError("--adapter and --vision_tower go together: a checkpoint, --model, has its own tower.")
    if arguments.compare is not None and arguments.model is None:
        raise ValueError("--compare shows two language models side by side: give the first one as --model.")
    if arguments.compare is not None and arguments.compare == arguments.model:
        raise ValueError(f"--compare {arguments.compare} is --model itself: name another checkpoint.")
    for option, least in (("top", 1), ("layers", 0), ("vocab_size", 1)):
        number = getattr(arguments, option)
        if number is not None and number < least:
            raise ValueError(f"--{option} is {number}, but must be at least {least}.")
    if not arguments.check and arguments.output_dir.exists():
        raise ValueError(f"--output_dir {arguments.output_dir} exists: remove it or name another folder.")
    return arguments


def add_check_options(parser: argparse.ArgumentParser) -> None:
    check = parser.add_argument_group("check", "Tables that say how far the words can be believed, instead of pages.")
    check.add_argument(
        "--check", action="store_true", help="substitute what is shown, and look for the words in human captions"
    )
    check.add_argument("--dataset", help="photos with captions, in any form that train.py takes, one image a row")
    check.add_argument("--image_folder", help="as for retrieve.py: what a json's image paths are relative to")
    check.add_argument("--split", default="test", help="of the dataset, as for retrieve.py (default: test)")
    check.add_argument("--max_photos", type=at_least(2), default=50, help="the first ones are taken (default: 50)")
    check.add_argument(
        "--question", default=CAPTION_QUESTION, help=f"what the captions answer (default: {CAPTION_QUESTION!r})"
    )
    check.add_argument("--cider", action="store_true", help="also how CIDEr changes: needs Java and the extra `eval`")


def check_check_options(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Pages need images and a folder, the check a dataset."""
    needed, other = (["dataset"], ["images", "video", "output_dir", "compare"])
    if not arguments.check:
        needed, other = ([*(["images"] if arguments.video is None else []), "output_dir"], ["dataset", "image_folder"])
    if missing := [f"--{name}" for name in needed if getattr(arguments, name) is None]:
        parser.error(f"the following arguments are required: {', '.join(missing)}")
    for name in other:
        if getattr(arguments, name) is not None:
            what = "makes tables and no pages" if arguments.check else "is what reads it"
            raise ValueError(f"--{name} does not go with these options: --check {what}.")
    if arguments.cider and not arguments.check:
        raise ValueError("--cider belongs to --check: give both.")
    if arguments.cider and arguments.adapter is not None:
        raise ValueError("--adapter has no language model that could caption: leave out --cider.")


def open_named(
    name: str, vocabulary: str | None, vocab_size: int | None
) -> tuple["LangBridgeForConditionalGeneration", "LangBridgeProcessor"]:
    """A LangBridge checkpoint, or a LLaVA that is lifted into words."""
    from modeling_langbridge.conversion.opening import open_in_words

    model, processor, loss = open_in_words(name, vocabulary, vocab_size)
    if loss is not None:
        print(f"{name}: {loss}")
    elif vocabulary is not None or vocab_size is not None:
        raise ValueError(f"{name} is made of words of its own: leave out --vocabulary and --vocab_size.")
    return model, processor


def open_models(
    arguments: argparse.Namespace,
) -> dict[str, tuple["LangBridgeForConditionalGeneration", "LangBridgeProcessor"]]:
    """The one or two models to explain, by their names."""
    import torch

    from modeling_langbridge import LangBridgeAdapter

    if arguments.adapter is None:
        names = [arguments.model, *filter(None, [arguments.compare])]
        return {name: open_named(name, arguments.vocabulary, arguments.vocab_size) for name in names}
    model, processor = LangBridgeAdapter.from_pretrained(arguments.adapter).join(arguments.vision_tower)
    return {arguments.adapter: (model.to("cuda" if torch.cuda.is_available() else "cpu"), processor)}


def write_parts(path: Path, video: str, frames: "list[Frame]", words: "list[NamedNumbers]") -> None:
    """Writes a video as a list of words with times, and prints it."""
    from modeling_langbridge.reading.clip import Part, join_frames

    parts = join_frames(frames, words)
    content = {
        "video": Path(video).name,
        "parts": [part.to_dict() for part in parts],
        "frames": [
            {"time": round(frame.time, 3), **Part(frame.start, frame.end, strongest).to_dict()}
            for frame, strongest in zip(frames, words, strict=True)
        ],
    }
    path.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")
    print("\n".join(map(str, parts)))


def print_check(arguments: argparse.Namespace) -> None:
    """Prints the tables of --check."""
    from trainer.data.captioned_photos import read_captioned_photos
    from trainer.evaluation.explanation_report import cider_table, precision_table, substitution_table
    from trainer.evaluation.faithfulness import substitute

    if arguments.cider:
        from trainer.evaluation.caption_metrics import check_java  # pycocoevalcap is an extra

        check_java()
    photos = read_captioned_photos(arguments.dataset, arguments.image_folder, arguments.split)[: arguments.max_photos]
    if len(photos) < 2:
        raise ValueError(f"{arguments.dataset} has one photo in split {arguments.split!r}: the check needs two.")
    [(name, parts)] = open_models(arguments).items()
    print(f"{name}, {len(photos)} photos; in brackets 95 % intervals over photos.\n")
    if arguments.adapter is None:
        found = substitute(*parts, photos, arguments.question, answer=arguments.cider)
        print("Substitution: KL per token of a caption, in nats, by the number of words that are shown.\n")
        print(f"{substitution_table(found)}\n")
        if arguments.cider:
            print(f"{cider_table(found, photos)}\n")
    print(f"Precision in human captions:\n\n{precision_table(*parts, photos)}")


def main() -> None:
    arguments = parse_arguments()
    if arguments.check:
        return print_check(arguments)
    from tqdm import tqdm

    from modeling_langbridge.image_opening import ImageError
    from modeling_langbridge.reading.explaining import explain
    from modeling_langbridge.reading.saving import save_explanations
    from modeling_langbridge.utils.files import atomic_folder
    from modeling_langbridge.utils.forward_clock import ForwardClock
    from trainer.data.images import find_images

    if arguments.video is None:
        frames, images = [], [(path, path) for path in find_images(arguments.images)]
    else:
        frames, stem = open_frames(arguments), Path(arguments.video).stem
        images = [(Path(f"{stem}-{frame.time:.2f}s.png"), frame.image) for frame in frames]
    with atomic_folder(arguments.output_dir) as unfinished:
        models = open_models(arguments)
        options = {"top": arguments.top, "words": arguments.words, "num_layers": arguments.layers}
        options["has_language_model"] = arguments.adapter is None
        bridges = [model.model for model, _ in models.values()]
        clock = ForwardClock(part for bridge in bridges for part in (bridge.vision_tower, bridge.language_model))
        failures, words, seconds = [], [], 0.0
        for path, image in tqdm(images, desc="photos", unit=" photos", disable=len(images) == 1):
            start = perf_counter()
            try:
                found = {name: explain(*model, image, **options) for name, model in models.items()}
            except ImageError as error:
                failures.append(str(error))
            else:
                save_explanations(unfinished, path, found)
                seconds += perf_counter() - start
                words.append(next(iter(found.values())).photo)
        if len(failures) == len(images):
            raise ValueError(failures[0])
        if frames:
            write_parts(unfinished / f"{stem}.json", arguments.video, frames, words)
    for failure in failures:
        print(f"left out: {failure}", file=sys.stderr)
    done = len(images) - len(failures)
    own, beyond = clock.seconds / done, (seconds - clock.seconds) / done
    print(
        f"{arguments.output_dir} holds the pages of {done} of {len(images)} images. An image took {own:.2f} s of the "
        f"vision tower and the language model, and {beyond:.2f} s beyond."
    )


if __name__ == "__main__":
    run_script(main)
