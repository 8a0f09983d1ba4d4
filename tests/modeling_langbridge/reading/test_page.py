# SPDX-License-Identifier: Apache-2.0
"""The page of a photo, in a browser: pointing, pinning, keys, search, views, two models, and names that are code."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from browsing import needs_chromium
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from modeling_langbridge.reading.explaining import Explanation, View
from modeling_langbridge.reading.page import render_page


pytest_plugins = "browsing"
pytestmark = needs_chromium
CODE = "<img src=x onerror=\"document.title='taken'\">"
WORDS = ["dog", "grass", "狗", "كلب", "😀", CODE, "</script><script>throw 1</script>", "__proto__"]


def make_view(name: str, numbers: torch.Tensor, words: list[str], mapped: list[str], is_share: bool = True) -> View:
    """A view of numbers (rows, columns, words), two words a patch."""
    ranked = numbers.abs().topk(2).indices
    patches = [
        [[(words[word], numbers[row, column, word].item()) for word in patch] for column, patch in enumerate(line)]
        for row, line in enumerate(ranked.tolist())
    ]
    maps = {word: numbers[..., words.index(word)].clone() for word in mapped}
    return View(name, f"About {name}.", is_share, patches, maps)


def make_explanation(seed: int = 0, views=("coefficients", "cosine"), grid=(2, 3), words=WORDS) -> Explanation:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randint(1, 100, shape, generator=generator) / 100  # the same digits however they are rounded

    numbers = [draw(*grid, len(words)) - (0.5 if name == "cosine" else 0) for name in views]
    return Explanation(
        view=Image.effect_noise((grid[1] * 14, grid[0] * 14), 60).convert("RGB"),
        views=[
            make_view(name, these, words, [words[0], words[1], words[5]], name != "cosine")
            for name, these in zip(views, numbers, strict=True)
        ],
        photo=[(words[0], 0.625), (words[5], 0.25)],
        entropy=draw(*grid),
        gate=draw(*grid),
        energy=draw(*grid),
        is_identifiable=True,
        notes=[f"A note with {CODE}."],
    )


@pytest.fixture
def visit(open_page, tmp_path):
    """Opens a page from its file, which asks for nothing else."""

    def visit(title: str, explanations: dict[str, Explanation], **options) -> Page:
        path = tmp_path / "page.html"
        path.write_text(render_page(title, explanations), encoding="utf-8")
        return open_page(path.as_uri(), "file:", "data:", **options)

    return visit


def point(page: Page, row: int, column: int, click: bool = False) -> None:
    box = page.locator(".photo").first.bounding_box()
    place = box["x"] + (column + 0.5) * box["width"] / 3, box["y"] + (row + 0.5) * box["height"] / 2
    (page.mouse.click if click else page.mouse.move)(*place)


def expect_patch(section: Locator | Page, view: View, row: int, column: int, pinned: bool = False) -> None:
    """The panel lists this patch's words with their numbers."""
    where = f"Row {row + 1}, column {column + 1}{', pinned' if pinned else ''}"
    expect(section.locator(".patch h3")).to_have_text(where)
    words = [word for word, _ in view.patches[row][column]]
    expect(section.locator(".bars bdi")).to_have_text(words)
    numbers = [number for _, number in view.patches[row][column]]
    texts = [f"{100 * number:.1f} %" if view.is_share else f"{number:+.2f}" for number in numbers]
    expect(section.locator(".bars data")).to_have_text(texts)


def expect_nothing(page: Page) -> None:
    expect(page.locator(".patch h3")).to_have_text("Point at a patch to read its words.")
    expect(page.locator(".bars bdi")).to_have_count(0)
    expect(page.locator(".frame")).to_be_hidden()


def shades(page: Page, number: int = 0) -> list[list[int]]:
    """Red, green, blue and opacity over each patch."""
    data = page.evaluate(
        """number => { const canvas = document.querySelectorAll("canvas")[number];
        return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data]; }""",
        number,
    )
    return [data[start : start + 4] for start in range(0, len(data), 4)]


def test_pointing_at_a_patch_lists_its_words_and_facts_and_leaving_it_clears_them(visit):
    explanation = make_explanation()
    page = visit("photo.jpg", {"model": explanation})
    expect_nothing(page)
    for row, column in ((0, 0), (1, 2), (0, 1)):
        point(page, row, column)
        expect_patch(page, explanation.views[0], row, column)
        facts = [
            f"{100 * explanation.gate[row, column]:.0f} %",
            f"{100 * explanation.energy[row, column]:.0f} %",
            f"{explanation.entropy[row, column]:.2f} nats",
        ]
        expect(page.locator("dd")).to_have_text(facts)
        frame, photo = (page.locator(name).bounding_box() for name in (".frame", ".photo"))
        assert frame["x"] - photo["x"] == pytest.approx(column * photo["width"] / 3, abs=1)
        assert frame["y"] - photo["y"] == pytest.approx(row * photo["height"] / 2, abs=1)
    page.mouse.move(1, 1)
    expect_nothing(page)


def test_a_click_pins_a_patch_and_a_second_one_or_escape_lets_go(visit):
    explanation = make_explanation()
    page = visit("photo.jpg", {"model": explanation})
    point(page, 1, 0, click=True)
    point(page, 0, 2)
    page.mouse.move(1, 1)
    expect_patch(page, explanation.views[0], 1, 0, pinned=True)
    point(page, 0, 2, click=True)
    expect_patch(page, explanation.views[0], 0, 2, pinned=True)
    point(page, 0, 2, click=True)
    point(page, 1, 1)
    expect_patch(page, explanation.views[0], 1, 1)
    point(page, 1, 1, click=True)
    page.keyboard.press("Escape")
    expect_nothing(page)


def test_all_of_it_works_by_keyboard(visit):
    explanation = make_explanation()
    page = visit("photo.jpg", {"model": explanation})
    for _ in range(5):
        page.keyboard.press("Tab")
        if page.locator(".photo:focus").count():
            break
    photo = page.locator(".photo")
    expect(photo).to_be_focused()
    assert photo.evaluate("element => getComputedStyle(element).outlineStyle") == "solid"
    steps = [("ArrowDown", 0, 0), ("ArrowDown", 1, 0), ("ArrowDown", 1, 0), ("ArrowRight", 1, 1), ("ArrowUp", 0, 1)]
    for key, row, column in [*steps, ("ArrowLeft", 0, 0), ("ArrowLeft", 0, 0)]:
        page.keyboard.press(key)
        expect_patch(page, explanation.views[0], row, column)
    page.keyboard.press("Enter")
    expect_patch(page, explanation.views[0], 0, 0, pinned=True)
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    word = explanation.patches[0][0][0][0]
    expect(page.locator(".bars button").first).to_be_focused()
    expect(page.get_by_role("status")).to_contain_text(f"“{word}” is strongest in row")
    page.keyboard.press("Escape")
    expect_nothing(page)
    expect(page.get_by_role("status")).to_be_empty()


def test_a_word_that_is_typed_lights_up_where_it_is(visit):
    explanation = make_explanation()
    page = visit("photo.jpg", {"model": explanation})
    assert not any(shade[3] for shade in shades(page))
    page.get_by_label("Where is the word").fill("dog")
    numbers = explanation.views[0].maps["dog"].flatten()
    levels = (numbers / numbers.max() * 127).round() / 127
    opacities = [shade[3] for shade in shades(page)]
    assert opacities == pytest.approx([205 * (1 - level) for level in levels.tolist()], abs=1)
    place = int(numbers.argmax())
    expected = f"“dog” is strongest in row {place // 3 + 1}, column {place % 3 + 1}: {100 * numbers.max():.1f} %"
    expect(page.get_by_role("status")).to_have_text(expected)
    page.get_by_label("Where is the word").fill("Dog")
    expect(page.get_by_role("status")).to_have_text(expected)
    page.get_by_label("Where is the word").fill("ras")
    expect(page.get_by_role("status")).to_have_text("“ras” is not among the words of this page; near: grass.")
    page.get_by_label("Where is the word").fill("")
    expect(page.get_by_role("status")).to_be_empty()
    assert not any(shade[3] for shade in shades(page))


def test_a_word_without_a_map_of_its_own_is_found_in_the_patches_that_list_it(visit):
    explanation = make_explanation()
    page = visit("photo.jpg", {"model": explanation})
    page.get_by_label("Where is the word").fill("狗")
    listed = ["狗" in dict(patch) for row in explanation.patches for patch in row]
    assert any(listed) and not all(listed)
    assert [shade[3] < 205 for shade in shades(page)] == listed


def test_small_shares_have_two_digits(visit):
    explanation = replace(make_explanation(), photo=[(WORDS[0], 0.625), (WORDS[1], 0.000213), (WORDS[5], 0.0)])
    page = visit("photo.jpg", {"model": explanation})
    expect(page.locator(".words data")).to_have_text(["62.5 %", "0.021 %", "0.0 %"])


def test_negative_numbers_are_blue(visit):
    explanation = make_explanation()
    page = visit("photo.jpg", {"model": explanation})
    page.get_by_text("cosine", exact=True).click()
    page.get_by_label("Where is the word").fill("grass")
    negative = [number < 0 for number in explanation.views[1].maps["grass"].flatten()]
    assert any(negative) and not all(negative)
    assert [shade[2] > shade[0] for shade in shades(page)] == negative


def test_another_view_of_the_same_patch_and_word_is_chosen(visit):
    explanation = make_explanation(views=["coefficients", "cosine", "layer 3 of 6"])
    page = visit("photo.jpg", {"model": explanation})
    expect(page.get_by_role("radio")).to_have_count(3)
    point(page, 1, 1, click=True)
    for number, name in enumerate(["coefficients", "cosine", "layer 3 of 6"]):
        page.get_by_text(name, exact=True).click()
        expect_patch(page, explanation.views[number], 1, 1, pinned=True)
        expect(page.locator(".about")).to_have_text(f"About {name}.")
    expect(page.locator("dd")).to_have_count(0)  # they belong to the coefficients
    page.keyboard.press("ArrowLeft")
    expect_patch(page, explanation.views[1], 1, 1, pinned=True)


def test_two_models_follow_the_same_pointer_word_and_view(visit):
    first, second = make_explanation(0), make_explanation(1, views=["coefficients"])
    page = visit("photo.jpg", {"first model": first, "second <b>model</b>": second})
    sections = [page.get_by_label(name, exact=True) for name in ("first model", "second <b>model</b>")]
    point(page, 0, 2)
    for section, explanation in zip(sections, (first, second), strict=True):
        expect_patch(section, explanation.views[0], 0, 2)
        expect(section.locator("h2")).to_be_visible()
    page.get_by_label("Where is the word").fill("dog")
    expect(page.get_by_role("status")).to_have_text(
        re.compile("^first model: “dog” is strongest in .* · second <b>model</b>: “dog” is strongest in ")
    )
    assert shades(page, 0) != shades(page, 1)
    page.get_by_text("cosine", exact=True).click()
    point(page, 1, 1)
    expect_patch(sections[0], first.views[1], 1, 1)
    expect(sections[1].get_by_text("This model has no such view.")).to_be_visible()
    expect(sections[1].locator(".bars bdi")).to_have_count(0)


def test_a_view_of_two_models_of_different_depths_is_named_by_both(visit):
    views = [["coefficients", "layer 3 of 6"], ["coefficients", "layer 1 of 2", "layer 2 of 2"]]
    explanations = {str(seed): make_explanation(seed, names) for seed, names in enumerate(views)}
    page = visit("photo.jpg", explanations)
    expect(page.locator("fieldset span")).to_have_text(
        ["coefficients", "layer 3 of 6 / layer 1 of 2", "layer 2 of 2"], use_inner_text=True
    )


def test_the_facts_of_coefficients_are_shown_with_them_wherever_their_view_stands(visit):
    page = visit("photo.jpg", {"model": make_explanation(views=["cosine", "coefficients"])})
    point(page, 0, 0, click=True)
    expect(page.locator("dd")).to_have_count(0)
    page.get_by_text("coefficients", exact=True).click()
    expect(page.locator("dd")).to_have_count(3)


def test_five_stages_stand_side_by_side_and_under_one_another_on_a_phone(visit):
    page = visit("photo.jpg", {f"step {number}": make_explanation(number) for number in range(5)})
    tops = [box["y"] for box in (section.bounding_box() for section in page.locator("section").all())]
    assert len(set(tops)) == 2  # four in a row of 1,280 pixels
    page.set_viewport_size({"width": 390, "height": 844})
    tops = [section.bounding_box()["y"] for section in page.locator("section").all()]
    assert len(set(tops)) == 5 and page.evaluate("document.documentElement.scrollWidth") <= 390


def test_names_and_words_that_are_code_do_nothing(visit):
    explanation = make_explanation()
    page = visit(CODE, {f"model {CODE}": explanation, f"other {CODE}": make_explanation(1)})
    expect(page.locator("h1")).to_have_text(CODE)
    assert page.title() == f"{CODE} in words"
    assert page.locator("img").count() == 2 and page.locator("script").count() == 2
    for row in range(2):
        for column in range(3):
            point(page, row, column)
    for word in WORDS:
        page.get_by_label("Where is the word").fill(word)
        expect(page.get_by_role("status")).to_contain_text(f"“{word}” is ")
    expect(page.locator(".notes li").first).to_have_text(f"A note with {CODE}.")
    expect(page.locator(".words bdi").nth(1)).to_have_text(CODE)
    assert page.title() == f"{CODE} in words"
    assert page.evaluate("document.getElementById('words').options.length") == len(WORDS)


def test_the_policy_lets_nothing_be_added_or_loaded(browser, tmp_path):
    html = render_page("photo.jpg", {"model": make_explanation()})
    added = '<script>document.title = "taken"</script><img src="https://example.org/a.png"></body>'
    (tmp_path / "page.html").write_text(html.replace("</body>", added), encoding="utf-8")
    page, refused = browser.new_page(), []
    page.on("console", lambda message: refused.append(message.text))
    page.goto((tmp_path / "page.html").as_uri())
    assert page.title() == "photo.jpg in words"
    assert any("script-src 'sha256-" in text for text in refused)
    assert any("example.org" in text and '"img-src data:"' in text for text in refused)
    page.close()


def test_a_phone_need_not_scroll_sideways_and_dark_is_dark(visit):
    options = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True}
    words = [*WORDS[:5], "Donaudampfschifffahrtsgesellschaftskapitänsmütze" * 2, *WORDS[6:]]
    explanations = {"a model " * 9: make_explanation(words=words), "another": make_explanation(1, words=words)}
    page = visit("a_photo_with_a_long_name" * 4, explanations, **options)
    box = page.locator(".photo").first.bounding_box()
    page.touchscreen.tap(box["x"] + 5, box["y"] + 5)
    expect_patch(page.locator("section").first, explanations["a model " * 9].views[0], 0, 0, pinned=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="light")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = [sum(map(int, re.findall(r"\d+", colour))) for colour in (dark, light)]
    assert brightness[0] < 120 and brightness[1] > 650


def test_the_page_of_two_models_at_24_by_24_is_small_and_opens_at_once(visit, tmp_path):
    words = [f"word{number}" for number in range(3000)]
    views = ["coefficients", "cosine", *(f"layer {number} of 24" for number in (6, 12, 18, 24))]
    explanations = {}
    for seed, name in enumerate(("first", "second")):
        explanations[name] = make_explanation(seed, views, (24, 24), words)
        for view in explanations[name].views:
            view.maps.update({word: torch.rand(24, 24) for word in words[:100]})
    page = visit("photo.jpg", explanations)
    assert Path(tmp_path, "page.html").stat().st_size < 3e6
    duration = page.evaluate("performance.getEntriesByType('navigation')[0].duration")
    assert duration < 3000, "under a second on an idle machine"


def test_models_of_other_patches_are_not_shown_side_by_side():
    with pytest.raises(ValueError, match="into 2 x 3, 4 x 4 patches: compare models of one vision tower"):
        render_page("photo.jpg", {"a": make_explanation(), "b": make_explanation(grid=(4, 4))})
