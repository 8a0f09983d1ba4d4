# SPDX-License-Identifier: Apache-2.0
"""The words panel of the page: the word of each patch, all words of one patch, and a heat map of one word."""

import html

import gradio as gr
from captioning import NOT_FINITE
from patch_words import PatchWords, draw_frame, draw_heat, draw_words, strongest_words
from PIL import Image


EVERY_WORD = "every patch's strongest"
CLICK = "Click on a patch to list its words."
CSS = """
.bar { display: grid; grid-template-columns: 1fr auto; margin: 10px 0 }
.bar i { font-style: normal; opacity: 0.7 }
.bar span { grid-column: 1 / 3; height: 6px; border-radius: 3px }
"""


def add_words_panel(opened: gr.State, model, processor) -> None:
    """Adds the panel to the page that is being built; it becomes visible once there is an `opened` photo."""
    signed = model.config.coefficient_activation == "linear"
    words, patch = gr.State(), gr.State()
    with gr.Column(visible=False) as part:
        as_words = model.config.words_per_image is not None
        shown = gr.Radio(
            label="Words that the language model reads" if as_words else "The photo's strongest words",
            info="With their shares of all coefficients. Choose one to see its patches.",
        )
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                heading = gr.Markdown()
                picture = gr.Image(
                    show_label=False,
                    alt_text="The photo with words on its patches",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                )
            with gr.Column(scale=1):
                gr.Markdown("#### A patch")
                listed = gr.HTML(CLICK)
                other = gr.Textbox(label="Show another word", placeholder="dog", submit_btn="Show")

    def read_photo(path: str | None):
        if path is None:
            return {part: gr.Column(visible=False), words: None}
        seen = strongest_words(model, processor, path, top=8)
        if not seen.coefficients.isfinite().all():
            raise FloatingPointError(NOT_FINITE)
        return {
            part: gr.Column(visible=True),
            words: seen,
            patch: None,
            shown: offer_words(seen, EVERY_WORD),
            heading: picture_heading(seen, EVERY_WORD, signed),
            picture: draw_picture(seen, EVERY_WORD, None),
            listed: CLICK,
        }

    def choose(seen: PatchWords, word: str, place: tuple[int, int] | None):
        return picture_heading(seen, word, signed), draw_picture(seen, word, place)

    def pick(seen: PatchWords, word: str, event: gr.SelectData):
        column, row = (int(place) // seen.patch_width for place in event.index)
        return (row, column), draw_picture(seen, word, (row, column)), list_words(seen, (row, column), signed)

    def find(seen: PatchWords, word: str | None, place: tuple[int, int] | None):
        word = (word or "").strip()
        if word not in seen.names:
            gr.Warning(
                f"“{html.escape(word[:60])}” is not one of this model's {len(seen.names):,} words: try another."
            )
            return gr.skip()
        return offer_words(seen, word), picture_heading(seen, word, signed), draw_picture(seen, word, place)

    opened.change(read_photo, opened, [part, words, patch, shown, heading, picture, listed])
    shown.input(choose, [words, shown, patch], [heading, picture], show_progress="hidden")
    picture.select(pick, [words, shown], [patch, picture, listed], show_progress="hidden")
    other.submit(find, [words, other, patch], [shown, heading, picture], show_progress="hidden")


def offer_words(words: PatchWords, shown: str) -> gr.Radio:
    """The words of the photo to choose from, and the word that is `shown` if it is another one."""
    choices = {EVERY_WORD: EVERY_WORD} | {word: f"{word} {share:.1%}" for word, share in words.photo}
    choices.setdefault(shown, shown)
    return gr.Radio([(label, word) for word, label in choices.items()], value=shown)


def picture_heading(words: PatchWords, shown: str, signed: bool) -> str:
    """The picture's heading, as Markdown."""
    if shown == EVERY_WORD:
        return "#### The photo as the vision tower sees it"
    coefficients = words.coefficients[..., words.names.index(shown)]  # (rows, columns)
    if signed:
        return f"#### Coefficients of this word: {coefficients.min():+.4g} to {coefficients.max():+.4g}"
    return f"#### Coefficients of this word: up to {coefficients.max():.1%} of a patch"


def draw_picture(words: PatchWords, shown: str, patch: tuple[int, int] | None) -> Image.Image:
    picture = draw_words(words) if shown == EVERY_WORD else draw_heat(words, shown)
    return picture if patch is None else draw_frame(picture, words, patch)


def list_words(words: PatchWords, patch: tuple[int, int], signed: bool) -> str:
    """The strongest words of a patch as HTML, with a bar for each coefficient."""
    row, column = patch
    strongest = words.patches[row][column]
    total = words.coefficients[row, column].sum()
    lines = [f"<p>Row {row + 1}, column {column + 1}.{'' if signed else f' All its words together: {total:.0%}'}</p>"]
    for word, coefficient in strongest:
        number = f"{coefficient:+.4g}" if signed else f"{coefficient:.1%}"
        colour = "#f59e0b" if coefficient >= 0 else "#3b82f6"
        width = 100 * abs(coefficient) / (abs(strongest[0][1]) or 1)
        lines.append(
            f'<div class="bar"><b>{html.escape(word)}</b><i>{number}</i>'
            f'<span style="width: {width:.0f}%; background: {colour}"></span></div>'
        )
    return "".join(lines)
