# SPDX-License-Identifier: Apache-2.0
"""Retrieval of captions by photos and of photos by captions, over an adapter's words; no text encoder is trained."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.command_line import check_output_file, run_script
from trainer.number_arguments import at_least


if TYPE_CHECKING:
    from torch import Tensor

    from modeling_langbridge import SharedVocabulary
    from trainer.data.captioned_photos import CaptionedPhoto


EPILOG = """examples:
  python scripts/retrieve.py --model my-langbridge --dataset flickr8k/captions.jsonl --split test

  An adapter alone, as scripts/ground.py leaves it, without any language model:
    python scripts/retrieve.py --adapter grounded/adapter --vision_tower openai/clip-vit-large-patch14-336 \\
        --dataset flickr8k/captions.jsonl --output retrieval.json

Captions are read in one of two ways. As words: the photo's pooled coefficients say how likely the caption's words are.
As states: photo and caption are both assigned to words as VLAP does, the caption through the language model's states.
docs/reading_words.md says more.
"""
EXAMPLES, BEST = 5, 5


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", help="a LangBridge checkpoint, by folder or Hub id")
    what.add_argument("--adapter", type=Path, help="with --vision_tower: the folder of an adapter alone")
    parser.add_argument("--vision_tower", help="with --adapter: the vision tower it was trained with")
    parser.add_argument(
        "--dataset", required=True, help="photos with captions, in any form that train.py takes, one image a row"
    )
    parser.add_argument(
        "--image_folder",
        help="what a json's image paths are relative to (default: its own folder, or `images` in that)",
    )
    parser.add_argument(
        "--split", default="test", help="the split, in a json the rows whose field `split` says so (default: test)"
    )
    parser.add_argument(
        "--captions_as",
        choices=("words", "states"),
        help="how captions are read (default: words where the coefficients are distributions, else states)",
    )
    parser.add_argument(
        "--vocabulary",
        help="for adapters without words: file of a shared vocabulary (default: Qwen 2's and Llama 3's)",
    )
    parser.add_argument(
        "--vocab_size", type=at_least(1), help="how many of its words (default: a file's all, else 19200)"
    )
    parser.add_argument(
        "--output", type=Path, help="also write the table and the best of a few examples to this json file"
    )
    arguments = parser.parse_args()
    if (arguments.adapter is None) != (arguments.vision_tower is None):
        raise ValueError("--adapter and --vision_tower go together: a checkpoint, --model, has its own tower.")
    if arguments.adapter is not None and (arguments.captions_as == "states" or arguments.vocabulary):
        raise ValueError("--adapter has no language model, so captions are read as words, the adapter's own.")
    check_output_file(arguments.output)
    return arguments


def score(
    arguments: argparse.Namespace, images: list, captions: list[str]
) -> tuple["Tensor", "Tensor", "SharedVocabulary"]:
    """How well they fit `(photos, captions)`, what each photo is in words `(photos, V)`, and the words."""
    import torch

    from modeling_langbridge import LangBridgeAdapter
    from modeling_langbridge.adapter.loading import open_model
    from trainer.evaluation.retrieval import fit_by_states, fit_by_words
    from trainer.evaluation.word_scores import gives_distributions, reading_words

    if arguments.adapter is not None:
        adapter = LangBridgeAdapter.from_pretrained(arguments.adapter)
        model, processor = adapter.join(arguments.vision_tower)
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        bridge, image_processor, vocabulary = model.model, processor.image_processor, adapter.vocabulary
        as_words = True
    else:
        model, processor = open_model(arguments.model)
        bridge, image_processor = model.model, processor.image_processor
        vocabulary, embeddings = reading_words(model, processor.tokenizer, arguments.vocabulary, arguments.vocab_size)
        distributions = gives_distributions(model.config)
        as_words = distributions if arguments.captions_as is None else arguments.captions_as == "words"
    if as_words and not gives_distributions(bridge.config):
        raise ValueError(
            "Captions as words need coefficients that are distributions, softmax or gated_softmax: give a checkpoint "
            "as --model and --captions_as states."
        )
    if as_words:
        return *fit_by_words(bridge, image_processor, vocabulary, images, captions), vocabulary
    return *fit_by_states(model, processor, embeddings, images, captions), vocabulary


def recall_table(recall: dict[str, dict[str, float]]) -> str:
    ks = next(iter(recall.values()))
    lines = ["| | " + " | ".join(f"recall@{k}" for k in ks) + " |", "|---|" + "---:|" * len(ks)]
    lines += [
        f"| {way} | " + " | ".join(f"{share:.3f}" for share in row.values()) + " |" for way, row in recall.items()
    ]
    return "\n".join(lines)


def examples(
    photos: list["CaptionedPhoto"],
    captions: list[str],
    owner: "Tensor",
    fit: "Tensor",
    words: "Tensor",
    vocabulary: "SharedVocabulary",
) -> list[dict]:
    """For a few photos, evenly spread: their words, the captions they find, and the photos their captions find."""
    from torch import finfo

    found = []
    tiny = finfo(words.dtype).tiny
    # The words in which a photo differs most from the others, not those that all have.
    telling = words * (words.clamp(min=tiny).log() - words.mean(0).clamp(min=tiny).log())  # (photos, V)
    for index in range(0, len(photos), max(1, -(-len(photos) // EXAMPLES))):
        own = int((owner == index).nonzero()[0])
        found.append(
            {
                "photo": photos[index].name,
                "words": [
                    vocabulary.surfaces[k] for k in telling[index].topk(min(10, len(vocabulary))).indices.tolist()
                ],
                "captions_found": [
                    {"caption": captions[j], "right": int(owner[j]) == index, "score": fit[index, j].item()}
                    for j in fit[index].topk(min(BEST, len(captions))).indices.tolist()
                ],
                "caption": captions[own],
                "photos_found": [
                    {"photo": photos[i].name, "right": i == index, "score": fit[i, own].item()}
                    for i in fit[:, own].topk(min(BEST, len(photos))).indices.tolist()
                ],
            }
        )
    return found


def main() -> None:
    arguments = parse_arguments()
    import torch

    from modeling_langbridge.utils.files import atomic_file
    from trainer.data.captioned_photos import read_captioned_photos
    from trainer.evaluation.retrieval import recall_both_ways

    photos = read_captioned_photos(arguments.dataset, arguments.image_folder, arguments.split)
    captions = [caption for photo in photos for caption in photo.captions]
    owner = torch.tensor([index for index, photo in enumerate(photos) for _ in photo.captions])  # (captions,)
    fit, words, vocabulary = score(arguments, [photo.image for photo in photos], captions)
    if not fit.isfinite().all():
        raise ValueError(
            f"{arguments.model or arguments.adapter} gives scores that are not finite: nothing is ranked."
        )
    recall = recall_both_ways(fit, owner)
    print(f"{len(photos):,} photos, {len(captions):,} captions\n\n{recall_table(recall)}")
    if arguments.output is not None:
        result = {
            "photos": len(photos),
            "captions": len(captions),
            "recall": recall,
            "examples": examples(photos, captions, owner, fit, words, vocabulary),
        }
        with atomic_file(arguments.output) as unfinished:
            unfinished.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"\nThe best of a few examples are in {arguments.output}.")


if __name__ == "__main__":
    run_script(main)
