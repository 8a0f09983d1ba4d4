# SPDX-License-Identifier: Apache-2.0
"""
Yes/no questions to a language model that knows no questions: is a thing likelier to be named for this photo?

The thing is rated as the first word after "A" of a caption, after what stands for the photo. Its log-likelihood, less
the mean of the same over the dev photos, says how much the photo speaks for it, whatever the language model thinks of
the word.
"""

from collections.abc import Sequence

import torch

from experiments.flickr8k.few_shot import FewShot, caption_prompt
from experiments.flickr8k.yes_no_questions import THINGS, choose_things
from experiments.matrix.forms import Parts
from trainer.data.captioned_photos import CaptionedPhoto


Seen = tuple[Sequence[CaptionedPhoto], Sequence[torch.Tensor]]  # photos, and the visual tokens (tokens, d) of each


def answer_by_naming(parts: Parts, bf16: bool, dev: Seen, test: Seen) -> list[tuple[bool, bool]]:
    """
    Whether each question's answer is yes, and whether the language model says so.

    A yes is a thing that a photo speaks for more than for half of the questions about the dev photos, which are
    balanced as those about the test photos are.
    """
    dev_scores = rate_things(parts, bf16, dev[1])  # (photos, things)
    usual = dev_scores.mean(0)
    asked = list(choose_things(dev[0]))
    threshold = take(dev_scores - usual, asked).median()
    questions = list(choose_things(test[0]))
    says_yes = take(rate_things(parts, bf16, test[1]) - usual, questions) > threshold
    return [(present, answer) for (_, _, present), answer in zip(questions, says_yes.tolist(), strict=True)]


def take(scores: torch.Tensor, questions: Sequence[tuple[int, str, bool]]) -> torch.Tensor:
    """Of scores `(photos, things)` those that the questions ask for, `(questions,)`."""
    return torch.stack([scores[place, THINGS.index(thing)] for place, thing, _ in questions])


@torch.no_grad()
def rate_things(parts: Parts, bf16: bool, seen: Sequence[torch.Tensor]) -> torch.Tensor:
    """The log-likelihood of each thing after "A" at the beginning of a photo's caption, `(photos, things)`."""
    names = [f" {thing}" for thing in THINGS]
    few_shot = FewShot(*parts, bf16=bf16)
    prompts = [few_shot.embed([*caption_prompt(tokens), " A"]) for tokens in seen]
    rated = few_shot.rate(prompts, names)  # (photos, things)
    for place, name in enumerate(names):
        if (length := len(few_shot.encode(name))) > 1:
            rated[:, place] = -length * few_shot.losses(prompts, [name] * len(prompts))
    return rated
