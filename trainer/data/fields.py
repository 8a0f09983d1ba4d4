# SPDX-License-Identifier: Apache-2.0
"""Which fields of a row and of a turn are read, which are refused by name, and which are left aside."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from PIL import Image


# Where a row keeps its conversation; the first of these that is filled.
FORMS = (
    *(("conversations",), ("messages",), ("prompt", "completion")),
    *(("question", "answer"), ("question", "answers"), ("caption",), ("text",)),
)
CONVERSATIONS = ("conversations", "messages", "completion")
CAPTIONS = ("captions", "caption", "text")
CHOICES = ("choices", "options", "candidates")
QUESTIONS = ("prompt", "question", "query", "instruction")
SYSTEM = ("system", "system_prompt")
BESIDE = ("id", "image", "images", "answers_from", "captions", "__key__", "__url__", *SYSTEM)

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff")
CLIP_SUFFIXES = ("mp4", "avi", "mov", "mkv", "webm", "mpg", "mpeg", "wav", "mp3", "flac", "ogg", "m4a")

UNFOLLOWED = "is not followed: `answers_from` says from which message on answers are learnt; or remove the field"

# Fields that change what a sample means, which training would ignore; and what to do instead.
REFUSED = {
    **dict.fromkeys(
        ("video", "videos", "video_path", "video_paths", "audio", "audios", "audio_path", "audio_paths"),
        "cannot be read: give frames as `images`, or leave the sample out",
    ),
    **dict.fromkeys(
        ("tools", "functions", "tool_calls", "function_call"),
        "is not taught: write it into the system message or the answer, or remove the field",
    ),
    **dict.fromkeys(
        ("reasoning", "reasoning_content", "thinking"),
        "is not taught: write it into the answer, or remove the field",
    ),
    **dict.fromkeys(("loss_mask", "completion_mask", "assistant_masks"), UNFOLLOWED),
    "history": "is not read: write the earlier turns into `messages`",
    "chat_template_kwargs": "is not read: give the processor another `chat_template`",
}
REFUSED_IN_TURNS = {
    **REFUSED,
    **dict.fromkeys(("mask", "train_detail"), UNFOLLOWED),
    **dict.fromkeys(("image", "images"), "of a turn is not read: put it into blocks of its content, or into the row"),
}
WEIGHTS = ("weight", "loss_weight", "sample_weight", "loss_scale")
WEIGHTS_OF_TURNS = (*WEIGHTS, "loss", "train", "training", "trainable")

# How other models' data mark what is not text; `<image>` is read.
MARKERS = re.compile(
    r"<(video|audio)>(?!.*</\1>)"  # not the HTML element, which is closed
    r"|<\|?(?:video|audio|image)(?:_pad|[ _]?\d+)\|?>|<\|vision_start\|>|<ImageHere>",
    re.DOTALL,
)


def is_empty(value: Any) -> bool:
    """What a field without a value holds, also in a table, where every row has every column."""
    if isinstance(value, str):
        return value.strip() in ("", "[]", "{}")
    if isinstance(value, Mapping):
        return all(map(is_empty, value.values()))
    if isinstance(value, (list, tuple)):
        return all(map(is_empty, value))
    return value is None or value is False


def form_of(row: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The fields that the conversation is read from: filled ones, or else the first that are there at all."""
    there = [form for form in FORMS if all(row.get(name) is not None for name in form)]
    return next((form for form in there if not any(is_empty(row[name]) for name in form)), (there or [None])[0])


def unused_fields(names: Iterable[str], form: tuple[str, ...] | None) -> list[str]:
    return [name for name in names if name not in (*BESIDE, *(form or ()))]


def why_row_is_refused(row: Mapping[str, Any], form: tuple[str, ...]) -> str | None:
    """Says which field of a row means something that training would ignore, and the way out."""
    unused = {name: row[name] for name in unused_fields(row, form) if not is_empty(row[name])}
    second = next((name for name in CONVERSATIONS if name in unused), None)
    if second:
        return f"`{second}` stands beside `{form[0]}`: a row has one conversation, so empty the other field"
    question = next((name for name in QUESTIONS if name in unused), None)
    if question and form[0] in CAPTIONS:
        return (
            f"`{question}` stands beside `{form[0]}`, which answers no question: rename them to `prompt` and "
            f"`completion`, or remove `{question}`"
        )
    choices = next((name for name in CHOICES if name in unused), None)
    if choices and "question" in form:
        return f"`{choices}` stands beside `question`: write them into the question, and the right one as the answer"
    if "completion" in form and row.get("label") is False:
        return "`label` is false: a completion that is not wanted cannot be learnt from, leave it out"
    numbered = next((name for name in unused if re.fullmatch(r"(image|img)_?\d+", name)), None)
    if numbered:
        return f"`{numbered}` is not read: put all images into the list `images`"
    return why_refused(row, REFUSED, WEIGHTS, 1)


def why_turn_is_refused(turn: Mapping[str, Any], role: str) -> str | None:
    # Answers are learnt, all alike, and nothing else is: a weight that says so says nothing.
    return why_refused(turn, REFUSED_IN_TURNS, WEIGHTS_OF_TURNS, int(role == "assistant"))


def why_refused(
    fields: Mapping[str, Any], refused: Mapping[str, str], weights: tuple[str, ...], usual_weight: int
) -> str | None:
    for name, value in fields.items():
        if name in refused and not is_empty(value):
            return f"`{name}` {refused[name]}"
        if name in weights and value is not None and value != usual_weight:
            return f"`{name}`, here {value!r:.60}, {UNFOLLOWED}"
    return None


def find_unread_media(row: Mapping[str, Any], form: tuple[str, ...]) -> str | None:
    """A field that is not read and yet holds an image or a clip."""
    return next((name for name in unused_fields(row, form) if holds_media(row[name])), None)


def holds_media(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(holds_media, value))
    if isinstance(value, Mapping):
        return isinstance(value.get("bytes"), bytes) or holds_media(value.get("path"))
    if isinstance(value, (str, Path)):
        _, dot, suffix = str(value).rpartition(".")
        return bool(dot) and suffix.lower() in (*IMAGE_SUFFIXES, *CLIP_SUFFIXES)
    return isinstance(value, (bytes, Image.Image))
