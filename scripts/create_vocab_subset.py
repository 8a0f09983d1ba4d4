# SPDX-License-Identifier: Apache-2.0
"""Writes a shared vocabulary: a part of the one that ships with LangBridge, or a new one for other tokenizers."""

import argparse
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.command_line import check_new_file, run_script
from trainer.number_arguments import at_least


if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


EPILOG = """examples:
  The 19,200 most used words that Llama 3 and Qwen2 share; the file is the same for both models:
    python scripts/create_vocab_subset.py --vocab_size 19200 --language_model llama3

  The 16,000 most used of them that another model has too:
    python scripts/create_vocab_subset.py --vocab_size 16000 --language_model mistralai/Mistral-7B-Instruct-v0.2

  A new vocabulary for a pair of models, ranked by your own captions:
    python scripts/create_vocab_subset.py --tokenizers Qwen/Qwen2.5-7B microsoft/phi-2 --texts captions/*.txt.gz \\
        --vocab_size 19200 --output vocab/qwen2.5_phi2.json
"""
SHIPPED_FOR = ("llama3", "qwen", "qwen2")  # the original's names for the two models that the shipped file is made of


def existing_file(path: str) -> Path:
    if not Path(path).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {path}")
    if not Path(path).stat().st_size:
        raise argparse.ArgumentTypeError(f"{path} is empty: give text that ranks the words")
    return Path(path)


def load_tokenizer(name: str) -> "PreTrainedTokenizerBase":
    from transformers import AutoTokenizer

    from modeling_langbridge.utils.files import first_line

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{name!r} must be a Hub id or a local folder that holds a tokenizer ({first_line(error)})."
        ) from error


def read_lines(paths: list[Path]) -> Iterator[str]:
    for path in paths:
        opener = gzip.open if path.suffix == ".gz" else open
        try:
            with opener(path, "rt", encoding="utf-8") as lines:
                yield from (line.strip() for line in lines)
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise ValueError(f"--texts {path} could not be read as UTF-8 text: {error}") from error


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--language_model",
        "--model_name",
        help="take the shipped vocabulary, for llama3, qwen, or any model by Hub id or folder: what its tokenizer has",
    )
    source.add_argument(
        "--tokenizers", nargs="+", metavar="NAME", help="build a new vocabulary that these share: Hub ids or folders"
    )
    parser.add_argument(
        "--texts",
        nargs="+",
        type=existing_file,
        metavar="FILE",
        help="with --tokenizers: the text that ranks the words, .txt or .txt.gz, one caption a line",
    )
    parser.add_argument(
        "--vocab_size", type=at_least(1), help="how many words, most used first (default: all there are)"
    )
    parser.add_argument("--output", type=Path, help="the file to write (default: vocab/{vocab_size}_{name}.json)")
    arguments = parser.parse_args()
    if bool(arguments.tokenizers) != bool(arguments.texts):
        parser.error("--tokenizers and --texts go together: the texts rank the words that the tokenizers share")
    if arguments.output is not None:
        check_new_file(arguments.output, "--output")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    from modeling_langbridge import SharedVocabulary

    names = arguments.tokenizers or [arguments.language_model]
    if arguments.tokenizers:
        tokenizers = [load_tokenizer(name) for name in names]
        vocabulary = SharedVocabulary.build(tokenizers, read_lines(arguments.texts), arguments.vocab_size)
    else:
        vocabulary = SharedVocabulary.qwen2_llama3(size=None)
        if arguments.language_model.lower() not in SHIPPED_FOR:
            vocabulary = vocabulary.restricted_to(load_tokenizer(arguments.language_model))
        if arguments.vocab_size is not None:
            vocabulary = vocabulary.first(arguments.vocab_size)
    default = Path("vocab") / f"{len(vocabulary)}_{'_'.join(Path(name).name for name in names)}.json"
    output = arguments.output or default
    check_new_file(output, "--output")
    vocabulary.save(output)
    print(f"{output}: {len(vocabulary)} words, from {vocabulary.surfaces[0]!r} to {vocabulary.surfaces[-1]!r}")


if __name__ == "__main__":
    run_script(main)
