# SPDX-License-Identifier: Apache-2.0
r"""
LangBridge from nothing to captions, offline: a synthetic world, all models, the training, and honest numbers.

    python scripts/demo_scenes.py --output_dir demo_scenes_output

Takes four to nine minutes on two CPU cores, about one with --quick (which proves the plumbing, not the method).
Each stage leaves a folder of its own in the output folder, atomically: after Ctrl-C the same command goes on
where it stopped. The trained checkpoint is in OUTPUT_DIR/langbridge, the table in results.md, the picture in
captions.png. OUTPUT_DIR/samples holds a thousand of the training scenes as files to try other commands on.
"""

import argparse
from pathlib import Path

from trainer.command_line import run_script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output_dir", type=Path, default=Path("demo_scenes_output"), help="default: demo_scenes_output"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that all works, not how well")
    arguments = parser.parse_args()
    from experiments.synthetic.demo_stages import QUICK, Demo, Sizes, run_demo

    report = run_demo(Demo(arguments.output_dir, QUICK if arguments.quick else Sizes(), arguments.seed))
    print(f"\n{report}\nCheckpoint, captions, table and picture: {arguments.output_dir}")


if __name__ == "__main__":
    run_script(main, interrupted="Interrupted: finished stages are kept, the same command goes on from there.")
