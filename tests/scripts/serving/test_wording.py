# SPDX-License-Identifier: Apache-2.0
"""What a language model is told of an image: order, places, doubts, and how many tokens it takes."""

import pytest
from transformers import AutoTokenizer

from modeling_langbridge import LangBridgeAdapter
from modeling_langbridge.reading.word_places import PlacedWord
from serving.wording import TEMPLATE, fill_template, list_words


def test_words_are_listed_by_place_the_strongest_first_and_the_uncertain_marked():
    words = [
        PlacedWord("dog", 0.2, "centre"),
        PlacedWord("grass", 0.1, "bottom"),
        PlacedWord("brown", 0.04, "centre"),
        PlacedWord("ball", 0.039, "centre"),
        PlacedWord("park", 0.01, "throughout"),
    ]
    assert list_words(words, 0.04) == "centre: dog, brown, maybe ball; bottom: grass; throughout: maybe park"


def test_a_template_may_have_braces_of_its_own_and_the_words_too():
    assert fill_template("{number} {words} {0} {{}}", 3, "{number}") == "3 {number} {0} {{}}"


@pytest.mark.parametrize("name", ["qwen2", "llama3", "smollm"])
def test_eight_words_take_at_most_64_tokens_whatever_they_are(data, name):
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizers" / name)

    def length(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    surfaces = LangBridgeAdapter.grounded_efficientnet_lite0().vocabulary.surfaces
    longest = sorted(surfaces, key=length)[-8:]
    places = ("upper left", "upper right", "lower left", "lower right", "throughout", "top", "bottom", "right")
    words = [PlacedWord(word.strip(), 0.0, place) for word, place in zip(longest, places, strict=True)]
    assert 40 < length(fill_template(TEMPLATE, 32, list_words(words, 0.04))) <= 64
