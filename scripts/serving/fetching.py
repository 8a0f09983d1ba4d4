# SPDX-License-Identifier: Apache-2.0
"""From the URL of an image in a request to its bytes: of a `data:` URL, or from the web where that is allowed."""

import base64
import binascii
import re

from huggingface_hub.utils import httpx

from modeling_langbridge.image_opening import WEB, ImageError, fetch


DATA_URL = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)


def read_image(url: str, allow_web_images: bool) -> bytes:
    """
    The bytes of an image.

    Args:
        url (`str`): A `data:` URL in base64, or one that begins with `http://` or `https://`.
        allow_web_images (`bool`):
            Whether the latter are fetched. Private and local addresses are refused even so, also behind a redirect;
            size, time and redirects are bounded, see [`~modeling_langbridge.image_opening.open_image`].

    Raises:
        [`ImageError`]: the image is not there, or may not be fetched.
    """
    if url.lower().startswith("data:"):
        return decode(url)
    if not url.lower().startswith(WEB):
        kinds = "data:, http: and https: URLs" if allow_web_images else "data: URLs in base64"
        raise ImageError("missing image", f"the image {url[:60]} is not opened: only {kinds} are")
    if not allow_web_images:
        raise ImageError(
            "missing image",
            f"the image {url[:200]} is not fetched: send it as a data: URL, or start this server with "
            "--allow_web_images",
        )
    name = f"the image {url[:200]}"
    try:
        return fetch(url, name, public_only=True)
    except httpx.HTTPStatusError as error:
        status = error.response.status_code
        raise ImageError("missing image", f"{name} cannot be fetched: the server answers {status}") from error
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError("missing image", f"{name} cannot be fetched: {error}") from error


def decode(url: str) -> bytes:
    """The bytes of a `data:` URL."""
    start = DATA_URL.match(url)
    if start is None:
        raise ImageError("undecodable image", "a data: URL is not in base64: begin it like data:image/png;base64,")
    try:
        return base64.b64decode(url[start.end() :])
    except (binascii.Error, ValueError) as error:
        raise ImageError("undecodable image", f"a data: URL is no base64: {error}") from error
