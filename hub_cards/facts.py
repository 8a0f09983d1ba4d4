# SPDX-License-Identifier: Apache-2.0
"""What a card says that no file in the folder does, in the form that the Hub takes."""

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
    A figure that was measured.

    Args:
        metric (`str`): what was measured, such as `CIDEr-D`.
        value (`float` or `str`): the figure, a string where its uncertainty belongs to it: `0.345 ± 0.015`.
        dataset (`str`): the data, by Hub id or by name.
        split (`str`): the part of the data.
        command (`str`): what measured it.
        date (`str`): when.
        machine (`str`): on what.
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
    What a card says that no file in the folder does.

    Args:
        repo_id (`str`, *optional*): the repository, which the loading lines name.
        revision (`str`, *optional*): the commit that the loading lines pin.
        base_models (`list[str]`, *optional*):
            Hub ids of what the model was made from; when left out, those that the folder's files name. An empty list
            says that there are none to name.
        datasets (`list[str]`): Hub ids of the training data; when left out, those of the training record.
        license (`str`, *optional*): as the Hub spells it, `apache-2.0`.
        language (`list[str]`): codes, `en`.
        tags (`list[str]`): further tags.
        results (`list[Result]`): what was measured.
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
    transfers: list[str] = field(default_factory=list)


def check_facts(facts: CardFacts) -> None:
    """Raises `ValueError` for the first fact that is not of the form that the Hub takes."""
    if facts.repo_id is not None:
        require_repo_id(facts.repo_id)
    for name in [*(facts.base_models or []), *facts.datasets, *facts.transfers]:
        require_repo_id(name)
        if Path(name).exists():
            raise ValueError(f"{name} lies on this machine: give the Hub id that it came from.")
    if facts.revision is not None and not re.fullmatch(r"[\w./-]+", facts.revision):
        raise ValueError(f"The revision {facts.revision!r} is none: give a commit's hash, a branch or a tag.")
    if facts.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", facts.license):
        raise ValueError(
            f"The licence {facts.license!r} is none of the Hub's: give its id in lower case, such as apache-2.0."
        )
    for language in facts.language:
        if not re.fullmatch(r"[a-z]{2,3}(-[A-Za-z0-9]+)*|code|multilingual", language):
            raise ValueError(f"The language {language!r} is no code: give the one of ISO 639, such as en.")
    for result in facts.results:
        for name, value in vars(result).items():
            if isinstance(value, str) and value.strip():
                continue
            if name != "value" or not isinstance(value, int | float) or not math.isfinite(value):
                raise ValueError(
                    f"The `{name}` of a result is {value!r}: give what was measured, when, where and how."
                )


def require_repo_id(name: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ValueError(f"{name!r} is no name on the Hub ({one_line(str(error))}).") from None
