# SPDX-License-Identifier: Apache-2.0
"""The reproduction on pretrained parts: its stages in their order, and the tables that they end in."""

import json
from collections.abc import Mapping, Sequence
from statistics import fmean

import torch

from experiments.flickr8k.caption_report import save_caption_picture
from experiments.flickr8k.caption_teaching import teach
from experiments.flickr8k.neighbour_words import find_neighbour_words
from experiments.flickr8k.photo_adapters import ground, train_langbridge, train_mlp, tune
from experiments.flickr8k.photo_world import compute_features
from experiments.flickr8k.pretrained_rows import measure_baselines, measure_without_adapter, measure_words
from experiments.flickr8k.pretrained_world import PretrainedWorld, prepare_language_models
from experiments.stages import Stage, claim_output_dir, run_stages
from modeling_langbridge.utils.files import atomic_file, read_json
from trainer.data.caption_words import content_words
from trainer.data.captioned_photos import CaptionedPhoto
from trainer.evaluation.caption_metrics import caption_scores, check_java


ROWS = {
    "blind": "no photo",
    "neighbours": "words of the nearest train photos, nothing learnt",
    "grounded": "**grounded words, no language model**",
    "tuned_own": "grounded words, tuned through it",
    "tuned_other": "grounded words, tuned through the other one, moved",
    "mlp": "LLaVA's MLP, trained through it",
    "raw_own": "raw coefficients, trained through it",
    "raw_other": "raw coefficients, trained through the other one, moved",
    "people": "words that people use, as text",
    "taught_blind": "taught to caption words: no photo",
    "taught_neighbours": "taught: words of the nearest train photos",
    "taught_grounded": "taught: grounded words",
    "taught_people": "taught: words that people use",
}


def stages_of(world: PretrainedWorld) -> list[dict[str, Stage]]:
    """The stages in their order, the cheap ones first; those in one group run side by side."""
    stage, names, seeds = world.stage, world.language_models, world.adapter_seeds
    words = [
        {"language_models": stage(prepare_language_models)},
        {"features": stage(compute_features)},
        {"neighbours": stage(find_neighbour_words)},
        {f"grounded_{seed}": stage(ground, seed) for seed in seeds},
        {f"taught_{name}": stage(teach, name) for name in names},
        {f"measures_{name}": stage(measure_without_adapter, name) for name in names},
        *({f"tuned_{name}_{seed}": stage(tune, name, seed) for name in names} for seed in seeds),
        *({f"measures_{name}_{seed}": stage(measure_words, name, seed) for name in names} for seed in seeds),
    ]
    if world.words_only:
        return words
    return [
        *words,
        *({f"mlp_{name}_{seed}": stage(train_mlp, name, seed) for name in names} for seed in seeds),
        {f"langbridge_{names[0]}_{seed}": stage(train_langbridge, names[0], seed) for seed in seeds},
        *({f"baselines_{name}_{seed}": stage(measure_baselines, name, seed) for name in names} for seed in seeds),
    ]


def reproduce(world: PretrainedWorld) -> str:
    """
    Runs all stages, writes results.json, results.md and captions.png; returns the tables.

    Raises:
        `FileExistsError`: the output folder is not this run's.
        `FileNotFoundError`: there is no Java, which the scores need.
    """
    check_java()
    claim_output_dir(world.output_dir, world.settings)
    seconds = run_stages(world.output_dir, stages_of(world))
    photos, tables, scores = world.photos("test"), [], {}
    for name in world.language_models:
        measures = read_measures(world, name)
        scores[name] = {row: score_row(photos, of_seeds) for row, of_seeds in measures.items()}
        tables.append(f"{name}:\n\n{describe(scores[name])}\n")
        rows = ("blind", "mlp", "grounded", "tuned_own", "people")
        shown = {row: measures[row][0]["captions"] for row in rows if row in measures}
        with atomic_file(world.output_dir / f"captions_{name}.png") as unfinished:
            save_caption_picture(photos[:8], shown, unfinished)
    tables.append(f"{describe_words(world, photos)}\n")
    tables.append(f"{describe_training(world)}\n")
    tables.append(f"Seconds: {', '.join(f'{name} {value:.0f}' for name, value in seconds.items())}.\n")
    text = "\n".join(tables)
    results = {"scores": scores, "seconds": seconds, "settings": world.settings}
    with atomic_file(world.output_dir / "results.json") as unfinished:
        unfinished.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    with atomic_file(world.output_dir / "results.md") as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return text


def read_measures(world: PretrainedWorld, name: str) -> dict[str, list[dict]]:
    """What was measured with a language model, by row and seed; rows without an adapter have one entry."""
    found: dict[str, list[dict]] = {}
    kinds = ["measures"] if world.words_only else ["measures", "baselines"]
    of_seeds = [f"{kind}_{name}_{seed}" for kind in kinds for seed in world.adapter_seeds]
    for stage in [f"measures_{name}", *of_seeds]:
        for row, measured in read_json(world.output_dir / stage / "measures.json").items():
            found.setdefault(row, []).append(measured)
    return {row: found[row] for row in ROWS if row in found}


def score_row(photos: Sequence[CaptionedPhoto], of_seeds: Sequence[Mapping]) -> dict[str, float]:
    """The scores of a row, each the mean over its seeds, with the standard error over photos of the losses' gain."""
    references = {photo.name: photo.captions for photo in photos}
    captions = [caption_scores(measured["captions"], references) for measured in of_seeds]
    gains = torch.tensor([measured["losses_of_other"] for measured in of_seeds]).mean(0)
    gains = gains - torch.tensor([measured["losses"] for measured in of_seeds]).mean(0)  # (photos,)
    answers = [answer for measured in of_seeds for answer in measured["answers"]]
    return {
        "CIDEr": fmean(scores["CIDEr"] for scores in captions),
        "lowest": min(scores["CIDEr"] for scores in captions),
        "highest": max(scores["CIDEr"] for scores in captions),
        "BLEU-4": fmean(scores["BLEU-4"] for scores in captions),
        "loss": fmean(fmean(measured["losses"]) for measured in of_seeds),
        "gain": gains.mean().item(),
        "gain_error": (gains.std() / len(gains) ** 0.5).item(),
        "right": fmean(is_yes == says_yes for is_yes, says_yes in answers),
        "yes": fmean(says_yes for _, says_yes in answers),
        "after_examples": fmean(measured["prompt"] == "examples" for measured in of_seeds),
    }


def describe(scores: Mapping[str, Mapping[str, float]]) -> str:
    """The table of one language model."""
    columns = ["CIDEr (by seed)", "BLEU-4", "loss", "gain over another photo's", "yes/no right", "says yes"]
    lines = [f"| handed over | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for row, of_row in scores.items():
        lines.append(
            f"| {ROWS[row]} | {of_row['CIDEr']:.3f} ({of_row['lowest']:.3f}–{of_row['highest']:.3f}) | "
            f"{of_row['BLEU-4']:.3f} | {of_row['loss']:.3f} | {of_row['gain']:.3f} ({of_row['gain_error']:.3f}) | "
            f"{of_row['right']:.3f} | {of_row['yes']:.2f} |"
        )
    return "\n".join(lines)


def describe_words(world: PretrainedWorld, photos: Sequence[CaptionedPhoto]) -> str:
    """The share of the strongest words that a test photo's captions use, mean over photos and seeds."""
    used = {photo.name: {word for caption in photo.captions for word in content_words(caption)} for photo in photos}
    neighbours = read_json(world.output_dir / "neighbours" / "words.json")
    words = {ROWS["neighbours"]: [{name: neighbours[name] for name in used}]}
    for name in world.language_models:
        measures = read_measures(world, name)
        words.setdefault(ROWS["grounded"], [measured["words"] for measured in measures["grounded"]])
        words[f"grounded words, tuned through {name}"] = [measured["words"] for measured in measures["tuned_own"]]
    lines = ["| words | five | ten |", "|---|---:|---:|"]
    for label, of_seeds in words.items():
        shares = [
            fmean(word in used[name] for of_seed in of_seeds for name, found in of_seed.items() for word in found[:k])
            for k in (5, 10)
        ]
        lines.append(f"| {label} | {shares[0]:.3f} | {shares[1]:.3f} |")
    return "\n".join(lines)


def caption_loss(entry: Mapping[str, float], prefix: str = "") -> float:
    """What a log says of the captions alone, where words were predicted beside them with a weight of 1."""
    return entry[f"{prefix}loss"] - entry.get(f"{prefix}word_prediction", 0.0)


def describe_training(world: PretrainedWorld) -> str:
    """How the loss of adapters that were trained through a language model fell: whether it had flattened."""
    lines = ["| trained through | first loss | at half | last | on test photos |", "|---|---:|---:|---:|---:|"]
    names = world.language_models
    trained = [("tuned", name) for name in names]
    if not world.words_only:
        trained += [*(("mlp", name) for name in names), ("langbridge", names[0])]
    for kind, name in trained:
        logs = [read_json(world.output_dir / f"{kind}_{name}_{seed}" / "log.json") for seed in world.adapter_seeds]
        losses = [[caption_loss(entry) for entry in log["steps"] if "loss" in entry] for log in logs]
        first, half, last = (fmean(loss[place] for loss in losses) for place in (0, len(losses[0]) // 2, -1))
        test = fmean(caption_loss(log["steps"][-1], "eval_") for log in logs)
        lines.append(f"| {kind}, {name} | {first:.3f} | {half:.3f} | {last:.3f} | {test:.3f} |")
    return "\n".join(lines)
