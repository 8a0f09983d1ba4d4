# SPDX-License-Identifier: Apache-2.0
"""
Yes/no questions about what was said, to language models that know no questions, as matrix/naming.py asks about photos.

A thing is rated as the first word after "A" of a caption, after what stands for the sentence. Its log-likelihood, less
the same after nothing, says how much the sentence speaks for it, whatever the language model thinks of the word.
"""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from experiments.ears.words import spoken_words
from experiments.flickr8k.few_shot import FewShot, Tokens, caption_prompt
from experiments.flickr8k.yes_no_questions import THINGS


class Question(NamedTuple):
    """Whether a thing is named by a sentence."""

    sentence: int
    thing: str
    named: bool


def ask(sentences: Sequence[str]) -> Iterator[Question]:
    """
    About each sentence that names a thing, one that it names and one that it does not, not even in the plural. A thing
    is absent as often as it is present, as far as that is possible, so that the word alone tells nothing.
    """
    words = [spoken_words(sentence) for sentence in sentences]
    named = [[thing for thing in THINGS if thing in said] for said in words]
    present = [(place, random.Random(place).choice(things)) for place, things in enumerate(named) if things]
    absent = [thing for _, thing in present]
    random.Random(0).shuffle(absent)
    for place, thing in present:
        other = next((one for one in absent if not any(word.startswith(one) for word in words[place])), None)
        if other is not None:
            absent.remove(other)
            yield Question(place, thing, True)
            yield Question(place, other, False)


def rate(few_shot: FewShot, seen: Sequence[Tokens] | None, questions: Sequence[Question]) -> torch.Tensor:
    """The log-likelihood of each question's thing after "A" at the beginning of a caption, `(questions,)`."""
    prompts = [few_shot.embed([*caption_prompt(seen and seen[one.sentence]), " A"]) for one in questions]
    names = [f" {one.thing}" for one in questions]
    lengths = torch.tensor([len(few_shot.encode(name)) for name in names])
    return -few_shot.losses(prompts, names) * lengths


def rate_things(few_shot: FewShot) -> dict[str, float]:
    """The same of all things after nothing, by thing."""
    ratings = rate(few_shot, None, [Question(0, thing, False) for thing in THINGS])
    return dict(zip(THINGS, ratings.tolist(), strict=True))


def answer(
    few_shot: FewShot,
    usual: dict[str, float],
    dev: tuple[Sequence[Question], Sequence[Tokens]],
    test: tuple[Sequence[Question], Sequence[Tokens]],
) -> list[bool]:
    """
    Whether the language model says yes to each question about the test sentences: where the sentence speaks for the
    thing more than half of the dev sentences do for theirs, which are asked about what is there as often.

    Args:
        few_shot ([`FewShot`]): The language model, after examples in the same form.
        usual (`dict[str, float]`): Of [`rate_things`], after nothing.
        dev, test: Questions, and what stands for each sentence.
    """
    leads = [
        rate(few_shot, seen, questions) - torch.tensor([usual[one.thing] for one in questions])
        for questions, seen in (dev, test)
    ]
    return (leads[1] > leads[0].median()).tolist()
