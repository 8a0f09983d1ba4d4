# SPDX-License-Identifier: Apache-2.0
"""Caption scores as the papers report them: CIDEr and BLEU-4 by pycocoevalcap, after its own PTB tokenizer."""

import shutil
from collections.abc import Mapping, Sequence

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider
from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer


def caption_scores(candidates: Mapping[str, str], references: Mapping[str, Sequence[str]]) -> dict[str, float]:
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
    unmatched = sorted(candidates.keys() ^ references.keys())
    if unmatched:
        raise ValueError(f"{unmatched[0]} has a caption or references but not both ({len(unmatched)} such images).")
    if not candidates:
        raise ValueError("There are no captions to score.")
    bare = [name for name in references if not references[name]]
    if bare:
        raise ValueError(f"{bare[0]} has no human caption ({len(bare)} such images).")
    truth = _tokenize(references)
    ours = _tokenize({name: [candidates[name]] for name in references})
    cider, _ = Cider().compute_score(truth, ours)
    bleu, _ = Bleu(4).compute_score(truth, ours, verbose=0)
    return {"CIDEr": float(cider), "BLEU-4": float(bleu[3])}


def check_java() -> None:
    """Raises `FileNotFoundError` where there is no `java`: to be called before hours of work that end in a score."""
    if shutil.which("java") is None:
        raise FileNotFoundError(
            "Scoring captions needs Java for pycocoevalcap's PTB tokenizer: install it (Debian: default-jre-headless)."
        )


def _tokenize(captions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    # The tokenizer reads one caption per line and pairs lines with images by counting: a stray line break would shift
    # every image after it.
    rows = {name: [{"caption": " ".join(text.split())} for text in texts] for name, texts in captions.items()}
    return PTBTokenizer().tokenize(rows)
