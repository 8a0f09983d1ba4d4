# SPDX-License-Identifier: Apache-2.0
r"""
Real photos, from nothing: small language models, adapters over a frozen tower, how well they caption, and what a
change of the language model costs.

    python scripts/reproduce.py --data ../shared/data --output_dir reproduce_output

About three hours on two CPU cores, far less with --quick. Each stage leaves a folder of its own in the output
folder, whole or not at all, and a second run with the same settings goes on where the first one stopped. To do a stage
again, remove its folder and those of the stages after it. Where other work shares the cores, put
OMP_WAIT_POLICY=PASSIVE before the command: threads that wait for each other by spinning slow small models down more
than tenfold.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping
from functools import partial, update_wrapper
from pathlib import Path
from statistics import mean

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
    QUICK,
    PhotoWorld,
    Sizes,
    compute_features,
    make_tokenizers,
    train_language_model_a,
    train_language_model_b,
)
from experiments.stages import Stage, claim_output_dir, run_stages
from trainer.evaluation.caption_metrics import caption_scores, check_java


ROWS = {
    "blind": "no photo",
    "mlp": "MLP, each language model's own",
    "langbridge": "LangBridge, raw coefficients, trained with A",
    "grounded": "grounded, no language model: a token a patch",
    "grounded_words": "grounded, no language model: its strongest words",
    "tuned_words": "the same, then tuned on captions with A",
    "told": "five words of the human captions as text",
}
WITHOUT_ADAPTER = ("blind", "told")


def stages_of(world: PhotoWorld) -> list[dict[str, Stage]]:
    """The stages in their order; those in one group run side by side."""

    def stage(function, *arguments) -> Stage:
        return update_wrapper(partial(function, world, *arguments), function)

    seeds = world.adapter_seeds
    return [
        {"tokenizers": stage(make_tokenizers)},
        {"language_model_a": stage(train_language_model_a), "language_model_b": stage(train_language_model_b)},
        {"features": stage(compute_features)},
        *({f"mlp_{name}_{seed}": stage(train_mlp, name, seed) for name in "ab"} for seed in seeds),
        {f"langbridge_{seed}": stage(train_langbridge, seed) for seed in seeds},
        {f"grounded_{seed}": stage(ground, seed) for seed in seeds},
        {f"tuned_{seed}": stage(tune, seed) for seed in seeds},
        {
            "captions": stage(caption_without_adapter),
            **{f"captions_{seed}": stage(caption_with_adapters, seed) for seed in seeds},
        },
        *({f"finetuned_{start}_{seed}": stage(finetune, start, seed) for seed in seeds} for start in STARTS),
    ]


def reproduce(world: PhotoWorld) -> str:
    """Runs all stages, writes results.json, results.md, captions.png and learning_curves.png; returns the tables."""
    seconds = run_stages(world.output_dir, stages_of(world))
    photos, seeds = world.photos("test"), world.adapter_seeds
    captions = {seed: _read_json(world.output_dir / f"captions_{seed}" / "captions.json") for seed in seeds}
    for of_seed in captions.values():
        of_seed.update(_read_json(world.output_dir / "captions" / "captions.json"))
    references = {photo.name: photo.captions for photo in photos}
    scores = {
        seed: {row: caption_scores(of_row, references) for row, of_row in of_seed.items()}
        for seed, of_seed in captions.items()
    }
    curves = {
        start: [read_curve(world.output_dir / f"finetuned_{start}_{seed}") for seed in seeds] for start in STARTS
    }
    results = {"scores": scores, "curves": curves, "seconds": seconds, "settings": world.settings}
    _write_json(world.output_dir / "results.json", results)
    text = f"{describe(scores, len(photos), seconds)}\n{describe_curves(curves)}\n"
    by_start = {STARTS[start]: [curve["CIDEr"] for curve in of_seeds] for start, of_seeds in curves.items()}
    draw_curves(by_start, world.output_dir / "learning_curves.png")
    (world.output_dir / "results.md").write_text(text, encoding="utf-8")
    shown = photos[:: max(1, len(photos) // 8)][:8]
    labels = {"no photo": "blind_a", "MLP": "mlp_a", "words, A": "tuned_words_a", "words, B": "tuned_words_b"}
    chosen = {label: captions[seeds[0]][name] for label, name in labels.items()}
    save_caption_picture(shown, chosen, world.output_dir / "captions.png")
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
    found = _read_json(folder / "curve.json")
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


def _read_json(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def parse_arguments() -> PhotoWorld:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("LANGBRIDGE_DATA", "../shared/data"),
        help="holds caption_text, flickr8k and mobilenetv2_imagenet (default: $LANGBRIDGE_DATA or ../shared/data)",
    )
    parser.add_argument("--output_dir", type=Path, default=Path("reproduce_output"), help="default: reproduce_output")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that all works, not how well")
    parser.add_argument(
        "--tokenizers",
        nargs=2,
        metavar=("A", "B"),
        help="two folders of DATA/tokenizers, such as qwen2 llama3, in place of small ones trained here (wants a GPU)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of text and language models (default: 0)")
    parser.add_argument(
        "--adapter_seeds",
        type=int,
        nargs="+",
        default=[0, 1],
        help="of the adapters, each trained with each (default: 0 1)",
    )
    arguments = parser.parse_args()
    tokenizers = [f"tokenizers/{name}" for name in arguments.tokenizers or []]
    for needed in ["caption_text", "flickr8k", "mobilenetv2_imagenet", *tokenizers]:
        if not (arguments.data / needed).is_dir():
            parser.error(f"there is no folder {arguments.data / needed}: check --data and --tokenizers")
    return PhotoWorld(
        data=arguments.data.resolve(),
        output_dir=arguments.output_dir,
        sizes=QUICK if arguments.quick else Sizes(),
        tokenizers=tuple(arguments.tokenizers) if arguments.tokenizers else None,
        seed=arguments.seed,
        adapter_seeds=tuple(arguments.adapter_seeds),
    )


def main() -> None:
    world = parse_arguments()
    try:
        check_java()
        claim_output_dir(world.output_dir, world.settings)
    except (RuntimeError, FileExistsError) as error:
        sys.exit(f"error: {error}")
    print(reproduce(world))
    print(f"Table, captions and picture: {world.output_dir}")


if __name__ == "__main__":
    main()
