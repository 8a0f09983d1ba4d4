# SPDX-License-Identifier: Apache-2.0
"""One HTML file that shows what models see in a photo, and that needs nothing else: it opens offline."""

from base64 import b64encode
from hashlib import sha256
from io import BytesIO
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jinja2
import torch
from PIL import Image

from .explaining import Explanation, rounded


TEMPLATES = Path(__file__).parent / "templates"
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, autoescape=True, trim_blocks=True
)


def render_page(title: str, explanations: dict[str, Explanation]) -> str:
    """
    Makes the page of a photo.

    Args:
        title (`str`): The photo's name.
        explanations (`dict[str, Explanation]`):
            What each model sees in it, by the model's name: one, or several to be shown side by side.

    Returns:
        `str`: HTML. It loads nothing, and its content security policy forbids it to.

    Raises:
        `ValueError`: the models divide the photo into different patches.
    """
    grids = {explanation.grid for explanation in explanations.values()}
    if len(grids) > 1:
        different = ", ".join(f"{rows} x {columns}" for rows, columns in sorted(grids))
        raise ValueError(f"The models divide a photo into {different} patches: compare models of one vision tower.")
    script, style = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    return ENVIRONMENT.get_template("page.html.jinja").render(
        title=title,
        names=list(explanations),
        grid=grids.pop(),
        views=name_views(list(explanations.values())),
        photo=as_data_url(next(iter(explanations.values())).view),
        data=[explanation.to_dict(pack_map) for explanation in explanations.values()],
        script=script,
        style=style,
        script_hash=hash_of(script),
        style_hash=hash_of(style),
    )


def name_views(explanations: list[Explanation]) -> list[str]:
    """The names of the views side by side: models of different depths have different layers in one view."""
    names = zip_longest(*([view.name for view in one.views] for one in explanations))
    return [" / ".join(dict.fromkeys(filter(None, row))) for row in names]


def pack_map(numbers: torch.Tensor) -> dict[str, Any]:
    """A small map: signed bytes of which the largest magnitude is 127."""
    largest = numbers.abs().max().item()
    levels = (numbers / (largest or 1) * 127).round().to(torch.int8)
    return {"largest": rounded(largest), "levels": b64encode(levels.numpy().tobytes()).decode()}


def as_data_url(picture: Image.Image) -> str:
    buffer = BytesIO()
    picture.save(buffer, format="JPEG", quality=90)
    return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"


def hash_of(text: str) -> str:
    """As a content security policy names an inline script or style."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
