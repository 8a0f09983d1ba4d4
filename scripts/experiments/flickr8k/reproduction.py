# SPDX-License-Identifier: Apache-2.0
"""The reproduction on real photos: its stages in their order, and the tables and pictures that they end in."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import mean

from experiments.flickr8k.caption_distillation import distil_captions
from experiments.flickr8k.caption_report import draw_curves, save_caption_picture, score_table
from experiments.flickr8k.photo_adapters import (
    ground,
    train_langbridge,
    train_mlp,
    tune,
)
from experiments.flickr8k.photo_captions import caption_with_adapters, caption_without_adapter
from experiments.flickr8k.photo_finetuning import STARTS, finetune
from experiments.flickr8k.photo_world import (
    PhotoWorld,
    compute_features,
    make_tokenizers,
    train_language_model_a,
    train_language_model_b,
)
from experiments.stages import Stage, claim_output_dir, run_stages
from modeling_langbridge.utils.files import atomic_file, read_json
from trainer.evaluation.caption_metrics import caption_scores, check_java


ROWS = {
    "blind": "no photo",
    "mlp": "MLP, each language model's own",
    "langbridge": "LangBridge, raw coefficients, trained with A",
    "grounded": "grounded, no language model: a token a patch",
    "grounded_words": "grounded, no language model: its strongest words",
    "grounded_groups": "grounded, no language model: words of groups of like patches",
    "distilled": "grounded, made raw coefficients by the captions of each language model",
    "tuned_words": "grounded words, then tuned on captions with A",
    "told": "five words of the human captions as text",
}
WITHOUT_ADAPTER = ("blind", "told")


def stages_of(world: PhotoWorld) -> list[dict[str, Stage]]:
    """The stages in their order; those in one group run side by side."""
    stage, seeds = world.stage, world.adapter_seeds
    return [
        {"tokenizers": stage(make_tokenizers)},
        {"language_model_a": stage(train_language_model_a), "language_model_b": stage(train_language_model_b)},
        {"features": stage(compute_features)},
        *({f"mlp_{name}_{seed}": stage(train_mlp, name, seed) for name in "ab"} for seed in seeds),
        {f"langbridge_{seed}": stage(train_langbridge, "a", seed) for seed in seeds},
        {f"grounded_{seed}": stage(ground, seed) for seed in seeds},
        {f"tuned_{seed}": stage(tune, "a", seed) for seed in seeds},
        *({f"distilled_{name}_{seed}": stage(distil_captions, name, seed) for name in "ab"} for seed in seeds),
        {
            "captions": stage(caption_without_adapter),
            **{f"captions_{seed}": stage(caption_with_adapters, seed) for seed in seeds},
        },
        *({f"finetuned_{start}_{seed}": stage(finetune, start, seed) for seed in seeds} for start in STARTS),
    ]


def reproduce(world: PhotoWorld) -> str:
    """
    Runs all stages, writes results.json, results.md, captions.png and learning_curves.png; returns the tables.

    Raises:
        `FileExistsError`: the output folder is not this run's.
        `FileNotFoundError`: there is no Java, which the scores need.
    """
    check_java()
    claim_output_dir(world.output_dir, world.settings)
    seconds = run_stages(world.output_dir, stages_of(world))
    photos, seeds = world.photos("test"), world.adapter_seeds
    captions = {seed: read_json(world.output_dir / f"captions_{seed}" / "captions.json") for seed in seeds}
    for of_seed in captions.values():
        of_seed.update(read_json(world.output_dir / "captions" / "captions.json"))
    references = {photo.name: photo.captions for photo in photos}
    scores = {
        seed: {row: caption_scores(of_row, references) for row, of_row in of_seed.items()}
        for seed, of_seed in captions.items()
    }
    curves = {
        start: [read_curve(world.output_dir / f"finetuned_{start}_{seed}") for seed in seeds] for start in STARTS
    }
    results = {"scores": scores, "curves": curves, "seconds": seconds, "settings": world.settings}
    with atomic_file(world.output_dir / "results.json") as unfinished:
        unfinished.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    text = f"{describe(scores, len(photos), seconds)}\n{describe_curves(curves)}\n"
    by_start = {STARTS[start]: [curve["CIDEr"] for curve in of_seeds] for start, of_seeds in curves.items()}
    with atomic_file(world.output_dir / "learning_curves.png") as unfinished:
        draw_curves(by_start, unfinished)
    with atomic_file(world.output_dir / "results.md") as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    shown = photos[:: max(1, len(photos) // 8)][:8]
    labels = {"no photo": "blind_a", "MLP": "mlp_a", "words, A": "tuned_words_a", "words, B": "tuned_words_b"}
    chosen = {label: captions[seeds[0]][name] for label, name in labels.items()}
    with atomic_file(world.output_dir / "captions.png") as unfinished:
        save_caption_picture(shown, chosen, unfinished)
    return text


def describe(scores: dict[int, dict[str, dict[str, float]]], num_photos: int, seconds: dict[str, float]) -> str:
    """The table of means over the seeds, each seed's CIDEr, and how long the stages took."""
    columns = {f"{metric} on {name.upper()}": (metric, name) for metric in ("CIDEr", "BLEU-4") for name in "ab"}
    means = {
        label: {
            column: mean(of_seed[f"{row}_{name}"][metric] for of_seed in scores.values())
            for column, (metric, name) in columns.items()
        }
        for row, label in ROWS.items()
    }
    by_seed = {
        label: {
            f"{name.upper()}, seed {seed}": of_seed[f"{row}_{name}"]["CIDEr"]
            for name in "ab"
            for seed, of_seed in scores.items()
        }
        for row, label in ROWS.items()
        if row not in WITHOUT_ADAPTER
    }
    return (
        f"{score_table(means)}\n\nMeans over {len(scores)} seeds on {num_photos} Flickr8k test photos. "
        f"CIDEr of each:\n\n{score_table(by_seed)}\n\n"
        f"Seconds: {', '.join(f'{name} {value:.0f}' for name, value in seconds.items())}.\n"
    )


def read_curve(folder: Path) -> dict[str, dict[int, float]]:
    """Of one finetuning, CIDEr, BLEU-4 and the loss per token on the first captions, after some numbers of steps."""
    found = read_json(folder / "curve.json")
    curve = {
        metric: {int(step): at["scores"][metric] for step, at in found["curve"].items()}
        for metric in ("CIDEr", "BLEU-4")
    }
    return {**curve, "loss": {int(step): loss for step, loss in found["losses"].items() if step in found["curve"]}}


def describe_curves(curves: Mapping[str, list[dict[str, dict[int, float]]]]) -> str:
    """A table for each metric: means over the seeds after each number of steps of joint finetuning on B."""
    tables = []
    for metric in next(iter(curves.values()))[0]:
        rows = {
            STARTS[start]: {
                f"{step} steps": mean(curve[metric][step] for curve in of_seeds) for step in of_seeds[0][metric]
            }
            for start, of_seeds in curves.items()
        }
        tables.append(f"{metric} on B after joint finetuning from different starts:\n\n{score_table(rows)}\n")
    return "\n".join(tables)
