# SPDX-License-Identifier: Apache-2.0
"""Asks a model about a photo or a video in the shell: one question, or a dialogue; the answer appears as it is
written."""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer.command_line import run_script
from trainer.decoding_arguments import KEEPS_TO_IMAGES, add_decoding_arguments, read_decoding
from trainer.number_arguments import at_least
from trainer.video_arguments import add_video_arguments, check_video_arguments, open_frames


if TYPE_CHECKING:
    from PIL.Image import Image

    from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
    from modeling_langbridge.video_opening import Frame
    from trainer.evaluation.decoding import Decoding


EPILOG = """examples:
  python scripts/chat.py --model my-langbridge --image dog.jpg --question "What is in the picture?"
  python scripts/chat.py --model my-langbridge --image dog.jpg --words
  python scripts/chat.py --model my-langbridge --video dog.mp4 --num_frames 4 --question "What happens?"

Without --question, every line of the input is a question about the same photo or video, until Ctrl-D. The answers
alone go to the standard output; the words, with --words, go to the standard error.
"""
IMAGE = "<image>"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a LangBridge checkpoint, by folder or Hub id")
    parser.add_argument("--image", metavar="FILE", help="the photo to ask about (default: none, text alone)")
    parser.add_argument("--question", help="one question (default: a dialogue)")
    parser.add_argument("--words", action="store_true", help="also show the words that the adapter sees")
    parser.add_argument(
        "--max_new_tokens", type=at_least(1), default=128, help="length at which an answer is cut (default: 128)"
    )
    add_decoding_arguments(parser)
    add_video_arguments(parser, "the video to ask about, instead of a photo")
    arguments = parser.parse_args()
    check_video_arguments(arguments, "image")
    if arguments.image is None and arguments.video is None:
        if arguments.words:
            raise ValueError("--words shows the words of a photo or a video: give one as --image or --video.")
        for option in KEEPS_TO_IMAGES:
            if getattr(arguments, option) is not None:
                raise ValueError(f"--{option} is about a photo or a video: give one as --image or --video.")
    if arguments.question is not None:
        check_question(arguments.question)
    return arguments


def check_question(question: str) -> None:
    """Raises `ValueError` for a question that is empty or that holds the photo's placeholder."""
    if not question.strip():
        raise ValueError("The question is empty: write one.")
    if IMAGE in question:
        raise ValueError(f"The question holds {IMAGE}, the mark of a photo's place: leave it out, --image sets it.")


def read_questions() -> Iterator[str]:
    """The lines of the input that are questions, until it ends."""
    prompt = "> " if sys.stdin.isatty() else ""
    while True:
        try:
            question = input(prompt)
            check_question(question)
        except EOFError:
            return
        except ValueError as error:
            print(error, file=sys.stderr)
        else:
            yield question


def answer(
    model: "LangBridgeForConditionalGeneration",
    processor: "LangBridgeProcessor",
    messages: list[dict],
    max_new_tokens: int,
    decoding: "Decoding",
) -> str:
    """What the model writes next, also to the standard output while it is written."""
    from transformers import TextStreamer

    from modeling_langbridge.reading.questions import prepare_conversations

    inputs = prepare_conversations(processor, [messages]).to(model.device, dtype=model.dtype)
    decoded = decoding.generate_kwargs(model, processor, [messages], inputs)
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    output = model.generate(**inputs, streamer=streamer, do_sample=False, max_new_tokens=max_new_tokens, **decoded)
    return processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def say_tokens(
    model: "LangBridgeForConditionalGeneration", processor: "LangBridgeProcessor", frames: "list[Frame]"
) -> None:
    """Says how much of the language model's context a video takes; `ValueError` where no question fits beside it."""
    from modeling_langbridge.reading.clip import count_tokens

    counts = count_tokens(processor, frames)
    context = getattr(model.config.text_config, "max_position_embeddings", None)  # some families have no limit
    of = "" if context is None else f" of the language model's {context:,}"
    plural = "s" if len(frames) > 1 else ""
    sentence = f"{len(frames)} frame{plural} of {counts[0]:,} tokens, {sum(counts):,}{of}"
    if context is not None and sum(counts) >= context:
        raise ValueError(f"{sentence}: lower --num_frames.")
    print(f"{sentence}.", file=sys.stderr)


def show_words(model: "LangBridgeForConditionalGeneration", processor: "LangBridgeProcessor", image: "Image") -> None:
    from modeling_langbridge.reading.patch_words import strongest_words

    words = strongest_words(model, processor, image).photo
    print("words: " + ", ".join(f"{word} {share:.1%}" for word, share in words), file=sys.stderr)


def main() -> None:
    arguments = parse_arguments()
    from modeling_langbridge.adapter.loading import open_model
    from modeling_langbridge.image_opening import open_image
    from modeling_langbridge.reading.clip import read_clip

    # Both before a large model is loaded.
    image = None if arguments.image is None else open_image(arguments.image)
    frames = [] if arguments.video is None else open_frames(arguments)
    model, processor = open_model(arguments.model)
    if frames:
        say_tokens(model, processor, frames)
    if arguments.words:
        model.config.require_words("--words")
        if image is not None:
            show_words(model, processor, image)
        for part in read_clip(model, processor, frames):
            print(part, file=sys.stderr)
    images = [frame.image for frame in frames] if image is None else [image]
    content = [{"type": "image", "image": image} for image in images]
    messages, decoding = [], read_decoding(arguments)
    for question in read_questions() if arguments.question is None else [arguments.question]:
        messages.append({"role": "user", "content": [*content, {"type": "text", "text": question}]})
        written = answer(model, processor, messages, arguments.max_new_tokens, decoding)
        messages.append({"role": "assistant", "content": [{"type": "text", "text": written}]})
        content = []  # the pictures come once


if __name__ == "__main__":
    run_script(main)
