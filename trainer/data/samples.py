# SPDX-License-Identifier: Apache-2.0
"""What a training sample is, and how the forms that people keep them in are read: LLaVA's, chat, pairs, webdataset.

Once read, every sample has the same form:

    {"id": "000042", "images": [path, PIL image or {"bytes": …}], "answers_from": 0,
     "messages": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What is it?"}]},
                  {"role": "assistant", "content": [{"type": "text", "text": "A dog."}]}]}

The assistant's messages from position `answers_from` on are what the model is to learn.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .faults import SampleError, malformed
from .fields import (
    CAPTIONS,
    CLIP_SUFFIXES,
    CONVERSATIONS,
    MARKERS,
    SYSTEM,
    find_unread_media,
    form_of,
    is_empty,
    why_row_is_refused,
    why_turn_is_refused,
)
from .image_places import in_folder, is_image_file, is_inline, path_of


ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
CAPTION_QUESTION = "Describe the image."
# Line breaks beside an image that the chat template writes itself where a text has no blank there.
BREAKS_AT_IMAGES = re.compile(r"(?<=<image>)\n(?=\S)|(?<=\S)\n(?=<image>)")


@contextmanager
def naming(row: dict[str, Any]) -> Iterator[None]:
    """Puts the name of the sample into the message of a [`SampleError`]."""
    try:
        yield
    except SampleError as error:
        message = f"{name_of(row)}: {error}; scripts/check_data.py lists all that is wrong with a file."
        raise SampleError(error.fault, message) from error


def name_of(row: dict[str, Any]) -> str:
    """What to call a row that could not be read: by its id or key, else by its first image's path."""
    images = row.get("images") or row.get("image")
    image = images[0] if isinstance(images, list) else images
    names = (row.get("id"), row.get("__key__"), None if is_inline(image) else path_of(image))
    return f"sample {next((name for name in names if name is not None), f'with the fields {sorted(row)}')}"


def read_sample(row: dict[str, Any], image_folder: str | Path | None = None) -> dict[str, Any]:
    """
    Brings a row of any known form into the one form above.

    Args:
        row (`dict`):
            One of: LLaVA's `conversations` (`from`, `value`); `messages`; `prompt` and `completion`, as text or
            messages (the completion alone is a target); `question` and `answer`, or several people's `answers`, of
            which the most frequent is learnt; an image with a `caption` or `text`; or a webdataset's `jpg`, `png` or
            `webp` (several: `0.jpg`, `1.jpg`) with `txt` or `json`. Images are in `image` or `images`, or inside the
            messages; text marks them by `<image>`, or they are put before the first question. `system` or
            `system_prompt` is the system message.
        image_folder (`str` or `Path`, *optional*):
            What relative image paths are relative to.

    Returns:
        `dict` with `id`, `images`, `messages` and `answers_from`.

    Raises:
        [`SampleError`]: says what is wrong with the sample, and in `fault` which kind of fault it is.
    """
    if "__key__" in row:
        row = read_webdataset(row)
    row = {key: value for key, value in row.items() if value is not None}
    form = form_of(row)
    if form is None:
        raise SampleError(
            "no conversation",
            "it has neither `conversations`, `messages`, `prompt` and `completion`, `question` and `answer`, nor "
            f"`caption`, only {sorted(row)}",
        )
    refuse(why_row_is_refused(row, form))
    images = read_images(row)
    num_images_of_row = len(images)
    answers_from = row.get("answers_from", 0)
    if form == ("prompt", "completion"):
        prompt, completion = as_turns(row["prompt"], "user"), as_turns(row["completion"], "assistant")
        turns, answers_from = prompt + completion, len(prompt)
    elif form == ("conversations",):
        turns = read_turns(row["conversations"])
    elif form == ("messages",):
        turns = row["messages"]
    elif "question" in form:
        question = as_text("question", row["question"])
        answer = as_text("answer", row["answer"]) if "answer" in form else most_frequent(row["answers"])
        turns = as_turns(question, "user") + as_turns(answer, "assistant")
    else:
        turns = as_turns(CAPTION_QUESTION, "user") + as_turns(row[form[0]], "assistant")
    if not isinstance(turns, (list, tuple)):
        raise malformed("the conversation", turns, "a list of turns")
    messages = [read_message(turn, images) for turn in turns]
    if 0 < num_images_of_row < len(images):
        raise SampleError("placeholder mismatch", "images both in the row and inside its messages: keep them in one")
    if not images and (unread := find_unread_media(row, form)):
        refuse(f"`{unread}` holds what this sample shows, but is not read: name it `image`, or leave the sample out")
    if not isinstance(answers_from, int) or answers_from < 0:
        raise malformed("`answers_from`", answers_from, "a message's position")
    num_messages = len(messages)
    messages = with_system_message(messages, row)
    answers_from += len(messages) - num_messages
    check_messages(messages, answers_from)
    place_images(messages, len(images))
    images = [in_folder(image, image_folder) for image in images]
    name = str(row["id"]) if "id" in row else name_after_content(messages, images)
    check_encodable([name, *map(path_of, images), *map(text_of, messages)])
    return {"id": name, "images": images, "messages": messages, "answers_from": answers_from}


def refuse(reason: str | None) -> None:
    if reason is not None:
        raise SampleError("unread field", reason)


def read_images(row: dict[str, Any]) -> list:
    """The images of `image` or `images`, whichever is filled."""
    named = {name: row[name] for name in ("images", "image") if name in row}
    filled = {name: value for name, value in named.items() if not is_empty(value)}
    values = list((filled or named).values())
    lists = [list(value) if isinstance(value, (list, tuple)) else [value] for value in values]
    if len(filled) == 2 and lists[0] != lists[1]:
        refuse("`image` and `images` hold different images: put all into `images`")
    return lists[0] if lists else []


def with_system_message(messages: list[dict], row: dict[str, Any]) -> list[dict]:
    """The messages behind the row's own system message, where it has one."""
    for name in SYSTEM:
        if is_empty(row.get(name)):
            continue
        message = read_message({"role": "system", "content": row[name]}, [])
        if not messages or messages[0]["role"] != "system":
            messages = [message, *messages]
        elif text_of(messages[0]) != text_of(message):
            refuse(f"`{name}` is not the system message that the sample has already: keep one of them")
    return messages


def check_encodable(texts: list[str | None]) -> None:
    for text in texts:
        try:
            (text or "").encode("utf-8")
        except UnicodeEncodeError as error:
            half = f"{text[error.start]!a} in {text[max(0, error.start - 30) :][:60]!a}"
            raise SampleError("malformed", f"half a character (a lone surrogate), {half}") from error


def read_webdataset(row: dict) -> dict:
    """A webdataset's sample: files of one name, told apart by their extension, as bytes or already decoded."""
    row = {key: value for key, value in row.items() if value is not None}
    try:
        if isinstance(row.get("json"), bytes):
            row["json"] = json.loads(row["json"])
        if isinstance(row.get("txt"), bytes):
            row["txt"] = row["txt"].decode("utf-8")
    except ValueError as error:
        raise SampleError("malformed", f"its .json or .txt cannot be read: {error}") from error
    content = row["json"] if "json" in row else {"caption": row["txt"]} if "txt" in row else None
    if content is None:
        raise SampleError("no conversation", "it has neither a .json nor a .txt beside its image")
    if not isinstance(content, dict):
        raise malformed("the .json", content, "a json object")
    clip = next((key for key in row if key.rsplit(".", 1)[-1].lower() in CLIP_SUFFIXES), None)
    if clip:
        refuse(f"its .{clip} cannot be read: give frames as images, or leave the sample out")
    images = [value for key, value in row.items() if is_image_file(key)]
    if images:
        content = {key: value for key, value in content.items() if key != "image"} | {"images": images}
    return {**content, "id": row["__key__"]}


def read_turns(conversations: Any) -> Any:
    """LLaVA's turns in the words of chat messages."""
    if not isinstance(conversations, (list, tuple)):
        return conversations
    return [
        {**turn, "role": turn.get("from"), "content": turn.get("value")} if isinstance(turn, dict) else turn
        for turn in conversations
    ]


def as_turns(content: str | list, role: str) -> list[dict]:
    return content if isinstance(content, list) else [{"role": role, "content": content}]


def as_text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise malformed(f"`{name}`", value, "text")
    return value


def most_frequent(answers: Any) -> Any:
    """Of several people's answers, as text or as VQA's `{"answer": ...}`, the most frequent, the first of equals."""
    if not isinstance(answers, (list, tuple)) or not answers:
        raise malformed("`answers`", answers, "a list of answers")
    texts = [as_text("answers", answer.get("answer") if isinstance(answer, dict) else answer) for answer in answers]
    return Counter(text.strip() for text in texts).most_common(1)[0][0]


def read_message(turn: dict, images: list) -> dict:
    """One turn with its content in blocks. Images that lie in the message itself are moved to `images`."""
    if not isinstance(turn, dict):
        raise malformed("a turn", turn, "an object with a role and content")
    role, content = turn.get("role"), turn.get("content")
    if not isinstance(role, str) or role not in ROLES:
        raise SampleError("unknown role", f"unknown role {role!r}, expected one of {sorted(ROLES)}")
    refuse(why_turn_is_refused(turn, ROLES[role]))
    if content is None or isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, (list, tuple)):
        raise malformed("a turn's content", content, "text or a list of blocks")
    blocks = []
    for block in content:
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text":
            text = block.get("text")
            if not isinstance(text, str | None):
                raise malformed("a text", text, "a string")
            blocks += to_blocks(text or "")
        elif kind in ("image", "image_url"):
            image = next((block[key] for key in ("image", "path", "url", "image_url") if block.get(key)), None)
            if image is not None:
                images.append(image["url"] if isinstance(image, dict) and "url" in image else image)
            blocks.append({"type": "image", "text": None})
        elif isinstance(kind, str):
            raise SampleError("unknown content", f"content of type {kind!r}, expected text or image")
        else:
            raise malformed("a block", block, "an object with a type")
    if ROLES[role] == "assistant":
        # An answer is one text, and the blanks around it are not taught.
        answer = text_of({"content": blocks}).strip()
        blocks = [block for block in blocks if block["type"] == "image"]
        blocks += [{"type": "text", "text": answer}] if answer else []
    return {"role": ROLES[role], "content": blocks}


def to_blocks(text: str) -> list[dict]:
    """Cuts text at its `<image>` placeholders: `"<image>\\nWhat?"` to an image block and a text block."""
    blocks = []
    for position, piece in enumerate(BREAKS_AT_IMAGES.sub("", text).split("<image>")):
        if position:
            blocks.append({"type": "image", "text": None})
        if piece:
            blocks.append({"type": "text", "text": piece})
    return blocks


def check_messages(messages: list[dict], answers_from: int) -> None:
    """Refuses what no chat template could make sense of."""
    roles = [message["role"] for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if turns != ["user", "assistant"] * (len(turns) // 2) + ["user"] * (len(turns) % 2):
        raise SampleError("turns out of order", f"user and assistant do not take turns: {roles}")
    if "assistant" not in roles[answers_from:]:
        raise SampleError("no answer", "no answer of the assistant to learn")
    for message in messages:
        # An answer may speak of the HTML elements of these names.
        marker = None if message["role"] == "assistant" else MARKERS.search(text_of(message))
        if marker:
            raise SampleError("unknown content", f"{marker[0]} in a text: only <image> marks something else than text")
        if message["role"] == "user":
            continue
        if any(block["type"] == "image" for block in message["content"]):
            raise SampleError("image in an answer", f"an image in a message of the {message['role']}")
        if message["role"] == "assistant" and not text_of(message):
            raise SampleError("empty answer", "an empty answer")


def place_images(messages: list[dict], num_images: int) -> None:
    """Sees that every image has its block; those that no block places go before the first question."""
    placeholders = sum(block["type"] == "image" for message in messages for block in message["content"])
    if placeholders == 0 and num_images:
        first = next(message for message in messages if message["role"] == "user")
        first["content"] = [{"type": "image", "text": None}] * num_images + first["content"]
    elif placeholders != num_images:
        raise SampleError("placeholder mismatch", f"{placeholders} <image> placeholders, but {num_images} images")


def text_of(message: dict) -> str:
    """The texts of a message as one, with a space where two have no blank between them, as the template joins them."""
    joined = ""
    for block in message["content"]:
        if block["type"] == "text":
            has_blank = joined != joined.rstrip() or block["text"] != block["text"].lstrip()
            joined += (" " if joined and not has_blank else "") + block["text"]
    return joined


def name_after_content(messages: list[dict], images: list) -> str:
    """A name for a sample without an id: its first image's path, or else how its first answer begins."""
    path = path_of(images[0]) if images else None
    if path and not is_inline(path):
        return path[:200]
    answer = next(message for message in messages if message["role"] == "assistant")
    return f"the one answered {text_of(answer)[:60]!r}"


def split_captions(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A row with a list of captions (Flickr8k has five a photo) as a row for each caption; other rows as they are."""
    key = next((key for key in CAPTIONS if isinstance(row.get(key), list)), None)
    if key is None or any(not is_empty(row.get(name)) for name in CONVERSATIONS):
        return [row]
    # Without any caption an empty one, to be complained of.
    return [{**row, key: None, "caption": caption} for caption in row[key] or [""]]
