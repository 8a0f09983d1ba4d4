# SPDX-License-Identifier: Apache-2.0
"""The tables of the ears: word errors, and what language models make of what is heard, as shares of the text's."""

import json
from collections.abc import Sequence
from itertools import compress
from typing import Any

import torch

from experiments.ears.forms import FORMS
from experiments.ears.picture import draw_words
from experiments.ears.sentences import read_utterances
from experiments.ears.word_errors import word_error_rate
from experiments.ears.words import SharedWords, spoken_words
from experiments.ears.world import EarsWorld
from experiments.matrix.report import write_table
from modeling_langbridge.utils.files import atomic_file, read_json
from trainer.evaluation.caption_metrics import measure_captions
from trainer.evaluation.intervals import Measure, mean_of, ratio


PICTURED = 6  # of the test sentences


def write_report(world: EarsWorld, seconds: dict[str, float]) -> str:
    """Writes results.json, results.md and ears.png; returns the tables."""
    transcripts = read_json(world.output_dir / "transcripts" / "transcripts.json")
    errors = word_errors(transcripts, set(SharedWords(world.vocabulary).words))
    measures = {name: measure(world, name) for name in world.language_models}
    rows = [
        ["", "utterances", "word error rate"],
        *([name, str(count), str(rate)] for name, (count, rate) in errors.items()),
    ]
    tables = [write_table(rows), *(describe(name, rows) for name, rows in measures.items())]
    text = "\n\n".join(tables) + f"\n\nSeconds: {', '.join(f'{n} {s:.0f}' for n, s in seconds.items())}.\n"
    results = {"word_errors": errors, "language_models": measures, "seconds": seconds, "settings": world.settings}
    with atomic_file(world.output_dir / "results.json") as unfinished:
        unfinished.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    with atomic_file(world.output_dir / "results.md") as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    with atomic_file(world.output_dir / "ears.png") as unfinished:
        draw_words(world, PICTURED, unfinished)
    return text


def word_errors(transcripts: dict[str, dict[str, list]], shared: set[str]) -> dict[str, tuple[int, Any]]:
    """How many utterances were heard how well, by what was heard how."""
    test, dev, known = (transcripts[split] for split in ("test", "dev", "known_voices"))

    def some(chosen: Sequence[bool]) -> list[list[list[str]]]:
        return [list(compress(test[what], chosen)) for what in ("heard", "said")]

    found = {"**new voices, new sentences**": some([True] * len(test["said"]))}
    whole = [shared.issuperset(spoken_words(sentence)) for sentence in test["sentences"]]
    found["of them sentences of shared words alone"] = some(whole)
    found["of them sentences with other words, too"] = some([not one for one in whole])
    for voice in dict.fromkeys(test["voices"]):
        found[f"of them `{voice}`"] = some([name == voice for name in test["voices"]])
    read = len(test["whisper"])
    found["known voices, new sentences"] = (known["heard"], known["said"])
    found["two other new voices (dev)"] = (dev["heard"], dev["said"])
    found[f"the first {read} of the new voices"] = (test["heard"][:read], test["said"][:read])
    found["the same, by the encoder on 30 seconds"] = (test["heard_in_30_seconds"], test["said"][:read])
    found["the same, Whisper's own transcript"] = (test["whisper"], test["said"][:read])
    return {
        name: (len(said), word_error_rate(heard, said).estimate())
        for name, (heard, said) in found.items()
        if len(said) > 1
    }


def measure(world: EarsWorld, name: str) -> dict[str, dict[str, Any]]:
    """Of each form every score with its interval over sentences, and its share of what all words as text have."""
    found = read_json(world.output_dir / f"measures_{name}" / "measures.json")
    test = read_utterances(world, "test")
    questions, by_form = found.pop("questions"), {**found, "another": {"losses": found["heard"]["losses_of_another"]}}
    losses = {form: torch.tensor(measured["losses"]) for form, measured in by_form.items()}
    scores = {form: {"gain": losses["nothing"] - of_form} for form, of_form in losses.items()}
    for form, measured in by_form.items():
        if "captions" in measured:
            scores[form]["CIDEr"] = score_captions(measured["captions"], [one.others for one in test])
        if "answers" in measured:
            scores[form]["yes/no"] = right_answers(measured["answers"], questions)
    rows = {}
    for form, of_form in scores.items():
        rows[form] = {"loss": mean_of(losses[form]).estimate()}
        for metric, score in of_form.items():
            both = torch.stack([score.double(), scores["text"][metric].double()], dim=1)  # (sentences, 2)
            rows[form][metric] = mean_of(score).estimate()
            rows[form][f"{metric}, share of text's"] = Measure(both, ratio).estimate()
    return rows


def score_captions(captions: Sequence[str], references: Sequence[Sequence[str]]) -> torch.Tensor:
    """CIDEr-D of each sentence's caption, by what others wrote about the same photo, `(sentences,)`."""
    names = [str(place) for place in range(len(captions))]
    truth = dict(zip(names, references, strict=False))
    cider, *_ = measure_captions(dict(zip(names, captions, strict=True)), truth).values()
    return cider.statistics[:, 0]


def right_answers(answers: Sequence[bool], questions: Sequence[Sequence]) -> torch.Tensor:
    """The share of right answers about each sentence that is asked about, `(sentences,)`; two questions each."""
    right = [says == named for says, (_, _, named) in zip(answers, questions, strict=True)]
    return torch.tensor(right).view(-1, 2).double().mean(1)


LABELS = {"nothing": FORMS["nothing"], "another": "another sentence's heard words", **FORMS}


def describe(name: str, rows: dict[str, dict[str, Any]]) -> str:
    """A language model's table."""
    metrics = ("CIDEr", "yes/no", "gain")
    table = [[name, "CIDEr", "of text's", "yes/no right", "of text's", "loss", "gain, of text's"]]
    for form in filter(rows.__contains__, LABELS):
        of_form = rows[form]
        values = {metric: str(of_form.get(metric, "")) for metric in metrics}
        shares = {metric: str(of_form.get(f"{metric}, share of text's", "")) for metric in metrics}
        loss = f"{of_form['loss'].value:.3f}"
        table.append(
            [LABELS[form], values["CIDEr"], shares["CIDEr"], values["yes/no"], shares["yes/no"], loss, shares["gain"]]
        )
    return write_table(table)
