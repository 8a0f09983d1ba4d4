# SPDX-License-Identifier: Apache-2.0
"""
What a photo's words are worth to a language model that nothing was trained for: its loss per token of a caption.

    PYTHONPATH=.:scripts python -m experiments.flickr8k.word_losses --adapter FOLDER --vision_tower FOLDER \\
        --language_model FOLDER --data FLICKR8K

A few photos of the training split come first, as examples. The captions are the first ones of photos of the dev split.
"""

import argparse
import copy
from collections import Counter
from collections.abc import Sequence

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from experiments.flickr8k.caption_corpora import read_flickr8k
from modeling_langbridge import LangBridgeAdapter, LangBridgeForConditionalGeneration, LangBridgeProcessor
from trainer.data.caption_words import content_words
from trainer.data.captioned_photos import CaptionedPhoto
from trainer.data.images import open_image


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

    def embed(self, text: str, add_special_tokens: bool = False) -> torch.Tensor:
        """The embeddings of a text's tokens, `(tokens, d)`."""
        ids = self.processor.tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"]
        return self.model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))

    def words_of_images(self, photos: Sequence[CaptionedPhoto]) -> list[torch.Tensor]:
        """The words of each photo that the adapter picks, as embeddings `(words, d)`."""
        images = [open_image(photo.image) for photo in photos]
        pixel_values = self.processor.image_processor(images, return_tensors="pt")["pixel_values"]
        return self.model.model.get_image_features(pixel_values).pooler_output

    def words_of_people(self, photos: Sequence[CaptionedPhoto]) -> list[torch.Tensor]:
        """The words that people use most in a photo's captions but the first, as embeddings `(tokens, d)`."""
        counts = [Counter(word for text in photo.captions[1:] for word in content_words(text)) for photo in photos]
        words = [[word for word, _ in count.most_common(WORDS_PER_IMAGE)] for count in counts]
        return [self.embed("".join(f" {word}" for word in chosen)) for chosen in words]

    @torch.no_grad()
    def measure(
        self, examples: list[torch.Tensor] | None, words: list[torch.Tensor] | None, batch_size: int = 20
    ) -> torch.Tensor:
        """
        The mean loss of each photo's first caption, `(photos,)`.

        Args:
            examples, words (`list[torch.Tensor]`, *optional*):
                The words `(words, d)` of each example and photo. Without them the prompt is captions alone.
            batch_size (`int`, *optional*, defaults to 20): Photos at a time.
        """
        prompt = [self.embed("", add_special_tokens=True)]
        for position, photo in enumerate(self.examples):
            shown = [] if examples is None else [self.embed("Words:"), examples[position], self.embed("\n")]
            prompt += [*shown, self.embed(f"Caption: {photo.captions[0]}\n\n")]
        model = self.model.model.language_model
        cache = model(inputs_embeds=torch.cat(prompt)[None], use_cache=True).past_key_values
        captions = [
            self.processor.tokenizer(f" {photo.captions[0]}", add_special_tokens=False)["input_ids"]
            for photo in self.photos
        ]
        losses = []
        for start in range(0, len(captions), batch_size):
            rows, targets = [], [torch.tensor(ids) for ids in captions[start : start + batch_size]]
            for position, ids in enumerate(targets, start):
                shown = [] if words is None else [self.embed("Words:"), words[position], self.embed("\n")]
                caption = self.model.get_input_embeddings()(ids[:-1])
                rows.append(torch.cat([*shown, self.embed("Caption:"), caption]))
            repeated = copy.deepcopy(cache)
            repeated.batch_repeat_interleave(len(rows))
            # Padded on the right, where no token of a caption looks.
            states = model(
                inputs_embeds=pad_sequence(rows, batch_first=True), past_key_values=repeated
            ).last_hidden_state
            for row, state, ids in zip(rows, states, targets, strict=True):
                logits = self.model.lm_head(state[len(row) - len(ids) : len(row)])  # (caption, vocabulary)
                losses.append(F.cross_entropy(logits.float(), ids))
        return torch.stack(losses)


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
    with torch.no_grad():
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
