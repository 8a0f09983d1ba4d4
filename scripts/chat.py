# SPDX-License-Identifier: Apache-2.0
"""Asks a model about a photo in the shell: one question, or a dialogue; the answer appears as it is written."""

import argparse
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trainer.command_line import run_script


if TYPE_CHECKING:
    from PIL.Image import Image

    from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor


EPILOG = """examples:
  python scripts/chat.py --model my-langbridge --image dog.jpg --question "What is in the picture?"
  python scripts/chat.py --model my-langbridge --image dog.jpg --words

Without --question, every line of the input is a question about the same photo, until Ctrl-D. The answers alone go to
the standard output; the photo's words, with --words, go to the standard error.
"""
IMAGE = "<image>"


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="a LangBridge checkpoint, by folder or Hub id")
    parser.add_argument("--image", metavar="FILE", help="the photo to ask about (default: none, text alone)")
    parser.add_argument("--question", help="one question (default: a dialogue)")
    parser.add_argument("--words", action="store_true", help="also show the words that the adapter sees in the photo")
    parser.add_argument(
        "--max_new_tokens", type=int, default=128, help="length at which an answer is cut (default: 128)"
    )
    arguments = parser.parse_args()
    if arguments.words and arguments.image is None:
        raise ValueError("--words shows the words of a photo: give one as --image.")
    if arguments.max_new_tokens < 1:
        raise ValueError(f"--max_new_tokens is {arguments.max_new_tokens}, but must be at least 1.")
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
) -> str:
    """What the model writes next, also to the standard output while it is written."""
    from transformers import TextStreamer

    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(model.device, dtype=model.dtype)
    streamer = TextStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    output = model.generate(**inputs, streamer=streamer, do_sample=False, max_new_tokens=max_new_tokens)
    return processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()


def show_words(model: "LangBridgeForConditionalGeneration", processor: "LangBridgeProcessor", image: "Image") -> None:
    from modeling_langbridge.reading.patch_words import strongest_words

    words = strongest_words(model, processor, image).photo
    print("words: " + ", ".join(f"{word} {share:.1%}" for word, share in words), file=sys.stderr)


def main() -> None:
    arguments = parse_arguments()
    from modeling_langbridge.adapter.loading import open_model
    from modeling_langbridge.image_opening import open_image

    image = None if arguments.image is None else open_image(arguments.image)  # before a large model is loaded
    model, processor = open_model(arguments.model)
    if arguments.words:
        model.config.require_words("--words")
        show_words(model, processor, image)
    content = [] if image is None else [{"type": "image", "image": image}]
    messages = []
    for question in read_questions() if arguments.question is None else [arguments.question]:
        messages.append({"role": "user", "content": [*content, {"type": "text", "text": question}]})
        written = answer(model, processor, messages, arguments.max_new_tokens)
        messages.append({"role": "assistant", "content": [{"type": "text", "text": written}]})
        content = []  # the photo comes once


if __name__ == "__main__":
    run_script(main)
