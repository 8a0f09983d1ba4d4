# SPDX-License-Identifier: Apache-2.0
"""Words in any script are drawn with a font that has their letters, where one is installed."""

from pathlib import Path

import pytest
from matplotlib.font_manager import fontManager

from modeling_langbridge.reading import fonts
from modeling_langbridge.reading.fonts import find_font_file, letters_of, load_font


@pytest.mark.parametrize("word", ["dog", "größer", "собака", "σκύλος", "كلب", "☺"])
def test_what_dejavu_sans_has_is_written_in_it(word):
    assert Path(find_font_file(word)).name == "DejaVuSans.ttf"
    assert load_font(word, 20).getlength(word) > 10


def test_a_word_that_it_lacks_is_written_in_the_installed_font_with_the_most_of_its_letters(monkeypatch):
    files = {"cjk.otf": "\u72d7\u732b", "half.otf": "\u72d7", "DejaVuSans.ttf": "dog"}
    monkeypatch.setattr(fonts, "letters_of", lambda file: {ord(letter) for letter in files.get(Path(file).name, "")})
    entries = [type("Entry", (), {"fname": name}) for name in files]
    monkeypatch.setattr(fontManager, "ttflist", entries)
    fonts.find_font_file.cache_clear()
    assert find_font_file("\u72d7\u732b") == "cjk.otf"
    assert Path(find_font_file("dog")).name == "DejaVuSans.ttf"
    assert Path(find_font_file("\U0001f600")).name == "DejaVuSans.ttf"  # in none: boxes
    fonts.find_font_file.cache_clear()


def test_real_letters_are_read_from_a_font():
    letters = letters_of(find_font_file("dog"))
    assert {ord("d"), ord("ß")} <= letters and 0x72D7 not in letters
