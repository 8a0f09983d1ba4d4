# SPDX-License-Identifier: Apache-2.0
"""Chat requests with images in them, as OpenAI's clients send them."""

import base64
from io import BytesIO

from PIL import Image
from tiny_parts import make_image


def data_url(image: Image.Image, image_format: str = "PNG") -> str:
    buffer = BytesIO()
    image.save(buffer, image_format)
    return f"data:image/{image_format.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def image_part(image: str | Image.Image = "red", **options) -> dict:
    """An image, or one that is made in a colour."""
    image = make_image(image, **options) if isinstance(image, str) else image
    return {"type": "image_url", "image_url": {"url": data_url(image)}}


def text_part(text: str = "what is it?") -> dict:
    return {"type": "text", "text": text}


def ask(*parts: dict, model: str = "answers at once", **fields) -> dict:
    """The body of a chat request."""
    return {"model": model, "messages": [{"role": "user", "content": list(parts)}], **fields}
