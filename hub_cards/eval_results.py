# SPDX-License-Identifier: Apache-2.0
"""Evaluation results in the Hub's form, `.eval_results/*.yaml`, which it shows beside the card and on leaderboards.

The form: https://huggingface.co/docs/hub/eval-results
"""

from collections.abc import Sequence
from pathlib import Path

import yaml
from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml, parse_eval_result_entries

from modeling_langbridge.utils.files import atomic_file

from .facts import require_repo_id


EVAL_RESULTS = ".eval_results"


def write_eval_results(folder: Path, name: str, entries: Sequence[EvalResultEntry]) -> Path:
    """
    Writes `.eval_results/name.yaml` into a folder, in the place of an earlier one.

    Args:
        folder (`Path`): a model's, or any other.
        name (`str`): the file's name, without its suffix.
        entries (`Sequence[EvalResultEntry]`): what was measured; their datasets by Hub id.

    Returns:
        `Path`: the file.

    Raises:
        `ValueError`: a dataset is named by something else than a Hub id.
    """
    for entry in entries:
        require_repo_id(entry.dataset_id)
    path = folder / EVAL_RESULTS / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as unfinished:
        unfinished.write_text(yaml.safe_dump(eval_result_entries_to_yaml(list(entries)), sort_keys=False))
    return path


def find_eval_results(*folders: Path) -> dict[str, Path]:
    """The `.eval_results/*.yaml` of folders, by their names in a repository; of two of one name the last."""
    paths = (path for folder in folders for path in sorted((folder / EVAL_RESULTS).glob("*.yaml")))
    return {f"{EVAL_RESULTS}/{path.name}": path for path in paths}


def read_eval_results(*folders: Path) -> list[EvalResultEntry]:
    """
    Reads the files of [`find_eval_results`]; none where there are none.

    Raises:
        `ValueError`: a file is not in the Hub's form; the message names it.
    """
    found = []
    for path in find_eval_results(*folders).values():
        try:
            entries = parse_eval_result_entries(yaml.safe_load(path.read_text(encoding="utf-8")))
            for entry in entries:
                require_repo_id(entry.dataset_id)
        except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"{path} is not in the Hub's form ({reason}): write it again, or remove it.") from error
        found += entries
    return found
