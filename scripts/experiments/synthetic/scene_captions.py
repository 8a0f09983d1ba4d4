# SPDX-License-Identifier: Apache-2.0
"""Pictures of the synthetic world with their captions: as training samples, and captioned by a trained checkpoint."""

import os
from collections.abc import Sequence

from datasets import Dataset, Features, Image, List, Value
from PIL.Image import Image as Picture
from tqdm import tqdm
from transformers import pipeline

from experiments.synthetic.synthetic_world import PROMPT


def scene_dataset(pictures: Sequence[Picture], captions: Sequence[str]) -> Dataset:
    """
    One training sample per picture, in TRL's conversational prompt-completion form with an `images` column.

    Args:
        pictures (`Sequence[PIL.Image.Image]`): of the scenes.
        captions (`Sequence[str]`): one per picture, in the same order: what the model is to answer `PROMPT` with.
    """
    if len(pictures) != len(captions):
        raise ValueError(f"There must be one caption per picture, not {len(captions)} for {len(pictures)}.")
    message = [{"role": Value("string"), "content": Value("string")}]
    return Dataset.from_dict(
        {
            "images": [[picture] for picture in pictures],
            "prompt": [[{"role": "user", "content": PROMPT}]] * len(pictures),
            "completion": [[{"role": "assistant", "content": caption}] for caption in captions],
        },
        features=Features({"images": List(Image()), "prompt": message, "completion": message}),
    )


def caption_through_pipeline(
    checkpoint: str | os.PathLike,
    pictures: Sequence[Picture | None],
    *,
    batch_size: int = 50,
    max_new_tokens: int = 30,
) -> list[str]:
    """
    Captions pictures as any user of a checkpoint would: by transformers' image-text-to-text pipeline.

    Args:
        checkpoint (`str` or `os.PathLike`):
            A folder with model, processor and, where the model needs it, its code, which is run.
        pictures (`Sequence[PIL.Image.Image | None]`):
            What to caption; for `None` the prompt is asked without a picture.
        batch_size (`int`, *optional*, defaults to 50):
            Pictures at a time.
        max_new_tokens (`int`, *optional*, defaults to 30):
            Length at which a caption is cut.

    Returns:
        `list[str]`: the captions by greedy decoding, in the pictures' order.
    """
    captioner = pipeline("image-text-to-text", model=str(checkpoint), trust_remote_code=True)
    captions: list[str] = []
    for start in tqdm(range(0, len(pictures), batch_size), desc="captioning"):
        chats = []
        for picture in pictures[start : start + batch_size]:
            blocks = [] if picture is None else [{"type": "image", "image": picture}]
            chats.append([{"role": "user", "content": [*blocks, {"type": "text", "text": PROMPT}]}])
        answers = captioner(
            text=chats,
            batch_size=len(chats),
            return_full_text=False,
            generate_kwargs={"max_new_tokens": max_new_tokens, "do_sample": False},
        )
        captions += [answer[0]["generated_text"].strip() for answer in answers]
    return captions
