# SPDX-License-Identifier: Apache-2.0
"""What other programs can ask the Space for, by the Model Context Protocol: a photo's caption, words and patches."""

import json
from collections.abc import Callable
from pathlib import Path

import gradio as gr
from captioning import stream_answer
from gradio.utils import get_upload_folder
from patch_words import strongest_words
from PIL import Image


def add_mcp_tools(
    page: gr.Blocks, model, processor, open_photo: Callable[[str], Image.Image], caption_prompt: str
) -> None:
    """Adds the tools to the page that is being built, where nobody sees them; `open_photo` checks a photo."""
    written: set[str] = set()
    page.temp_file_sets.append(written)

    def open_file(photo: dict) -> Image.Image:
        # gradio writes photos in base64 to files of which its own clean-up does not know.
        written.update(map(str, Path(get_upload_folder()).glob("*/file*")))
        return open_photo(photo["path"])

    def caption(photo: dict) -> str:
        """Describes a photo in a sentence.

        Args:
            photo: The photo, as a data: URL or an uploaded file.
        """
        *_, text = stream_answer(model, processor, open_file(photo), caption_prompt)
        return text

    def words(photo: dict) -> str:
        """Lists the words that a photo is made of, the strongest first, with their shares, as JSON.

        Args:
            photo: The photo, as a data: URL or an uploaded file.
        """
        seen = strongest_words(model, processor, open_file(photo))
        return json.dumps([{"word": word, "share": round(share, 4)} for word, share in seen.photo])

    def explain(photo: dict) -> str:
        """Lists the words of every patch of a photo with their coefficients, row by row, the strongest first, as JSON.

        Args:
            photo: The photo, as a data: URL or an uploaded file.
        """
        seen = strongest_words(model, processor, open_file(photo), top=3)
        patches = [[[[word, round(number, 4)] for word, number in patch] for patch in row] for row in seen.patches]
        return json.dumps({"rows": seen.grid[0], "columns": seen.grid[1], "patches": patches})

    with gr.Column(visible=False):
        photo, text = gr.Image(), gr.Textbox()
        gr.Button().click(caption, photo, text, preprocess=False, concurrency_id="write")
        if model.config.adapter_type == "langbridge":
            gr.Button().click(words, photo, text, preprocess=False)
            gr.Button().click(explain, photo, text, preprocess=False)
