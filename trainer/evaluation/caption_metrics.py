# SPDX-License-Identifier: Apache-2.0
"""Caption scores as the papers report them: pycocoevalcap's CIDEr, BLEU-4 and ROUGE-L, after its own PTB tokenizer."""

import re
import shutil
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from pycocoevalcap.bleu.bleu_scorer import BleuScorer
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.rouge.rouge import Rouge
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

from .intervals import Measure, mean_of


Captions = Mapping[str, Sequence[str]]


def caption_scores(candidates: Mapping[str, str], references: Captions) -> dict[str, float]:
    """
    Scores one caption per image against the human captions of the same image.

    Args:
        candidates (`Mapping[str, str]`):
            Caption by image name; an empty caption scores nothing but is allowed.
        references (`Mapping[str, Sequence[str]]`):
            Human captions by image name, for the same images. CIDEr weighs words by how rare they are among them, so
            scores of different sets of images do not compare.

    Returns:
        `dict[str, float]`: `"CIDEr"` (CIDEr-D, where 1.0 is the 100 of the papers) and `"BLEU-4"` (0 to 1).

    Raises:
        `FileNotFoundError`: there is no `java`, which the PTB tokenizer needs.
        `ValueError`: the images differ, or one has no human caption.
    """
    check_java()
    measures = measure_captions(candidates, references)
    return {name: measures[name].value() for name in ("CIDEr", "BLEU-4")}


def measure_captions(candidates: Mapping[str, str], references: Captions) -> dict[str, Measure]:
    """
    Scores as [`caption_scores`] does, image by image.

    Args: as for [`caption_scores`].

    Returns:
        `dict[str, Measure]`: `"CIDEr"`, `"BLEU-4"` and `"ROUGE-L"`, of the images in the order of the references.
        Without Java words are told apart by a plain tokenizer, and the names say so, `"CIDEr (plain tokenizer)"`:
        such scores differ from the papers' a little.

    Raises:
        `ValueError`: the images differ, or one has no human caption.
    """
    unmatched = sorted(candidates.keys() ^ references.keys())
    if unmatched:
        raise ValueError(f"{unmatched[0]} has a caption or references but not both ({len(unmatched)} such images).")
    if not candidates:
        raise ValueError("There are no captions to score.")
    bare = [name for name in references if not references[name]]
    if bare:
        raise ValueError(f"{bare[0]} has no human caption ({len(bare)} such images).")
    tokenize, note = (tokenize_as_ptb, "") if has_java() else (tokenize_plainly, " (plain tokenizer)")
    truth = tokenize(references)
    ours = tokenize({name: [candidates[name]] for name in references})
    _, cider = Cider().compute_score(truth, ours)
    _, rouge = Rouge().compute_score(truth, ours)
    return {
        f"CIDEr{note}": mean_of(torch.from_numpy(cider)),
        f"BLEU-4{note}": Measure(count_ngrams(truth, ours), bleu_4),
        f"ROUGE-L{note}": mean_of(torch.from_numpy(rouge)),
    }


def count_ngrams(truth: Captions, ours: Captions) -> torch.Tensor:
    """What BLEU adds up over the images, `(images, 10)`: right n-grams of 1 to 4 words, all, and the two lengths."""
    scorer = BleuScorer(n=4)
    for name, references in truth.items():
        scorer += (ours[name][0], references)
    lengths = [min((abs(length - of["testlen"]), length) for length in of["reflen"])[1] for of in scorer.ctest]
    rows = [
        [*of["correct"], *of["guess"], of["testlen"], length] for of, length in zip(scorer.ctest, lengths, strict=True)
    ]
    return torch.tensor(rows, dtype=torch.float64)


def bleu_4(*sums: np.ndarray) -> np.ndarray:
    """BLEU-4 of the sums of [`count_ngrams`], with pycocoevalcap's small numbers against division by 0."""
    right, found, length, reference_length = sums[:4], sums[4:8], sums[8], sums[9]
    product = np.prod([(hits + 1e-15) / (number + 1e-9) for hits, number in zip(right, found, strict=True)], axis=0)
    brevity = (length + 1e-15) / (reference_length + 1e-9)
    return product**0.25 * np.exp(np.minimum(0, 1 - 1 / brevity))


def has_java() -> bool:
    return shutil.which("java") is not None


def check_java() -> None:
    """Raises `FileNotFoundError` where there is no `java`: to be called before hours of work that end in a score."""
    if not has_java():
        raise FileNotFoundError(
            "Scoring captions needs Java for pycocoevalcap's PTB tokenizer: install it (Debian: default-jre-headless)."
        )


def tokenize_as_ptb(captions: Captions) -> dict[str, list[str]]:
    # The tokenizer reads one caption per line and pairs lines with images by counting: a stray line break would shift
    # every image after it.
    rows = {name: [{"caption": " ".join(text.split())} for text in texts] for name, texts in captions.items()}
    return PTBTokenizer().tokenize(rows)


def tokenize_plainly(captions: Captions) -> dict[str, list[str]]:
    """Lower-case words and numbers, without any punctuation: close to the PTB tokenizer on plain captions."""
    return {
        name: [" ".join(re.findall(r"\w+|'\w+", text.lower())) for text in texts] for name, texts in captions.items()
    }
