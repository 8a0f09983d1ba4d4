# SPDX-License-Identifier: Apache-2.0
"""A Gradio Space that demonstrates a LangBridge: captions, answers, and the words that each patch is made of.

The environment variables MODEL_ID and MODEL_REVISION name the model; CAPTION_PROMPT is the prompt for captions.
"""

import html
import os
from functools import partial
from pathlib import Path


os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
from captioning import load_model, stream_answer
from limits import KEPT, LIMITS, MAX_WAITING, Page
from mcp_tools import add_mcp_tools
from PIL import Image
from transformers import PreTrainedConfig, ProcessorMixin
from words_panel import CSS, add_words_panel


PHOTOS = Path(__file__).with_name("photos")
# System fonts: the page makes no request to another host.
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
THEME = gr.themes.Default(primary_hue="amber", neutral_hue="stone", **FONTS)


def receive_photo(processor: ProcessorMixin, file: dict | None, last: str | None):
    """Checks the image that was uploaded or picked; warns and clears the photo where it cannot be opened.

    The browser may report one photo twice: nothing changes where its path is the `last` one.
    """
    path = file and file["path"]
    if path == last:
        return gr.skip()
    if path is None:
        return None, None, gr.skip()
    try:
        open_photo(processor, path)
    except gr.Error as error:
        gr.Warning(error.message)
        return path, None, None
    return path, path, gr.skip()


def open_photo(processor: ProcessorMixin, path: str) -> Image.Image:
    """Opens an uploaded image as the model was trained on it.

    Raises:
        `gr.Error`: it is not an image, or too large; the message names the file without its folder.
    """
    try:
        return processor.open_image(path)
    except ValueError as error:
        raise gr.Error(html.escape(str(error).replace(path, Path(path).name))) from error


def summarize_model(name: str, config: PreTrainedConfig) -> str:
    """A short description of a model, as Markdown."""
    if config.adapter_type != "langbridge":
        return (
            f"`{name}` captions photos and answers questions. Its adapter ({config.adapter_type}) is not made of "
            "words, so there are none to show."
        )
    text = f"`{name}` reads every patch of a photo as a mixture of {config.bridge_vocab_size:,} words. Its language "
    if config.words_per_image is None:
        text += "model reads that mixture of the words' own embeddings."
    else:
        text += f"model reads the {config.words_per_image} strongest words of the whole photo."
    if config.linear_remainder:
        text += " A linear remainder adds what the words leave out."
    if config.coefficient_activation == "linear":
        text += " Its coefficients are raw: they have signs and cancel out, so a single word holds little meaning."
    return text


def build_page(model, processor, name: str, caption_prompt: str = "Describe the image.") -> gr.Blocks:
    """The page for a model; `name` is its title there."""

    def receive(file: dict | None, last: str | None):
        return receive_photo(processor, file, last)

    def caption(path: str | None):
        if path is None:
            yield ""
        else:
            yield from stream_answer(model, processor, open_photo(processor, path), caption_prompt)

    def answer(path: str | None, question: str | None):
        if path is None:
            gr.Warning("There is no photo to ask about: upload or pick one first.")
            yield gr.skip()
        elif not (question and question.strip()):
            gr.Warning("The question is empty: write one first.")
            yield gr.skip()
        else:
            yield from stream_answer(model, processor, open_photo(processor, path), question.strip())

    with Page(title="LangBridge", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gr.Markdown(f"# A photo, made of words\n{summarize_model(name, model.config)}")
        with gr.Row():
            with gr.Column():
                photo = gr.Image(label="Photo", sources=["upload", "webcam", "clipboard"], height=340)
                if photos := [[str(path)] for path in sorted(PHOTOS.glob("[!.]*"))]:
                    gr.Examples(photos, photo, label="Or pick one")
            with gr.Column():
                captioned = gr.Textbox(label="Caption", lines=2, interactive=False)
                asked = gr.Textbox(label="Question", placeholder="What is in the picture?", submit_btn="Ask")
                answered = gr.Textbox(label="Answer", lines=2, interactive=False)
        last, opened = gr.State(), gr.State()
        # Not preprocessed: gradio would decode the file, whatever its size.
        photo.change(
            receive,
            [photo, last],
            [last, opened, photo],
            preprocess=False,
            show_progress="hidden",
        )
        opened.change(lambda: "", None, answered, show_progress="hidden")
        # One id: captions and answers are written one at a time.
        opened.change(caption, opened, captioned, concurrency_id="write")
        asked.submit(answer, [opened, asked], answered, concurrency_id="write")
        if model.config.adapter_type == "langbridge":
            add_words_panel(opened, model, processor)
        for function in page.fns.values():
            function.api_visibility = "private"  # what the page calls is of use to nobody else
        add_mcp_tools(page, model, processor, partial(open_photo, processor), caption_prompt)
    return page.queue(max_size=MAX_WAITING, default_concurrency_limit=1, api_open=False)


def main() -> None:
    name = os.environ.get("MODEL_ID", "")
    try:
        model, processor = load_model(name, os.environ.get("MODEL_REVISION") or None)
    except ValueError as error:
        with gr.Blocks(title="LangBridge", analytics_enabled=False) as page:
            gr.Textbox(str(error), label="This Space has no model to show", lines=2)
    else:
        page = build_page(model, processor, name, os.environ.get("CAPTION_PROMPT", "Describe the image."))
    page.launch(theme=THEME, css=CSS, footer_links=["gradio", "settings"], mcp_server=True, **LIMITS)


if __name__ == "__main__":
    main()
