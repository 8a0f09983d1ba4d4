# SPDX-License-Identifier: Apache-2.0
"""Words in any script are drawn with a font that has their letters, where one is installed."""

from pathlib import Path

import pytest
from matplotlib.font_manager import FontEntry, fontManager

from modeling_langbridge.reading import fonts
from modeling_langbridge.reading.fonts import find_font_file, letters_of, load_font


@pytest.mark.parametrize("word", ["dog", "größer", "собака", "σκύλος", "كلب", "☺"])
def test_what_dejavu_sans_has_is_written_in_it(word):
    assert Path(find_font_file(word)).name == "DejaVuSans.ttf"
    assert load_font(word, 20).getlength(word) > 10


def test_a_word_that_it_lacks_is_written_in_the_installed_font_with_the_most_of_its_letters(monkeypatch):
    files = {"cjk.otf": "\u72d7\u732b", "half.otf": "\u72d7", "DejaVuSans.ttf": "dog"}
    monkeypatch.setattr(fonts, "letters_of", lambda file: {ord(letter) for letter in files.get(Path(file).name, "")})
    monkeypatch.setattr(fontManager, "ttflist", [FontEntry(fname=name, name=name, weight=400) for name in files])
    fonts.find_font_file.cache_clear()
    assert find_font_file("\u72d7\u732b") == "cjk.otf"
    assert Path(find_font_file("dog")).name == "DejaVuSans.ttf"
    assert Path(find_font_file("\U0001f600")).name == "DejaVuSans.ttf"  # in none: boxes
    fonts.find_font_file.cache_clear()


def test_of_fonts_that_have_a_word_the_upright_one_of_the_wanted_weight_is_taken(monkeypatch):
    styles = {"a_italic.otf": (400, "italic"), "b_bold.otf": (700, "normal"), "c_regular.otf": (400, "normal")}
    monkeypatch.setattr(fonts, "letters_of", lambda file: {0x72D7} if file in styles else set())
    fonts_of_styles = [
        FontEntry(fname=name, name=name, weight=weight, style=style) for name, (weight, style) in styles.items()
    ]
    own = [font for font in fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(fontManager, "ttflist", [*own, *fonts_of_styles])
    fonts.find_font_file.cache_clear()
    assert find_font_file("\u72d7") == "c_regular.otf"
    assert find_font_file("\u72d7", bold=True) == "b_bold.otf"
    fonts.find_font_file.cache_clear()


def test_the_font_that_claims_every_letter_and_draws_none_is_never_taken():
    """Matplotlib brings it since 3.11."""
    for word in ("\u72d7", "\U0001f436", "\u0e01"):
        assert "LastResort" not in find_font_file(word)


def test_real_letters_are_read_from_a_font():
    letters = letters_of(find_font_file("dog"))
    assert {ord("d"), ord("ß")} <= letters and 0x72D7 not in letters
