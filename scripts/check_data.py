# SPDX-License-Identifier: Apache-2.0
"""Finds everything that is wrong with a training file before any training: broken samples and images, repeats."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.command_line import check_new_file, run_script


if TYPE_CHECKING:
    from modeling_langbridge import LangBridgeProcessor
    from trainer.data.checking import Report


EPILOG = """examples:
  python scripts/check_data.py samples.json --image_folder images

  Also the samples that are too long, and a file of the others:
    python scripts/check_data.py samples.json --image_folder images --processor my-langbridge --max_length 2048 \\
        --clean_output clean.json

The exit status is 0 when all samples are clean, 1 when there are faults, and 2 when the file cannot be read or an
option is wrong.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="a .json list, a .jsonl file, or a folder of Dataset.save_to_disk")
    parser.add_argument(
        "--image_folder", type=Path, help="what image paths are relative to (default: the file's own folder)"
    )
    parser.add_argument("--processor", help="with --max_length: the model's processor, by folder or Hub id")
    parser.add_argument(
        "--max_length", type=int, help="with --processor: more tokens, those of the images counted, are a fault"
    )
    parser.add_argument(
        "--clean_output", type=Path, help="write the rows without faults here, in the file's own format"
    )
    return parser.parse_args()


def refuse_what_cannot_work(arguments: argparse.Namespace) -> None:
    """Refuses before the images are read what would fail hours later."""
    if arguments.image_folder is not None and not arguments.image_folder.is_dir():
        raise ValueError(f"--image_folder {arguments.image_folder} is no folder.")
    if (arguments.processor is None) != (arguments.max_length is None):
        raise ValueError("--processor and --max_length go together: the one makes the tokens, the other limits them.")
    if arguments.max_length is not None and arguments.max_length < 1:
        raise ValueError(f"--max_length is {arguments.max_length}: give at least 1.")
    output = arguments.clean_output
    if output is not None:
        check_new_file(output, "--clean_output")
    if output is not None and arguments.file.is_file() and output.suffix != arguments.file.suffix:
        raise ValueError(f"--clean_output {output} must end in {arguments.file.suffix}, as {arguments.file} does.")


def load_processor(name: str) -> "LangBridgeProcessor":
    from transformers import AutoProcessor

    from modeling_langbridge import LangBridgeProcessor
    from modeling_langbridge.utils.files import first_line

    try:
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = first_line(error)
        raise ValueError(f"--processor {name} must be a Hub id or a folder with a processor ({reason})") from error
    if not isinstance(processor, LangBridgeProcessor):
        raise ValueError(f"--processor {name} holds a {type(processor).__name__}, not a LangBridgeProcessor.")
    return processor


def format_report(report: "Report") -> str:
    """The first few faults of each kind, then how many there are of each, most frequent first, and the totals."""
    lines = []
    kinds = report.counts.most_common()
    for kind, _ in kinds:
        lines.append(f"{kind}, such as")
        for fault in report.examples[kind]:
            lines.append("  " + " ".join(f"{report.place(fault.line)}: {fault.sample}: {fault.message}".split()))
        lines.append("")
    if kinds:
        width = max(len(kind) for kind, _ in kinds)
        lines += [f"{kind:<{width}}  {count:>9,}" for kind, count in kinds] + [""]
    if report.unused_fields:
        lines += [f"Fields that training does not use: {', '.join(sorted(report.unused_fields))}.", ""]
    totals = {
        "samples": report.num_samples,
        "faulty": report.num_faulty,
        "clean": report.num_clean,
        "images": report.num_images,
    }
    return "\n".join([*lines, ", ".join(f"{count:,} {what}" for what, count in totals.items())])


def main() -> int:
    arguments = parse_arguments()
    refuse_what_cannot_work(arguments)
    from trainer import check_file, write_clean_rows

    processor = None if arguments.processor is None else load_processor(arguments.processor)
    report = check_file(arguments.file, arguments.image_folder, processor, arguments.max_length)
    print(format_report(report))
    if arguments.clean_output is not None and len(report.faulty_rows) == report.num_rows:
        print(f"check_data.py: {arguments.file} has no clean sample, so there is nothing to write.", file=sys.stderr)
    elif arguments.clean_output is not None:
        write_clean_rows(report, arguments.clean_output)
        print(f"The rows without faults are in {arguments.clean_output}.")
    return 1 if report.num_faulty else 0


if __name__ == "__main__":
    run_script(main, error_status=2)
