# SPDX-License-Identifier: Apache-2.0
"""The demo's page, one HTML file that needs nothing else, and its picture."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from modeling_langbridge.reading.page import TEMPLATES as READING
from modeling_langbridge.reading.page import hash_of


TEMPLATES = Path(__file__).parent / "templates"
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True
)
CURVE = (600, 150)  # width and height in the curve's own units


def render_demo(
    photos: Sequence[Mapping[str, Any]],
    captions: Mapping[str, Sequence[str]],
    steps: int,
    losses: Sequence[float],
    scenes: Sequence[tuple[Path, str]],
    said: Sequence[str],
    words: Path,
) -> str:
    """
    Makes the page.

    Args:
        photos (`Sequence[dict]`): What `write_photo_words` returned for each.
        captions (`Mapping[str, Sequence[str]]`): Of all photos, by the name of the language model.
        steps (`int`): Of the training.
        losses (`Sequence[float]`): Along the training.
        scenes (`Sequence[tuple[Path, str]]`): Pictures of scenes with their captions by the trained checkpoint.
        said (`Sequence[str]`): What was shown and what was not, a paragraph each.
        words (`Path`): The folder of the photos' pictures and pages; the latter are linked, relative to its parent.

    Returns:
        `str`: HTML. It loads nothing, and its content security policy forbids it to.
    """
    style = "".join(path.read_text(encoding="utf-8") for path in (READING / "page.css", TEMPLATES / "demo.css"))
    script = (TEMPLATES / "demo.js").read_text(encoding="utf-8")
    return ENVIRONMENT.get_template("demo.html.jinja").render(
        photos=[
            {
                **photo,
                "picture": embed(words / photo["picture"]),
                "page": f"{words.name}/{photo['page']}",
                "words": [{**word, "picture": embed(words / word["picture"])} for word in photo["words"]],
                "captions": {name: texts[number] for name, texts in captions.items()},
            }
            for number, photo in enumerate(photos)
        ],
        steps=steps,
        losses=losses,
        curve=draw_curve(losses),
        size=CURVE,
        scenes=[(embed(picture), caption) for picture, caption in scenes],
        said=said,
        style=style,
        script=script,
        style_hash=hash_of(style),
        script_hash=hash_of(script),
    )


def embed(picture: Path) -> str:
    """A picture's file as the address of an image."""
    kind = "png" if picture.suffix == ".png" else "jpeg"
    return f"data:image/{kind};base64,{b64encode(picture.read_bytes()).decode()}"


def draw_curve(losses: Sequence[float]) -> str:
    """The points of a line through the losses, from 0 at the bottom to the highest at the top."""
    width, height = CURVE
    across, top = width / max(1, len(losses) - 1), max(losses)
    return " ".join(f"{step * across:.1f},{height * (1 - loss / top):.1f}" for step, loss in enumerate(losses))
