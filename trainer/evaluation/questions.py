# SPDX-License-Identifier: Apache-2.0
"""What a model is asked in an evaluation: questions about images with their right answers, read from files."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image

from ..data.captioned_photos import folder_of_images, read_captioned_photos
from ..data.faults import SampleError, malformed
from ..data.image_places import in_folder, is_inline, path_of
from ..data.json_rows import parse_line, read_json_rows
from ..data.photo_folders import find_fault


PLACEHOLDER = "<image>"
SHORT_ANSWER = "Answer the question using a single word or phrase."  # LLaVA's, which its training data have too


@dataclass(frozen=True)
class Question:
    """
    A question about any number of images, none included.

    Args:
        key (`int`): its place in the data.
        images (`list`): what [`~trainer.data.images.open_image`] opens.
        prompt (`str`): what the model is asked about them.
        references (`list[str]`): the right answers, at least one.
        examples (`tuple[Question, ...]`, *optional*): asked before it, with their right answers.
    """

    key: int
    images: list[Any]
    prompt: str
    references: list[str]
    examples: tuple["Question", ...] = ()

    @property
    def right_answer(self) -> str:
        """What most people answer, and the first of these."""
        return max(self.references, key=self.references.count)

    @property
    def picture(self) -> str:
        """The names of its images; its own where it has none. What shares images is not independent."""
        return "; ".join(map(name_image, self.images)) or f"question {self.key}"


@dataclass(frozen=True)
class Data:
    """
    A file of questions.

    Args:
        path (`str`): the file.
        image_folder (`str`, *optional*): What image paths are relative to: the file's folder, or `images` in it.
        split (`str`, *optional*, defaults to `"test"`): the rows whose field `split` says so, all where none has one.
    """

    path: str
    image_folder: str | None = None
    split: str = "test"


def name_image(image: Any) -> str:
    """Where an image lies, or the digest of one that lies in the data themselves."""
    content = image.get("bytes") if isinstance(image, dict) else None
    if content is None and not is_inline(image) and (path := path_of(image)):
        return path
    if content is None:
        content = image.tobytes() if isinstance(image, Image) else str(image).encode()
    return f"image {hashlib.blake2b(content, digest_size=8).hexdigest()}"


def read_caption_questions(data: Data, prompt: str) -> list[Question]:
    """One question a photo; its references are the human captions."""
    photos = read_captioned_photos(data.path, data.image_folder, data.split)
    return [Question(key, [photo.image], prompt, photo.captions) for key, photo in enumerate(photos)]


def read_vqa_questions(data: Data, prompt: str) -> list[Question]:
    """Rows of `image` or `images`, `question`, and `answers`, a list, or one `answer`."""
    return read_rows(data, read_vqa_row, prompt)


def read_yes_no_questions(data: Data, prompt: str) -> list[Question]:
    """Rows of `image` or `images`, `question`, or POPE's `text`, and `label`: yes or no."""
    return read_rows(data, read_yes_no_row, prompt)


def read_vqa_row(row: dict[str, Any]) -> tuple[Any, list[str]]:
    answers = row.get("answers") or row.get("answer")
    answers = [answers] if isinstance(answers, str) else answers
    if (
        not isinstance(answers, list)
        or not all(isinstance(one, str) and one.strip() for one in answers)
        or not answers
    ):
        raise malformed("`answers`", answers, "a list of texts, or one text as `answer`")
    return row.get("question"), answers


def read_yes_no_row(row: dict[str, Any]) -> tuple[Any, list[str]]:
    label = row.get("label")
    if not isinstance(label, str) or label.strip().lower() not in ("yes", "no"):
        raise malformed("`label`", label, "yes or no")
    return row.get("question", row.get("text")), [label.strip().lower()]


def read_rows(data: Data, read_row: Callable[[dict[str, Any]], tuple[Any, list[str]]], prompt: str) -> list[Question]:
    """The questions of a `.json` or `.jsonl`; `read_row` finds the question and the right answers of a row."""
    questions: list[Question] = []
    splits: set[str] = set()
    for line, row in read_lines_or_list(Path(data.path)):
        try:
            if isinstance(row, SampleError):
                raise row
            splits.add(str(row.get("split", data.split)))
            if row.get("split", data.split) != data.split:
                continue
            question, references = read_row(row)
            if not isinstance(question, str) or not question.strip():
                raise malformed("the question", question, "a text")
            if PLACEHOLDER in question:
                raise malformed("the question", question, f"none with {PLACEHOLDER}: `image` sets its place")
            asked = f"{question}\n{prompt}" if prompt else question
            questions.append(Question(len(questions), list(find_images(row, data)), asked, references))
        except SampleError as error:
            raise ValueError(f"{data.path}, line {line}: {error}.") from error
    if not questions:
        others = (
            f", only in {', '.join(sorted(splits))}: name one of these, or another file" if splits else ": it is empty"
        )
        raise ValueError(f"{data.path} has no question in split {data.split!r}{others}.")
    return questions


def read_lines_or_list(path: Path) -> Iterator[tuple[int, dict | SampleError]]:
    """As [`~trainer.data.json_rows.read_json_rows`], also of POPE's files, lines of json that are called `.json`."""
    if path.suffix.lower() != ".json" or not path.is_file() or path.open("rb").read(1) != b"{":
        return read_json_rows(path)
    lines = path.read_text(encoding="utf-8").splitlines()
    return ((number, parse_line(line)) for number, line in enumerate(lines, 1) if line.strip())


def find_images(row: dict[str, Any], data: Data) -> Iterator[Any]:
    named = row.get("images", row.get("image"))
    named = [] if named is None else named if isinstance(named, list) else [named]
    for image in named:
        yield in_folder(image, data.image_folder or folder_of_images(Path(data.path).parent, image))


def check_pictures(questions: Sequence[Question], source: str) -> None:
    """
    Opens every image once, so that none is missed in the third hour.

    Raises:
        `ValueError`: counts and names those that are missing or broken. None is left out of a score in silence.
    """
    images = list({name_image(image): image for question in questions for image in question.images}.values())
    with ThreadPoolExecutor() as executor:
        faults = [fault for fault in executor.map(find_fault, images) if fault is not None]
    if faults:
        some = "; ".join(fault[:160] for fault in faults[:3]) + ("; ..." if len(faults) > 3 else "")
        raise ValueError(
            f"{len(faults)} of the {len(images)} images of {source} cannot be opened ({some}): mend them or "
            "--image_folder, or take their rows out; none is left out of a score."
        )
