# SPDX-License-Identifier: Apache-2.0
"""Downloads the paper's training and evaluation data into the `playground/data` layout of LLaVA and LangBridge."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.command_line import run_script


if TYPE_CHECKING:
    from trainer.data.downloading.sources import DataSet


EPILOG = """examples:
  python scripts/download_data.py --list
  python scripts/download_data.py --only pretrain,coco --output_dir playground/data
  python scripts/download_data.py --only evaluation

The same command goes on after an interruption. downloads.json in the output folder keeps the SHA-256 of every file,
and later runs compare with it. What must be done by hand is said at the end.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", help="names of --list, separated by commas; also: training, evaluation (default: everything)"
    )
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("playground/data"),
        help="the folder of all data (default: playground/data)",
    )
    parser.add_argument("--list", action="store_true", help="show names, sizes, folders and licences, fetch nothing")
    parser.add_argument("--keep_archives", action="store_true", help="keep archives after they are unpacked")
    parser.add_argument(
        "--sources",
        type=Path,
        default=Path(__file__).with_name("data_sources.yaml"),
        help="another file of addresses, such as mirrors near you (default: data_sources.yaml beside this script)",
    )
    return parser.parse_args()


def format_list(datasets: list["DataSet"]) -> str:
    """A table of data sets, and under each what it is and where its terms are."""
    lines = [f"{'name':<13} {'for':<11} {'GB':>6}  folder, file or link"]
    for dataset in datasets:
        places = [file.folder or file.path for file in dataset.files] + list(dataset.links)
        size = sum(file.size for file in dataset.files) / 1e9
        lines.append(f"{dataset.name:<13} {dataset.purpose:<11} {size:>6.2f}  {', '.join(places)}".rstrip())
        lines += [f"    {dataset.what}", f"    {dataset.licence}: {dataset.terms}"]
        if dataset.by_hand is not None:
            lines.append(f"    by hand: {dataset.by_hand}")
    return "\n".join(lines)


def main() -> None:
    arguments = parse_arguments()
    from trainer.data.downloading.sources import choose, read_sources

    datasets = choose(read_sources(arguments.sources), arguments.only)
    if arguments.list:
        print(format_list(datasets))
        return
    from trainer.data.downloading.download import download

    for line in download(datasets, arguments.output_dir, arguments.keep_archives):
        print(line, flush=True)


if __name__ == "__main__":
    run_script(main, interrupted="Interrupted: what has arrived is kept, the same command goes on from there.")
