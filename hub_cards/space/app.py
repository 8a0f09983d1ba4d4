# SPDX-License-Identifier: Apache-2.0
"""A Space that shows a LangBridge at work: its captions, its answers, and the words that each patch is made of.

The environment variables MODEL_ID and MODEL_REVISION name the model; CAPTION_PROMPT is what asks it for a caption.
"""

import os
from pathlib import Path


os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported

import gradio as gr
from captioning import load_model, write
from PIL import Image, ImageOps
from transformers import PreTrainedConfig
from words_panel import CSS, show_words


PHOTOS = Path(__file__).with_name("photos")
# Fonts of the visitor's own: the page asks no other host for anything.
FONTS = {"font": ["system-ui", "sans-serif"], "font_mono": ["monospace"]}
THEME = gr.themes.Default(primary_hue="amber", neutral_hue="stone", **FONTS)


def open_photo(file: dict | None, last: str | None):
    """Opens the picture that was uploaded or picked; where it is none, says so and empties the photo again.

    The browser may report one photo twice: where its path is the `last` one, nothing changes.
    """
    path = file and file["path"]
    if path == last:
        return gr.skip()
    if path is None:
        return None, None, gr.skip()
    try:
        return path, ImageOps.exif_transpose(Image.open(path)).convert("RGB"), gr.skip()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # a damaged PNG is a SyntaxError to PIL
        gr.Warning("This file cannot be opened as a picture: give a JPEG, PNG or WebP file.")
        return path, None, None


def describe_model(name: str, config: PreTrainedConfig) -> str:
    """What is special about a model, in a few sentences of Markdown."""
    if config.adapter_type != "langbridge":
        return (
            f"`{name}` captions photos and answers questions. Its adapter ({config.adapter_type}) is not made of "
            "words, so there are none to show."
        )
    text = f"`{name}` reads every patch of a photo as a mixture of {config.bridge_vocab_size:,} words, and hands its "
    if config.words_per_image is None:
        text += "language model that mixture of the words' own embeddings."
    else:
        text += f"language model the {config.words_per_image} strongest words of the whole photo."
    if config.linear_remainder:
        text += " A linear remainder adds what words do not say."
    if config.coefficient_activation == "linear":
        text += " Its coefficients are raw: they have signs and cancel out, so a single word holds little meaning."
    return text


def build_page(model, processor, name: str, caption_prompt: str = "Describe the image.") -> gr.Blocks:
    """The page that shows a model; `name` is what it is called there."""

    def caption(image: Image.Image | None):
        if image is None:
            yield ""
        else:
            yield from write(model, processor, image, caption_prompt)

    def answer(image: Image.Image | None, question: str):
        if image is None:
            gr.Warning("There is no photo to ask about: upload or pick one first.")
            yield gr.skip()
        elif not question.strip():
            gr.Warning("The question is empty: write one first.")
            yield gr.skip()
        else:
            yield from write(model, processor, image, question.strip())

    with gr.Blocks(title="LangBridge", analytics_enabled=False) as page:
        gr.Markdown(f"# A photo, made of words\n{describe_model(name, model.config)}")
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
        # Not preprocessed: gradio's own opening of a file that is no picture ends in a traceback.
        photo.change(open_photo, [photo, last], [last, opened, photo], preprocess=False, show_progress="hidden")
        opened.change(lambda: "", None, answered, show_progress="hidden")
        opened.change(caption, opened, captioned)
        asked.submit(answer, [opened, asked], answered)
        if model.config.adapter_type == "langbridge":
            show_words(opened, model, processor)
    return page


def main() -> None:
    name = os.environ.get("MODEL_ID", "")
    try:
        model, processor = load_model(name, os.environ.get("MODEL_REVISION") or None)
    except ValueError as error:
        with gr.Blocks(title="LangBridge", analytics_enabled=False) as page:
            gr.Textbox(str(error), label="This Space has no model to show", lines=2)
    else:
        page = build_page(model, processor, name, os.environ.get("CAPTION_PROMPT", "Describe the image."))
    page.launch(theme=THEME, css=CSS, footer_links=["gradio", "settings"])


if __name__ == "__main__":
    main()
