# SPDX-License-Identifier: Apache-2.0
"""The words of sentences in their order, word errors, and questions about what was said."""

import random
from collections import Counter

from experiments.ears.questions import ask
from experiments.ears.sentences import is_plain
from experiments.ears.word_errors import word_error_rate
from experiments.ears.words import SharedWords, share_words, spoken_words
from experiments.small_language_model import train_tokenizer
from modeling_langbridge import SharedVocabulary


def test_words_are_found_in_their_order_with_function_words_and_repetitions():
    words = SharedWords(SharedVocabulary([" dog", " the", " a", " ball"]))
    found = words.find("The dog, the T-shirt and a man's ball: the ball!")
    assert [words.words[place] for place in found] == ["the", "dog", "the", "a", "ball", "the", "ball"]
    assert spoken_words("A man's T-shirt") == ["a", "man's", "t", "shirt"]


def test_shared_words_are_whole_in_every_tokenizer_and_the_most_used_come_first():
    sentences = ["The dog runs.", "A DOG on the grass", "the skateboarder's 2 dogs"]
    texts = [["a dog runs on the grass"] * 9, ["the dog and the skateboarder on the grass"] * 9]
    kinds = ("byte_level", "metaspace")
    tokenizers = [train_tokenizer(text, 350, kind) for text, kind in zip(texts, kinds, strict=True)]
    vocabulary = share_words(tokenizers, sentences, size=2)
    assert vocabulary.surfaces == (" the", " dog")
    assert " skateboarder" not in share_words(tokenizers, sentences, size=4).surfaces


def test_sentences_with_digits_or_of_few_words_are_not_spoken():
    assert is_plain("a dog runs on grass")
    assert not is_plain("a dog runs on 2 legs") and not is_plain("a dog") and not is_plain("a dog " * 20)


def test_the_rate_is_of_all_words_together():
    heard, said = [["a"], ["a", "b", "c", "d"], ["c"]], [["b"], ["a", "b", "c"], ["a", "c"]]
    assert word_error_rate(heard, said).value() == 3 / 6  # one replaced, one put in, one left out


def test_questions_come_in_pairs_and_the_thing_alone_tells_nothing():
    generator = random.Random(0)
    things = ["dog", "cat", "man", "ball", "beach", "tree"]
    sentences = [f"a {one} and a {other}" for one, other in (generator.sample(things, 2) for _ in range(60))]
    questions = list(ask([*sentences, "two dogs", "nothing of it"]))
    for question in questions:
        assert (question.thing in sentences[question.sentence].split()) == question.named
    pairs = zip(questions[::2], questions[1::2], strict=True)
    assert all(one.named and not two.named and one.sentence == two.sentence for one, two in pairs)
    named, absent = (Counter(one.thing for one in questions if one.named == which) for which in (True, False))
    assert len(questions) > 80 and sum((named - absent).values()) < 10


def test_a_thing_in_the_plural_is_not_asked_for_as_absent():
    assert [one.thing for one in ask(["a man with a hat", "a dog"])][1] == "dog"
    assert not [one for one in ask(["a man with dogs", "a dog"]) if one.sentence == 0]  # there is no other thing
