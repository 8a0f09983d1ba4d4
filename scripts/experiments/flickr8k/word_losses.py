# SPDX-License-Identifier: Apache-2.0
"""
What a photo's words are worth to a language model that nothing was trained for: its loss per token of a caption.

    PYTHONPATH=.:scripts python -m experiments.flickr8k.word_losses --adapter FOLDER --vision_tower FOLDER \\
        --language_model FOLDER --data FLICKR8K

A few photos of the training split come first, as examples. The captions are the first ones of photos of the dev split.
"""

import argparse
from collections.abc import Sequence

import torch

from experiments.flickr8k.caption_corpora import most_used_words, read_flickr8k
from experiments.flickr8k.few_shot import FewShot, Tokens, caption_examples, caption_prompt, see_photos
from experiments.small_language_model import word_prompt
from modeling_langbridge import LangBridgeAdapter, LangBridgeForConditionalGeneration, LangBridgeProcessor
from trainer.data.captioned_photos import CaptionedPhoto


WORDS_PER_IMAGE = 8


class CaptionLosses:
    """
    A language model's losses on captions after a few examples.

    Args:
        model ([`LangBridgeForConditionalGeneration`]): With `words_per_image`.
        processor ([`LangBridgeProcessor`]): Its own.
        examples, photos (`Sequence[CaptionedPhoto]`): What the prompt shows, and what is measured.
    """

    def __init__(
        self,
        model: LangBridgeForConditionalGeneration,
        processor: LangBridgeProcessor,
        examples: Sequence[CaptionedPhoto],
        photos: Sequence[CaptionedPhoto],
    ):
        self.model, self.processor, self.examples, self.photos = model, processor, examples, photos

    def words_of_images(self, photos: Sequence[CaptionedPhoto]) -> list[torch.Tensor]:
        """The words of each photo that the adapter picks, as embeddings `(words, d)`."""
        return see_photos(self.model, self.processor, photos)

    def words_of_people(self, photos: Sequence[CaptionedPhoto]) -> list[str]:
        """The words that people use most in a photo's captions but the first, as text."""
        return [word_prompt(most_used_words(photo.captions[1:], WORDS_PER_IMAGE)) for photo in photos]

    def measure(
        self, examples: Sequence[Tokens] | None, words: Sequence[Tokens] | None, batch_size: int = 20
    ) -> torch.Tensor:
        """
        The mean loss of each photo's first caption, `(photos,)`.

        Args:
            examples, words (`Sequence[str | torch.Tensor]`, *optional*):
                The words of each example and photo, as text or embeddings `(words, d)`. Without them the prompt is
                captions alone.
            batch_size (`int`, *optional*, defaults to 20): Photos at a time.
        """
        few_shot = FewShot(
            self.model, self.processor, caption_examples([photo.captions[0] for photo in self.examples], examples)
        )
        prompts = [few_shot.embed(caption_prompt(words and words[position])) for position in range(len(self.photos))]
        return few_shot.losses(prompts, [f" {photo.captions[0]}" for photo in self.photos], batch_size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("vision_tower", "language_model", "data"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--adapter", help="default: the one that ships")
    parser.add_argument("--examples", type=int, default=4)
    parser.add_argument("--photos", type=int, default=200)
    arguments = parser.parse_args()
    shipped = LangBridgeAdapter.grounded_efficientnet_lite0
    adapter = LangBridgeAdapter.from_pretrained(arguments.adapter) if arguments.adapter else shipped()
    model, processor = adapter.join(arguments.vision_tower, arguments.language_model, words_per_image=WORDS_PER_IMAGE)
    examples = read_flickr8k(arguments.data, "train", arguments.examples)
    photos = read_flickr8k(arguments.data, "dev", arguments.photos)
    captions = CaptionLosses(model, processor, examples, photos)
    of_examples, own = captions.words_of_images(examples), captions.words_of_images(photos)
    people = captions.words_of_people(examples), captions.words_of_people(photos)
    middle = len(photos) // 2
    losses = {
        "no words": captions.measure(None, None),
        "another photo's": captions.measure(of_examples, own[middle:] + own[:middle]),
        "its own": captions.measure(of_examples, own),
        "people's": captions.measure(*people),
    }
    for name, loss in losses.items():
        gain = losses["another photo's"] - loss
        print(f"| {name} | {loss.mean():.3f} ({error(loss):.3f}) | {gain.mean():.3f} ({error(gain):.3f}) |")


def error(values: torch.Tensor) -> float:
    """The standard error of a mean."""
    return (values.std() / len(values) ** 0.5).item()


if __name__ == "__main__":
    main()
