# SPDX-License-Identifier: Apache-2.0
"""Accuracy of short answers as the VQA challenge counts it, with its normalisation of answers."""

import re
from collections.abc import Sequence


PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
NUMERALS = {**{word: str(number) for number, word in enumerate(NUMBERS)}, "none": "0"}
ARTICLES = ("a", "an", "the")
CONTRACTIONS = {
    word.replace("'", ""): word
    for word in (
        "ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's "
        "i'm i've isn't it'd it'll ma'am might've mightn't must've mustn't needn't o'clock oughtn't shan't should've "
        "shouldn't that's there'd there's they'd they'll they're they've wasn't we've weren't what'll what's what've "
        "when's where'd where's who'd who'll who's who've why'll why's won't would've wouldn't y'all you'd you'll "
        "you're you've"
    ).split()
}
ANNOTATORS = 10


def normalise(answer: str) -> str:
    """
    An answer as answers are compared: in lower case, without punctuation and articles, numbers up to ten as digits,
    contractions with their apostrophe.

    Punctuation with a blank beside it is left out; otherwise it becomes a blank, as in "black-white". A comma inside a
    number is left out, a point inside a number stays.
    """
    text = " ".join(answer.split())
    for mark in PUNCTUATION:
        if f"{mark} " in text or f" {mark}" in text or re.search(r"\d,\d", text):
            text = text.replace(mark, "")
        else:
            text = text.replace(mark, " ")
    text = re.sub(r"\.(?!\d)", "", text)
    words = [NUMERALS.get(word, word) for word in text.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def vqa_accuracy(answer: str, human_answers: Sequence[str]) -> float:
    """
    How right an answer is.

    Args:
        answer (`str`): the model's.
        human_answers (`Sequence[str]`): of one or more people. Of ten or more, as in VQAv2 and TextVQA, an answer is
            right where three agree, in proportion where fewer do, on average over leaving each of them out. Of fewer,
            it is right where it is one of them.

    Returns:
        `float`: 0 to 1.
    """
    given = normalise(answer)
    right = [normalise(human) == given for human in human_answers]
    if len(right) < ANNOTATORS:
        return float(any(right))
    return sum(min((sum(right) - hit) / 3, 1) for hit in right) / len(right)
