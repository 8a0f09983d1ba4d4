# SPDX-License-Identifier: Apache-2.0
"""
What words in place of images are worth to a text-only language model: its answers about photos, through its server.

    PYTHONPATH=.:scripts python -m experiments.flickr8k.served_eyes --url http://localhost:8001/v1 --model NAME \\
        --language_model FOLDER --vision_tower FOLDER --data FLICKR8K --output_dir FOLDER

The server is `serve_eyes.py` before a server of the language model. An interrupted run goes on where it was.
"""

import argparse
import base64
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from huggingface_hub.utils import httpx
from tqdm import tqdm

from experiments.flickr8k.caption_corpora import most_used_words, read_flickr8k
from experiments.flickr8k.yes_no_questions import ask_about
from experiments.photos_demo.captions import WORDS_PER_IMAGE, write_captions
from modeling_langbridge import LangBridgeAdapter
from modeling_langbridge.image_opening import open_image
from modeling_langbridge.utils.files import read_json
from serving.wording import TEMPLATE, fill_template
from trainer.command_line import run_script
from trainer.data.captioned_photos import CaptionedPhoto
from trainer.evaluation.caption_metrics import measure_captions
from trainer.evaluation.intervals import mean_of
from trainer.number_arguments import at_least


DESCRIBE = "Describe the image in one sentence."
CAPTIONED = 40  # of the photos, the first ones: captions take most of the time
EXAMPLES = 2  # train photos with their captions, as turns before a photo that is to be described
WORDS = 8
ROWS = {
    "nothing": "no picture",
    "image": "**the image, through `serve_eyes.py`**",
    "caption": "a caption by the same language model, with the adapter",
    "people": "words that people use",
}
LENGTHS = {"caption": 24, "yes_no": 3, "one_word": 6}  # tokens of an answer at most
KEY = ("row", "task", "photo", "text")  # what tells an answer from all others
Part = dict[str, Any]  # of a chat message


@dataclass(frozen=True)
class Question:
    """A question about a photo: its `task`, its text, and the right and the wrong answer, if it has one."""

    task: str
    photo: str
    text: str
    right: str = ""
    wrong: str = ""


def ask_questions(photos: Sequence[CaptionedPhoto]) -> Iterator[Question]:
    """Of each photo a caption, whether things are there that are and are not, and which of these two is."""
    for photo in photos[:CAPTIONED]:
        yield Question("caption", photo.name, DESCRIBE)
    questions = list(ask_about(photos))
    for question in questions:
        text, right = f"{question['text']} Answer yes or no.", question["label"]
        wrong = {"yes": "no", "no": "yes"}[right]
        yield Question("yes_no", question["image"], text, right, wrong)
    for present, absent in zip(questions[::2], questions[1::2], strict=True):
        right, wrong = (question["text"].split()[3] for question in (present, absent))
        first, second = random.Random(present["question_id"]).sample([right, wrong], 2)
        text = f"What is in the image, a {first} or a {second}? Answer with one word."
        yield Question("one_word", present["image"], text, right, wrong)


def show_with(captions: dict[str, str]) -> dict[str, Callable[[CaptionedPhoto], list[Part]]]:
    """How a photo is shown in each row of the table."""

    def as_text(words: str) -> list[Part]:
        return [{"type": "text", "text": fill_template(TEMPLATE, 1, words)}]

    def as_image(photo: CaptionedPhoto) -> list[Part]:
        content = base64.b64encode(Path(photo.image).read_bytes()).decode()
        return [{"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{content}"}}]

    return {
        "nothing": lambda photo: [],
        "image": as_image,
        "caption": lambda photo: as_text(captions[photo.name]),
        "people": lambda photo: as_text(", ".join(most_used_words(photo.captions[1:], WORDS))),
    }


def build_chat(
    question: Question,
    photos: dict[str, CaptionedPhoto],
    show: Callable[[CaptionedPhoto], list[Part]],
    examples: Sequence[CaptionedPhoto],
) -> list[dict[str, Any]]:
    """The messages of a question, after examples where a caption is asked for."""
    messages = []
    for photo in examples if question.task == "caption" else ():
        messages.append({"role": "user", "content": [*show(photo), {"type": "text", "text": DESCRIBE}]})
        messages.append({"role": "assistant", "content": f"{photo.captions[0].strip(' .')}."})
    shown = [*show(photos[question.photo]), {"type": "text", "text": question.text}]
    return [*messages, {"role": "user", "content": shown}]


def is_right(answer: dict[str, str]) -> bool:
    """Whether an answer names the right one of the two words before the wrong one, or alone."""
    words = "".join(letter if letter.isalpha() else " " for letter in answer["answer"].lower()).split()
    named = [word for word in words if word in (answer["right"], answer["wrong"])]
    return named[:1] == [answer["right"]]


def write_table(answers: Sequence[dict], photos: dict[str, CaptionedPhoto]) -> str:
    """The table, with 95 % intervals over photos."""
    lines = [
        "| handed over | CIDEr | one of two right | yes/no right | says yes | tokens of a question | "
        "seconds of a question | of a caption |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row, name in ROWS.items():
        tasks = {
            task: [answer for answer in answers if (answer["row"], answer["task"]) == (row, task)]
            for task in ("caption", "yes_no", "one_word")
        }
        written = {answer["photo"]: answer["answer"] for answer in tasks["caption"]}
        scores = measure_captions(written, {photo: photos[photo].captions for photo in written})
        cider = next(score for key, score in scores.items() if key.startswith("CIDEr"))
        one_word = mean_of(torch.tensor([is_right(answer) for answer in tasks["one_word"]]))
        pairs = torch.tensor([is_right(answer) for answer in tasks["yes_no"]]).view(-1, 2)  # (photos, 2)
        measures = one_word, mean_of(pairs.double().mean(1)), cider
        says_yes = mean(answer["answer"].lower().startswith("yes") for answer in tasks["yes_no"])
        tokens = mean(answer["tokens"] for answer in tasks["yes_no"])
        seconds = [mean(answer["seconds"] for answer in tasks[task]) for task in ("yes_no", "caption")]
        one, yes_no, score = (str(measure.estimate()) for measure in measures)
        lines.append(
            f"| {name} | {score} | {one} | {yes_no} | {says_yes:.2f} | {tokens:.0f} | {seconds[0]:.2f} | "
            f"{seconds[1]:.2f} |"
        )
    return "\n".join(lines)


def caption_photos(arguments: argparse.Namespace, photos: Sequence[CaptionedPhoto], path: Path) -> dict[str, str]:
    """The captions that the language model writes with the adapter, kept in a file."""
    captions = read_json(path) if path.exists() else {}
    if left := [photo for photo in photos if photo.name not in captions]:
        adapter = LangBridgeAdapter.grounded_efficientnet_lite0()
        parts = arguments.vision_tower, arguments.language_model
        model, processor = adapter.join(*parts, words_per_image=WORDS_PER_IMAGE)
        written = write_captions(model, processor, [open_image(photo.image) for photo in left])
        captions |= dict(zip([photo.name for photo in left], written, strict=True))
        path.write_text(json.dumps(captions, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return captions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True, help="where serve_eyes.py serves, with /v1")
    parser.add_argument("--model", required=True, help="the language model's name there")
    parser.add_argument("--language_model", required=True, help="its folder, for the captions with the adapter")
    parser.add_argument("--vision_tower", required=True, help="EfficientNet-Lite0's folder")
    parser.add_argument("--data", required=True, help="Flickr8k's folder")
    parser.add_argument("--output_dir", type=Path, required=True, help="answers are added here")
    parser.add_argument("--photos", type=at_least(2), default=100, help="test photos (default: 100)")
    arguments = parser.parse_args()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    test = read_flickr8k(arguments.data, "test")[: arguments.photos]
    examples = read_flickr8k(arguments.data, "train")[:EXAMPLES]
    captions = caption_photos(arguments, [*test, *examples], arguments.output_dir / "captions.json")
    questions = list(ask_questions(test))
    photos, shows = {photo.name: photo for photo in test}, show_with(captions)
    path = arguments.output_dir / "answers.jsonl"
    kept = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    answers = {tuple(answer[name] for name in KEY): answer for answer in kept}
    asked = {(row, *(getattr(question, name) for name in KEY[1:])): question for question in questions for row in ROWS}
    left = [key for key in asked if key not in answers]
    with path.open("a", encoding="utf-8") as file, httpx.Client(timeout=600) as client:
        for key in tqdm(left, desc="questions"):
            row, question = key[0], asked[key]
            body = {
                "model": arguments.model,
                "messages": build_chat(question, photos, shows[row], examples),
                "max_tokens": LENGTHS[question.task],
                "temperature": 0,
            }
            start = time.perf_counter()
            answer = client.post(f"{arguments.url}/chat/completions", json=body).raise_for_status().json()
            answers[key] = {
                "row": row,
                **asdict(question),
                "answer": answer["choices"][0]["message"]["content"].strip(),
                "tokens": answer["usage"]["prompt_tokens"],
                "seconds": time.perf_counter() - start,
            }
            file.write(json.dumps(answers[key]) + "\n")
            file.flush()
    print(write_table([answers[key] for key in asked], photos))


if __name__ == "__main__":
    run_script(main)
