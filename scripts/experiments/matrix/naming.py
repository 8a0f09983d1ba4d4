# SPDX-License-Identifier: Apache-2.0
"""
Yes/no questions to a language model that knows no questions: is a thing likelier to be named for this photo?

The thing is rated as the first word after "A" of a caption, after what stands for the photo. Its log-likelihood, less
the mean of the same over the dev photos, says how much the photo speaks for it, whatever the language model thinks of
the word.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from experiments.flickr8k.few_shot import FewShot, caption_prompt
from experiments.flickr8k.yes_no_questions import THINGS, choose_things
from experiments.matrix.forms import Parts
from trainer.data.captioned_photos import CaptionedPhoto


class Seen(NamedTuple):
    """Photos, the visual tokens `(tokens, d)` of each, and the tokens that are likelier in its captions, if any."""

    photos: Sequence[CaptionedPhoto]
    tokens: Sequence[torch.Tensor]
    named: Sequence[Sequence[int]] | None = None


def answer_by_naming(
    parts: Parts, dev: Seen, test: Seen, bf16: bool = False, word_bias: float = 0.0
) -> list[tuple[bool, bool]]:
    """
    Whether each question's answer is yes, and whether the language model says so.

    A yes is a thing that a photo speaks for more than for half of the questions about the dev photos, which are
    balanced as those about the test photos are.
    """
    few_shot = FewShot(*parts, bf16=bf16)
    dev_scores, test_scores = (rate_things(few_shot, seen.tokens, seen.named, word_bias) for seen in (dev, test))
    usual = dev_scores.mean(0)  # (things,)
    asked = list(choose_things(dev.photos))
    threshold = take(dev_scores - usual, asked).median()
    questions = list(choose_things(test.photos))
    says_yes = take(test_scores - usual, questions) > threshold
    return [(present, answer) for (_, _, present), answer in zip(questions, says_yes.tolist(), strict=True)]


def take(scores: torch.Tensor, questions: Sequence[tuple[int, str, bool]]) -> torch.Tensor:
    """Of scores `(photos, things)` those that the questions ask for, `(questions,)`."""
    return torch.stack([scores[place, THINGS.index(thing)] for place, thing, _ in questions])


@torch.no_grad()
def rate_things(
    few_shot: FewShot,
    seen: Sequence[torch.Tensor],
    named: Sequence[Sequence[int]] | None = None,
    word_bias: float = 0.0,
) -> torch.Tensor:
    """
    The log-likelihood of each thing after "A" at the beginning of a photo's caption, `(photos, things)`.

    Args:
        few_shot ([`FewShot`]): Without examples.
        seen (`Sequence[torch.Tensor]`): The visual tokens `(tokens, d)` of each photo.
        named (`Sequence[Sequence[int]]`, *optional*), word_bias (`float`, *optional*): As `words` and `word_bias` of
            [`FewShot.complete`].
    """
    names = [f" {thing}" for thing in THINGS]
    prompts = [few_shot.embed([*caption_prompt(tokens), " A"]) for tokens in seen]
    first = few_shot.rate(prompts, names)  # (photos, things)
    whole = first.clone()
    for place, name in enumerate(names):
        if (length := len(few_shot.encode(name))) > 1:
            whole[:, place] = -length * few_shot.losses(prompts, [name] * len(prompts))
    if named is None:
        return whole
    return whole + few_shot.rate(prompts, names, words=named, word_bias=word_bias) - first
