# SPDX-License-Identifier: Apache-2.0
"""Finds everything that is wrong with training data before any training: broken samples and images, repeats."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.command_line import check_new_file, run_script


if TYPE_CHECKING:
    from modeling_langbridge import LangBridgeProcessor
    from trainer.data.checking import Report

VERY_LARGE = 10**9  # transformers' sign of a tokenizer without a limit is larger

EPILOG = """examples:
  python scripts/check_data.py samples.json --image_folder images

  Also special tokens in texts, samples beyond the model's own context, and a file of the others:
    python scripts/check_data.py samples.json --image_folder images --processor my-langbridge \\
        --clean_output clean.json

The exit status is 0 when all samples are clean, 1 when there are faults, and 2 when the data cannot be read or an
option is wrong.
"""


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", help="what train.py takes: json, parquet, shards, a saved dataset, a Hub id")
    parser.add_argument(
        "--image_folder", type=Path, help="what image paths are relative to (default: a json's folder)"
    )
    parser.add_argument(
        "--dataset_split", default="train", help="the split of a dataset with several (default: train)"
    )
    parser.add_argument("--allow_image_urls", action="store_true", help="fetch images that the data name by URL")
    parser.add_argument(
        "--allow_paths_outside", action="store_true", help="read images whose paths lead out of the image folder"
    )
    parser.add_argument("--processor", help="the model's folder or Hub id: makes tokens of the samples")
    parser.add_argument(
        "--max_length",
        type=int,
        help="with --processor: more tokens, those of the images counted, are a fault (default: the model's context)",
    )
    parser.add_argument(
        "--clean_output",
        type=Path,
        help="write the rows without faults here: as .json, .jsonl or .tar what was one, else as .parquet or a folder",
    )
    return parser.parse_args()


def refuse_what_cannot_work(arguments: argparse.Namespace) -> None:
    """Refuses before the images are read what would fail hours later."""
    if arguments.image_folder is not None and not arguments.image_folder.is_dir():
        raise ValueError(f"--image_folder {arguments.image_folder} is no folder.")
    if arguments.max_length is not None and arguments.processor is None:
        raise ValueError("--max_length needs --processor, which makes the tokens.")
    if arguments.max_length is not None and arguments.max_length < 1:
        raise ValueError(f"--max_length is {arguments.max_length}: give at least 1.")
    output = arguments.clean_output
    if output is None:
        return
    check_new_file(output, "--clean_output")
    suffix = Path(arguments.dataset).suffix.lower()
    endings = [suffix] if suffix in (".json", ".jsonl", ".tar") else [".parquet", ""]
    if output.suffix.lower() not in endings:
        must = "end in .parquet or be a folder" if "" in endings else f"end in {suffix}"
        raise ValueError(f"--clean_output {output} must {must}, for {arguments.dataset}.")


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


def find_context(name: str, processor: "LangBridgeProcessor") -> int | None:
    """The most tokens that the model of a processor reads, as far as its files say."""
    from transformers import AutoConfig

    limits = [processor.tokenizer.model_max_length]
    try:
        text_config = AutoConfig.from_pretrained(name, trust_remote_code=False).get_text_config()
    except (OSError, ValueError):  # a processor alone
        pass
    else:
        limits.append(getattr(text_config, "max_position_embeddings", None))  # not all models have positions
    limits = [limit for limit in limits if limit is not None and limit < VERY_LARGE]
    return min(limits, default=None)


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

    processor, max_length = None, arguments.max_length
    if arguments.processor is not None:
        processor = load_processor(arguments.processor)
        max_length = max_length or find_context(arguments.processor, processor)
        print(f"Samples may have {max_length or 'any number of'} tokens.")
    report = check_file(
        arguments.dataset,
        arguments.image_folder,
        processor,
        max_length,
        split=arguments.dataset_split,
        allow_image_urls=arguments.allow_image_urls,
        allow_paths_outside=arguments.allow_paths_outside,
    )
    print(format_report(report))
    if arguments.clean_output is not None and len(report.faulty_rows) == report.num_rows:
        print(
            f"check_data.py: {arguments.dataset} has no clean sample, so there is nothing to write.", file=sys.stderr
        )
    elif arguments.clean_output is not None:
        write_clean_rows(report, arguments.clean_output)
        print(f"The rows without faults are in {arguments.clean_output}.")
    return 1 if report.num_faulty else 0


if __name__ == "__main__":
    run_script(main, error_status=2)
