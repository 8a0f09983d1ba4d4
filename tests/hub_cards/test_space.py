# SPDX-License-Identifier: Apache-2.0
"""The Space: its folder stands alone, and in a browser all that it offers works."""

import ast
import re
import sys

import pytest
from browsing import SCREENSHOTS, needs_chromium
from huggingface_hub import metadata_load
from PIL import Image
from playwright.sync_api import Page, expect
from space_fixtures import SPACE, answer, start
from tiny_parts import make_image
from wordy_models import compose

from modeling_langbridge.reading.patch_words import strongest_words
from trainer.data.images import open_image


pytest_plugins = "space_fixtures"


def test_the_folder_stands_alone():
    required = {re.match(r"[a-z]+", line)[0] for line in (SPACE / "requirements.txt").read_text().splitlines()}
    modules = {{"pillow": "PIL"}.get(name, name) for name in required}
    imported = set()
    for file in SPACE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{file.name} imports from a package, which it is not on the Hub"
                imported.add(node.module.partition(".")[0])
    imported -= sys.stdlib_module_names
    assert imported == modules | {file.stem for file in SPACE.glob("*.py")} - {"app", "__init__"}


def test_the_front_matter_is_what_the_hub_takes():
    metadata = metadata_load(SPACE / "README.md")
    assert (metadata["sdk"], metadata["app_file"]) == ("gradio", "app.py")
    assert len(metadata["short_description"]) <= 60
    assert (SPACE / metadata["app_file"]).is_file()


def click_patch(page: Page, row: int, column: int):
    picture = page.get_by_alt_text("words on its patches")
    box = picture.bounding_box()
    picture.click(position={"x": (column + 0.5) * box["width"] / 4, "y": (row + 0.5) * box["height"] / 4})
    expect(page.locator(".bar").first).to_be_visible()


@needs_chromium
def test_a_visitor_picks_a_photo_and_reads_caption_answer_and_words(grounded, visit):
    model, processor = grounded.model, grounded.processor
    page = visit(grounded.address)
    expect(page.get_by_text("4 strongest words")).to_be_visible()
    page.locator(".gallery-item").click()
    expect(page.get_by_label("Caption")).to_have_value(answer(model, processor, "Describe the image."))

    words = strongest_words(model, processor, make_image())
    labels = [f"{word} {share:.1%}" for word, share in words.photo]
    expect(page.get_by_role("radio")).to_have_count(5)
    for label in labels:
        expect(page.get_by_label(label)).to_be_visible()
    click_patch(page, 1, 2)
    word, coefficient = words.patches[1][2][0]
    expect(page.locator(".bar").first).to_have_text(f"{word}{coefficient:.1%}")

    before = page.get_by_alt_text("words on its patches").get_attribute("src")
    page.get_by_label(labels[1]).check()
    largest = words.coefficients[..., words.names.index(words.photo[1][0])].max()
    expect(page.get_by_text(f"Coefficients of this word: up to {largest:.1%}")).to_be_visible()
    expect(page.get_by_alt_text("words on its patches")).not_to_have_attribute("src", before)

    unsaid = next(name for name in words.names if name not in dict(words.photo))
    page.get_by_label("another word").fill(unsaid)
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_label(unsaid, exact=True)).to_be_checked()

    page.get_by_label("Question").fill("where is the ball?")
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_label("Answer")).to_have_value(answer(model, processor, "where is the ball?"))

    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "a phone would have to scroll sideways"
    if SCREENSHOTS:
        page.screenshot(path=f"{SCREENSHOTS}/phone.png", full_page=True)
    page.get_by_role("button", name="Remove Image").click()
    expect(page.get_by_label("Answer")).to_have_value("")
    expect(page.get_by_role("radio")).to_have_count(0)


@needs_chromium
def test_what_a_visitor_does_wrong_is_told_in_a_sentence(grounded, visit, tmp_path):
    page = visit(grounded.address)
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_text("There is no photo to ask about")).to_be_visible()
    make_image().save(tmp_path / "photo.jpg")
    page.locator("input[type=file]").set_input_files(tmp_path / "photo.jpg")
    page.get_by_label("another word").fill("<b>nonsense</b>")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("“<b>nonsense</b>” is not one of this model's")).to_be_visible()
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_text("The question is empty")).to_be_visible()

    (tmp_path / "photo.png").write_bytes((tmp_path / "photo.jpg").read_bytes()[:300])
    page.locator("input[type=file]").set_input_files(tmp_path / "photo.png")
    expect(page.get_by_label("Caption")).to_have_value("")
    expect(page.get_by_alt_text("words on its patches")).not_to_be_visible()
    expect(page.get_by_text("The image photo.png cannot be decoded")).to_have_count(1)


@needs_chromium
def test_a_wrong_model_is_named_in_the_page(visit, tmp_path):
    app, address = start(SPACE, tmp_path, MODEL_ID="nobody/nothing")
    try:
        sentence = visit(address).get_by_label("no model to show")
        expect(sentence).to_have_value(
            re.compile("^MODEL_ID must be the Hub id of a LangBridge model, not nobody/nothing")
        )
    finally:
        app.terminate()
        app.wait()


def test_the_page_reads_a_photo_as_the_model_was_trained_on_it(processor, space_modules, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image = make_image().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, image.width, 6))
    image.save(tmp_path / "photo.png", exif=exif)
    opened = space_modules.open_photo(processor, str(tmp_path / "photo.png"))
    assert opened.tobytes() == open_image(tmp_path / "photo.png").tobytes()
    assert opened.getpixel((0, opened.height - 1)) == (255, 255, 255)


def test_an_answer_is_streamed_as_it_is_written_and_a_failure_ends_it(vision, text, space_modules):
    model, processor = compose(vision, text)
    texts = list(space_modules.stream_answer(model, processor, make_image(), "what?"))
    assert texts[-1] == answer(model, processor, "what?")
    assert len(set(texts)) > 100
    assert all(later.startswith(earlier) for earlier, later in zip(texts, texts[1:], strict=False))
    with pytest.raises((NotImplementedError, RuntimeError)):
        list(space_modules.stream_answer(model.to("meta"), processor, make_image(), "what?"))


@needs_chromium
@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "Its coefficients are raw: they have signs"),
        ({"adapter_type": "mlp"}, "adapter (mlp) is not made of words, so there are none to show"),
    ],
)
def test_a_page_says_what_its_model_cannot(fields, sentence, vision, text, visit, space_modules, tmp_path):
    model, processor = compose(vision, text, **fields)
    page = space_modules.build_page(model, processor, "user/name")
    assert ("Show another word" in str(page.config)) == (not fields)
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    try:
        seen = visit(address.rstrip("/"))
        expect(seen.get_by_text(sentence)).to_be_visible()
        make_image().save(tmp_path / "photo.png")
        seen.locator("input[type=file]").set_input_files(tmp_path / "photo.png")
        expect(seen.get_by_label("Caption")).to_have_value(answer(model, processor, "Describe the image."))
        if not fields:
            click_patch(seen, 0, 3)
            word, coefficient = strongest_words(model, processor, make_image()).patches[0][3][0]
            expect(seen.locator(".bar").first).to_have_text(f"{word}{coefficient:+.4g}")
    finally:
        page.close()
