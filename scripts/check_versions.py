# SPDX-License-Identifier: Apache-2.0
r"""
With which versions of transformers a saved checkpoint works: one table.

    python scripts/check_versions.py
    python scripts/check_versions.py --oldest 5.20

The installed version saves a tiny random model. Then the newest patch of each minor version on the package index loads
it with trust_remote_code, without this project, and must give the same logits, tokens and losses of three training
steps; and this package must join, save and load models with it. Each version has an environment of its own, which
shares torch and all else that transformers does not ask for with the one that runs this. It takes 0.1 GB and stays for
the next time. What was tried is not tried again after Ctrl-C, unless code has changed. transformers' Trainer takes the
training steps: TRL fits few versions of transformers at a time.
"""

import argparse
import hashlib
import json
import platform
from datetime import date
from pathlib import Path

from trainer.command_line import HelpFormatter, run_script


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "--output_dir",
        type=Path,
        default=Path("compat_output"),
        help="holds the environments, and for each state of the code the checkpoint and table.md",
    )
    parser.add_argument(
        "--oldest",
        metavar="VERSION",
        default=argparse.SUPPRESS,
        help="the oldest version to try (default: the oldest that a checkpoint accepts)",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="also write hub_cards/tested_versions.json, whose range model cards print",
    )
    parser.add_argument("--machine", default=platform.machine(), help="for the record: what it runs on, in words")
    arguments = parser.parse_args()
    import torch
    import transformers
    from packaging.version import InvalidVersion, Version

    from experiments.versions.checkpoint import save_checkpoint
    from experiments.versions.environments import list_versions, make_environment
    from experiments.versions.trial import PROJECT, try_version, use_checkpoint
    from hub_cards.tested_versions import VersionResult, VersionTable, hash_code
    from modeling_langbridge.configuration_langbridge import OLDEST_TRANSFORMERS
    from modeling_langbridge.utils.files import atomic_file

    try:
        oldest = Version(arguments.oldest if "oldest" in arguments else OLDEST_TRANSFORMERS)
    except InvalidVersion:
        parser.error(f"--oldest {arguments.oldest} is no version: give one such as {OLDEST_TRANSFORMERS}.")
    output_dir = arguments.output_dir.resolve()
    environments = output_dir / "environments"
    code = hash_code(PROJECT / "modeling_langbridge")
    trial = output_dir / f"trial_{hash_trial(PROJECT, torch.__version__, transformers.__version__)}"
    installed = Version(transformers.__version__)
    versions = sorted({*list_versions(oldest), installed})
    if not (trial / "model").is_dir():
        save_checkpoint(trial / "model")
    expected, failure = use_checkpoint(make_environment(environments, installed), trial / "model")
    if failure:
        raise ValueError(f"Already with transformers {installed}, which saved the checkpoint: {failure}")
    rows = []
    for version in versions:
        row_file = trial / f"{version}.json"
        if not row_file.is_file():
            try:
                row = try_version(make_environment(environments, version), version, trial / "model", expected)
            except OSError as error:
                row = VersionResult(transformers=str(version), reason=str(error))
            with atomic_file(row_file) as unfinished:
                unfinished.write_text(json.dumps(vars(row)))
        rows.append(VersionResult(**json.loads(row_file.read_text())))
        print(f"{len(rows)} of {len(versions)}: {version} {rows[-1].reason or 'works'}", flush=True)
    tested = VersionTable(
        code=code,
        saved_with=str(installed),
        torch=torch.__version__,
        date=date.today().isoformat(),
        machine=arguments.machine,
        versions=rows,
    )
    with atomic_file(trial / "table.md") as unfinished:
        unfinished.write_text(tested.to_markdown())
    print(f"\n{tested.to_markdown()}\nThe table is {trial / 'table.md'}.")
    if arguments.record:
        tested.save()
    return 0 if all(row.works for row in rows) else 1


def hash_trial(project: Path, *versions: str) -> str:
    """Names what a trial depends on, this package's code above all."""
    found = hashlib.sha256(" ".join(versions).encode())
    programs = Path(__file__).with_name("experiments") / "versions"
    tried = [*(project / "modeling_langbridge").rglob("*.py"), *programs.glob("*.py")]
    for path in sorted(tried):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


if __name__ == "__main__":
    run_script(main, interrupted="Interrupted: the versions that were tried are kept, the same command goes on.")
