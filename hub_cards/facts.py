# SPDX-License-Identifier: Apache-2.0
"""What a card states beside the folder's own files, in the form that the Hub takes."""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from .markdown import one_line


@dataclass(kw_only=True)
class Result:
    """
    A measured figure.

    Args:
        metric (`str`): The metric, such as `CIDEr-D`.
        value (`float` or `str`): The figure; a string where it has an uncertainty, `0.345 ± 0.015`.
        dataset (`str`): The dataset, by Hub id or by name.
        split (`str`): The split of the dataset.
        command (`str`): The command that measured it.
        date (`str`): The date of the measurement.
        machine (`str`): The machine that it ran on.
    """

    metric: str
    value: float | str
    dataset: str
    split: str
    command: str
    date: str
    machine: str


@dataclass(kw_only=True)
class CardFacts:
    """
    What a card states beside the folder's own files.

    Args:
        repo_id (`str`, *optional*): The repository that the loading code names.
        revision (`str`, *optional*): The commit that the loading code pins.
        base_models (`list[str]`, *optional*):
            Hub ids of the base models. Those that the folder's files name when left out; an empty list means that
            there are none to name.
        datasets (`list[str]`): Hub ids of the training data. Those of the training record when left out.
        license (`str`, *optional*): The Hub's id of the licence, such as `apache-2.0`.
        language (`list[str]`): ISO 639 codes, such as `en`.
        tags (`list[str]`): Further tags.
        results (`list[Result]`): Measured figures.
        evaluations (`list[Path]`):
            Folders of scripts/evaluate.py, whose `.eval_results/*.yaml` are published and shown like the folder's own.
        transfers (`list[str]`): Hub ids of language models that the adapter is known to work with.
    """

    repo_id: str | None = None
    revision: str | None = None
    base_models: list[str] | None = None
    datasets: list[str] = field(default_factory=list)
    license: str | None = None
    language: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    evaluations: list[Path] = field(default_factory=list)
    transfers: list[str] = field(default_factory=list)


def check_facts(facts: CardFacts) -> None:
    """Raises `ValueError` for the first fact that does not have the form that the Hub takes."""
    if facts.repo_id is not None:
        require_repo_id(facts.repo_id)
    for name in [*(facts.base_models or []), *facts.datasets, *facts.transfers]:
        require_repo_id(name)
        if Path(name).exists():
            raise ValueError(f"{name} is a path on this machine: give the Hub id that it came from.")
    if facts.revision is not None and not re.fullmatch(r"[\w./-]+", facts.revision):
        raise ValueError(f"The revision {facts.revision!r} is not valid: give a commit hash, a branch or a tag.")
    if facts.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", facts.license):
        raise ValueError(
            f"The licence {facts.license!r} is not one of the Hub's: give its id in lower case, such as apache-2.0."
        )
    for language in facts.language:
        if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|code|multilingual", language):
            raise ValueError(f"The language {language!r} is not a code: give one of ISO 639, such as en.")
    for result in facts.results:
        for name, value in vars(result).items():
            if isinstance(value, str) and value.strip():
                continue
            if name != "value" or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(f"The `{name}` of a result is {value!r}: every field of a result must have a value.")


def require_repo_id(name: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"{name!r} is not a valid Hub id ({one_line(str(error))}).") from None
