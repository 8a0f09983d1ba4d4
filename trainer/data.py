# Copyright 2026 The LangBridge team. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""Samples in, prompts and completions out: LLaVA's json and chat datasets as TRL reads them, answers as targets."""

import json
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset, load_dataset, load_from_disk


ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def load_training_data(path: str, image_folder: str | None = None, split: str = "train") -> Dataset:
    """
    Loads image-text samples from where a user keeps them.

    Args:
        path (`str`):
            A LLaVA-style `.json` file, a folder written by `Dataset.save_to_disk`, or a dataset's Hub id. A dataset
            has the columns `messages` and `images`, or already `prompt`, `completion` and `images`.
        image_folder (`str`, *optional*, defaults to the json's own folder):
            What the image paths of a json are relative to.
        split (`str`, *optional*, defaults to `"train"`):
            The split of a dataset with several.

    Returns:
        `Dataset` with the columns `images`, `prompt` and `completion`, a row for each answer of each conversation.
    """
    if path.endswith(".json"):
        dataset = Dataset.from_list(list(read_llava(Path(path), Path(image_folder or Path(path).parent))))
    elif Path(path).is_dir():
        dataset = load_from_disk(path)
    else:
        dataset = load_dataset(path, split=split)
    if "messages" in dataset.column_names:
        dataset = dataset.map(split_answers, batched=True, batch_size=100, remove_columns=dataset.column_names)
    missing = {"images", "prompt", "completion"} - set(dataset.column_names)
    if missing:
        raise ValueError(
            f"{path} lacks the columns {sorted(missing)}: give `messages` and `images`, or `prompt`, `completion` and "
            "`images`."
        )
    return dataset


def read_llava(path: Path, image_folder: Path) -> Iterator[dict]:
    """
    Reads LLaVA's conversation json: `{"image": path, "conversations": [{"from": "human", "value": …}, …]}`.

    Yields:
        `dict` with `messages` (content in blocks) and `images` (paths).

    Raises:
        `ValueError`: names the file, the sample and what is wrong with it.
    """
    try:
        samples = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as json: {error}.") from error
    for index, sample in enumerate(samples):
        where = f"{path}, sample {sample.get('id', index)}"
        images = sample.get("image", [])
        images = [images] if isinstance(images, str) else images
        messages = []
        for turn in sample["conversations"]:
            if turn["from"] not in ROLES:
                raise ValueError(f"{where}: unknown role {turn['from']!r}, expected one of {sorted(ROLES)}.")
            messages.append({"role": ROLES[turn["from"]], "content": to_blocks(turn["value"])})
        placeholders = count_images(messages)
        if placeholders != len(images):
            raise ValueError(f"{where}: {placeholders} <image> placeholders, but {len(images)} images.")
        yield {"messages": messages, "images": [str(image_folder / image) for image in images]}


def to_blocks(text: str) -> list[dict]:
    """Cuts LLaVA's text at its `<image>` placeholders: `"<image>\\nWhat?"` to an image block and a text block."""
    blocks = []
    for position, piece in enumerate(text.split("<image>")):
        if position:
            blocks.append({"type": "image", "text": None})
        if piece.strip():
            blocks.append({"type": "text", "text": piece.strip()})
    return blocks


def count_images(messages: list[dict]) -> int:
    return sum(block["type"] == "image" for message in messages for block in message["content"])


def split_answers(batch: dict[str, list]) -> dict[str, list]:
    """Makes each answer a sample: what precedes it the prompt, the answer alone the completion and so the target."""
    rows = {"images": [], "prompt": [], "completion": []}
    for messages, images in zip(batch["messages"], batch["images"], strict=True):
        for position, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = messages[:position]
            in_blocks = any(not isinstance(turn["content"], str) for turn in prompt)
            rows["images"].append(images[: count_images(prompt)] if in_blocks else images)
            rows["prompt"].append(prompt)
            rows["completion"].append([message])
    return rows
