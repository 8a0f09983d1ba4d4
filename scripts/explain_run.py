# SPDX-License-Identifier: Apache-2.0
"""Shows what visual tokens say as a training goes on: the words nearest to them at each checkpoint of a run."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.command_line import run_script


if TYPE_CHECKING:
    from modeling_langbridge.reading.explaining import Explanation


MOST_STAGES = 6  # what a picture and a page hold side by side
EPILOG = """examples:
  python scripts/explain_run.py --run runs/pretrain --images dog.jpg --output_dir progress
  python scripts/explain_run.py --run runs/pretrain runs/finetune --steps 100 1000 2000 \\
      --images photos --patches 3,4 5,2 --output_dir progress

The output holds progress.png, with a row a patch and a column a checkpoint, and for each image a page and its numbers.
Any adapter will do (LangBridge, mlp, linear), and checkpoints of a stock LLaVA. docs/reading_words.md says more.
"""


def parse_patch(text: str) -> tuple[int, int]:
    row, _, column = text.partition(",")
    if not (row.isdecimal() and column.isdecimal() and int(row) and int(column)):
        raise argparse.ArgumentTypeError(f"{text!r} is no patch: give its row and column from 1, such as 3,4")
    return int(row), int(column)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--run", type=Path, nargs="+", required=True, metavar="FOLDER", help="output_dir of a training, or of several"
    )
    parser.add_argument(
        "--images", type=Path, nargs="+", required=True, metavar="FILE|FOLDER", help="images, or folders of images"
    )
    parser.add_argument(
        "--output_dir", type=Path, required=True, metavar="FOLDER", help="the folder to write; it must not exist yet"
    )
    parser.add_argument(
        "--steps",
        type=int,
        nargs="+",
        metavar="STEP",
        help=f"checkpoints to show besides the last (default: all, or {MOST_STAGES} evenly spread)",
    )
    parser.add_argument(
        "--patches",
        type=parse_patch,
        nargs="+",
        metavar="ROW,COLUMN",
        help="patches in the picture (default: --num_patches of them, the nearest to words at the end)",
    )
    parser.add_argument("--num_patches", type=int, default=4, help="patches of a photo in the picture (default: 4)")
    parser.add_argument("--top", type=int, default=5, help="words listed per patch of a page (default: 5)")
    parser.add_argument(
        "--all_tokens", action="store_true", help="pieces of words, numbers and signs too, not whole words alone"
    )
    arguments = parser.parse_args()
    for option in ("num_patches", "top"):
        if (number := getattr(arguments, option)) < 1:
            raise ValueError(f"--{option} is {number}, but must be at least 1.")
    if arguments.output_dir.exists():
        raise ValueError(f"--output_dir {arguments.output_dir} exists: remove it or name another folder.")
    if len(set(arguments.run)) < len(arguments.run):
        raise ValueError("--run names a folder twice: name each run once, the earliest first.")
    return arguments


def find_stages(runs: list[Path], steps: list[int] | None) -> dict[str, Path]:
    """The folders of the stages to show, by their names: each run's complete checkpoints, and its final model."""
    from trainer.checkpointing.checkpoints import find_checkpoints

    stages: dict[str, Path] = {}
    found: set[int] = set()
    for run in runs:
        if not run.is_dir():
            raise ValueError(f"--run {run} is no folder: give the output_dir of a training.")
        checkpoints = find_checkpoints(run)
        prefix = "" if len(runs) == 1 else f"{run.name}, "
        chosen = {step: checkpoints[step] for step in checkpoints if steps is None or step in steps}
        stages |= {f"{prefix}step {step:,}": folder for step, folder in chosen.items()}
        found |= checkpoints.keys()
        if (run / "config.json").is_file() and last_step(run) not in chosen:
            stages[f"{prefix}final"] = run
    if missing := sorted(set(steps or []) - found):
        there = ", ".join(map(str, sorted(found))) or "none"
        raise ValueError(f"--steps {missing[0]} is no complete checkpoint of --run: there are {there}.")
    if len(stages) < 2:
        raise ValueError(
            f"--run {' '.join(map(str, runs))} holds {len(stages)} models to show, but their progress needs two at "
            "least: save checkpoints in training (--save_strategy steps --save_steps 100)."
        )
    if len(stages) <= MOST_STAGES:
        return stages
    if steps is not None:
        raise ValueError(f"--steps asks for {len(stages)} models with the final ones: name fewer, {MOST_STAGES} fit.")
    places = [round(place * (len(stages) - 1) / (MOST_STAGES - 1)) for place in range(MOST_STAGES)]
    return {name: folder for place, (name, folder) in enumerate(stages.items()) if place in places}


def last_step(run: Path) -> int | None:
    """At which step a run's final model was saved, where its record says so."""
    from modeling_langbridge.utils.files import read_json

    record = run / "training_record.json"
    return read_json(record)[-1]["steps"] if record.is_file() else None


def explain_stages(
    stages: dict[str, Path], images: list[Path], top: int, all_tokens: bool
) -> tuple[dict[Path, dict[str, "Explanation"]], list[str]]:
    """What each image is at each stage, and what is wrong with images that cannot be opened. One model at a time."""
    from tqdm import tqdm

    from modeling_langbridge.conversion.opening import open_any_adapter
    from modeling_langbridge.image_opening import ImageError
    from modeling_langbridge.reading.progress import choose_tokens, explain_stage

    found: dict[Path, dict[str, Explanation]] = {image: {} for image in images}
    failures: dict[Path, str] = {}
    for name, folder in tqdm(stages.items(), desc="checkpoints", unit=" checkpoints"):
        model, processor = open_any_adapter(str(folder))
        tokens = choose_tokens(processor.tokenizer, all_tokens)
        for image in images:
            if image in failures:
                continue
            try:
                found[image][name] = explain_stage(model, processor, image, tokens, top)
            except ImageError as error:
                failures[image] = str(error)
        if len(failures) == len(images):
            raise ValueError(failures[images[0]])
    found = {image: explanations for image, explanations in found.items() if image not in failures}
    for explanations in found.values():
        kinds = {tuple(view.name for view in explanation.views) for explanation in explanations.values()}
        grids = {explanation.grid for explanation in explanations.values()}
        if len(kinds) > 1 or len(grids) > 1:
            raise ValueError("The models of --run have different adapters or vision towers: name runs of the same.")
    return found, list(failures.values())


def write(folder: Path, found: dict[Path, dict[str, "Explanation"]], arguments: argparse.Namespace) -> None:
    """Writes the picture of all photos, and for each photo its page and its numbers."""
    from modeling_langbridge.reading.fonts import save_figure
    from modeling_langbridge.reading.page import render_page
    from modeling_langbridge.reading.progress_picture import choose_patches, draw_progress

    photos, patches = {}, {}
    for image, explanations in found.items():
        title = image.name.encode(errors="replace").decode()  # a file's name need not be text
        while title in photos:  # of the same name, from another folder
            title += "_"
        *_, last = explanations.values()
        rows, columns = last.grid
        for row, column in arguments.patches or []:
            if row > rows or column > columns:
                raise ValueError(f"--patches {row},{column} is outside of the photo's {rows} x {columns} patches.")
        asked = arguments.patches and [(row - 1, column - 1) for row, column in arguments.patches]
        photos[title], patches[title] = explanations, asked or choose_patches(last, arguments.num_patches)
        (folder / f"{title}.html").write_text(render_page(title, explanations), encoding="utf-8")
        stages = {name: explanation.to_dict() for name, explanation in explanations.items()}
        content = json.dumps({"image": title, "stages": stages}, ensure_ascii=False)
        (folder / f"{title}.json").write_text(content + "\n", encoding="utf-8")
    save_figure(draw_progress(photos, patches), folder / "progress.png")


def main() -> None:
    arguments = parse_arguments()
    from modeling_langbridge.utils.files import atomic_folder
    from trainer.data.images import find_images

    stages, images = find_stages(arguments.run, arguments.steps), find_images(arguments.images)
    with atomic_folder(arguments.output_dir) as unfinished:
        found, failures = explain_stages(stages, images, arguments.top, arguments.all_tokens)
        write(unfinished, found, arguments)
    for failure in failures:
        print(f"left out: {failure}", file=sys.stderr)
    print(f"{arguments.output_dir} shows {len(found)} of {len(images)} images at {', '.join(stages)}.")


if __name__ == "__main__":
    run_script(main)
