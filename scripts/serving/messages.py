# SPDX-License-Identifier: Apache-2.0
"""Chat messages with images in them, and the same messages with words in the images' place."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .errors import RequestError


IMAGE_PARTS = ("image_url", "input_image")  # of OpenAI's chat API, and of its newer one, which some clients mix up
TEXT = {"type", "text"}  # the fields of a part that is text and nothing else


@dataclass(frozen=True)
class ImagePart:
    """An image in a chat: the places of its message and of its part there, and its URL."""

    message: int
    part: int
    url: str

    @property
    def field(self) -> str:
        """Where it is in the request."""
        return f"messages[{self.message}].content[{self.part}]"


def find_images(body: Any) -> list[ImagePart]:
    """
    The images in the body of a chat request, in order. What is no image is not looked at: that is the upstream's.

    Raises:
        [`RequestError`]: a part says that it is an image, but has no URL.
    """
    messages = body.get("messages") if isinstance(body, dict) else None
    images = []
    for place, message in enumerate(messages if isinstance(messages, list) else ()):
        content = message.get("content") if isinstance(message, dict) else None
        for position, part in enumerate(content if isinstance(content, list) else ()):
            if not isinstance(part, dict) or part.get("type") not in IMAGE_PARTS:
                continue
            url = part.get("image_url")
            image = ImagePart(place, position, url.get("url") if isinstance(url, dict) else url)
            if not isinstance(image.url, str) or not image.url.strip():
                raise RequestError(
                    400,
                    f"{image.field} is of type {part['type']} but has no image: give it a field `image_url` with the "
                    "image's `url`.",
                    "invalid_image",
                    image.field,
                )
            images.append(image)
    return images


def replace_images(body: dict[str, Any], images: Sequence[ImagePart], texts: Sequence[str]) -> dict[str, Any]:
    """
    The body of a chat request with a text in place of each image; all other fields are the same.

    A message of nothing but texts becomes one text, one part a line: not every text server takes parts.
    """
    messages = list(body["messages"])
    for place in {image.message for image in images}:
        content = list(messages[place]["content"])
        for image, text in zip(images, texts, strict=True):
            if image.message == place:
                content[image.part] = {"type": "text", "text": text}
        if all(isinstance(part, dict) and part.keys() == TEXT and isinstance(part["text"], str) for part in content):
            content = "\n".join(part["text"] for part in content)
        messages[place] = {**messages[place], "content": content}
    return {**body, "messages": messages}
