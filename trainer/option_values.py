# SPDX-License-Identifier: Apache-2.0
"""Options are checked against their types when they are parsed, in the same words from wherever they come.

Neither a command line, a recipe nor a call in Python checks a dataclass's types by itself: YAML gives a list or a bool
where the type says a number, and a default is not compared with the choices.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from numbers import Integral
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from huggingface_hub.dataclasses import type_validator


MOST_CHOICES_NAMED = 12
KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    Path: "a path",
    list: "a list",
    list[str]: "a list of text",
    dict: "a mapping",
}


@dataclass(frozen=True)
class Range:
    """
    The range of a number, as `Annotated[int, Range("of at least 1", lambda number: number >= 1)]`.

    Args:
        words (`str`): the range, said after "a number" or "a whole number".
        holds (`Callable`): whether a finite number is in it.
    """

    words: str
    holds: Callable[[float], bool]

    def admits(self, value: float | None) -> bool:
        """Whether a value is in the range; one that is left open is."""
        return value is None or (math.isfinite(value) and self.holds(value))


AT_LEAST_0 = Range("of at least 0", lambda number: number >= 0)
AT_LEAST_1 = Range("of at least 1", lambda number: number >= 1)
ABOVE_0 = Range("above 0", lambda number: number > 0)
FROM_0_TO_BELOW_1 = Range("of at least 0 and below 1", lambda number: 0 <= number < 1)
STEPS = Range("of at least 1, or -1 to go by `num_train_epochs`", lambda number: number == -1 or number >= 1)


class TrainingOptions:
    """
    The most used options of transformers' `TrainingArguments`, with their ranges; a base class in front of it.

    Annotations of a class that is no dataclass make no fields, but `get_type_hints` finds them first.
    """

    output_dir: str | None
    resume_from_checkpoint: str | None
    debug: None | str | list[str]  # open where a command line leaves it out, which transformers' type does not say
    learning_rate: Annotated[float, AT_LEAST_0]
    weight_decay: Annotated[float, AT_LEAST_0]
    warmup_steps: Annotated[float, AT_LEAST_0]
    max_grad_norm: Annotated[float, AT_LEAST_0]
    num_train_epochs: Annotated[float, ABOVE_0]
    max_steps: Annotated[int, STEPS]
    per_device_train_batch_size: Annotated[int, AT_LEAST_1]
    per_device_eval_batch_size: Annotated[int, AT_LEAST_1]
    gradient_accumulation_steps: Annotated[int, AT_LEAST_1]
    logging_steps: Annotated[float, ABOVE_0]
    save_steps: Annotated[float, ABOVE_0]
    eval_steps: Annotated[float | None, ABOVE_0]
    save_total_limit: Annotated[int | None, AT_LEAST_1]
    dataloader_num_workers: Annotated[int, AT_LEAST_0]
    label_smoothing_factor: Annotated[float, FROM_0_TO_BELOW_1]
    neftune_noise_alpha: Annotated[float | None, AT_LEAST_0]
    seed: Annotated[int, AT_LEAST_0]


def check_values(options: Any) -> None:
    """
    Compares the values of a dataclass with the types of its fields, and numbers with their ranges.

    Whole numbers serve as numbers and paths as text.

    Args:
        options: An instance of a dataclass, from its `__post_init__`.

    Raises:
        `ValueError`: names the first field whose value does not fit, and says what to give.
    """
    hints = get_type_hints(type(options), include_extras=True)
    for name in options.__dataclass_fields__:
        value, hint, ranges = getattr(options, name), hints[name], []
        if get_origin(hint) is Annotated:
            hint, *ranges = get_args(hint)
        if not fits(value, hint) or not all(allowed.admits(value) for allowed in ranges):
            words = " ".join([describe(hint, value), *(allowed.words for allowed in ranges)])
            raise ValueError(f"`{name}` is {value!r:.80}: give {words}.")


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type, as transformers' configurations check theirs."""
    readings = [value]
    if isinstance(value, Integral) and not isinstance(value, bool):
        readings = [int(value), float(value)]
    elif isinstance(value, os.PathLike):
        readings = [value, str(value)]
    named = choices_of(hint)
    if named and isinstance(value, str):
        return value in named
    for reading in readings:
        try:
            type_validator("", reading, hint)
        except TypeError:
            continue
        return True
    return False


def choices_of(hint: Any) -> list[str]:
    """The texts that a type allows where it lists them, as a `Literal` or as an enumeration beside `str`."""
    if get_origin(hint) is Literal:
        return [choice for choice in get_args(hint) if isinstance(choice, str)]
    if isinstance(hint, type):
        return [member.value for member in hint] if issubclass(hint, Enum) else []
    members = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    return [choice for member in members for choice in choices_of(member)]


def describe(hint: Any, value: Any) -> str:
    """What to give for a type, in place of a value that is not of it."""
    choices = choices_of(hint)
    if len(choices) > MOST_CHOICES_NAMED:
        near = get_close_matches(str(value), choices, n=5, cutoff=0)
        return f"one of {len(choices)} names, such as {', '.join(near)}"
    if choices:
        # YAML reads a bare `no` as false.
        quoted = ", in quotes" if value is False and "no" in choices else ""
        return " or ".join(filter(None, [", ".join(choices[:-1]), choices[-1]])) + quoted
    members = [hint] if get_origin(hint) in (None, list, dict) else get_args(hint)
    kinds = [KINDS.get(member) or KINDS.get(get_origin(member)) for member in members if member is not NoneType]
    return " or ".join(dict.fromkeys(filter(None, kinds)))
