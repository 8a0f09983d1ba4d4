# SPDX-License-Identifier: Apache-2.0
"""The Jinja templates of the cards, and filters that escape outside text for Markdown."""

import re
from pathlib import Path

import jinja2
from transformers import PreTrainedConfig

from .training_record import hub_id


def code(text: object, in_table: bool = False) -> str:
    """A code span on one line, in which Markdown and HTML have no effect."""
    text = one_line(str(text)) or "–"
    ticks = "`" * (longest_run(text) + 1)
    if in_table:
        text = text.replace("|", "\\|")  # table cells are split before code spans are parsed
    return f"{ticks} {text} {ticks}" if "`" in text else f"{ticks}{text}{ticks}"


def fenced(text: str) -> str:
    """A fenced shell code block."""
    ticks = "`" * max(3, longest_run(text) + 1)
    return f"{ticks}shell\n{text.strip()}\n{ticks}"


def link(name: str, kind: str = "") -> str:
    """A link to a model on the Hub, or with `kind="datasets/"` to a dataset; the plain name where it is no Hub id."""
    return code(name) if hub_id(name) is None else f"[{code(name)}](https://huggingface.co/{kind}{name})"


def link_dataset(name: str) -> str:
    return link(name, "datasets/")


def name_part(config: PreTrainedConfig) -> str:
    """A part of a model: its Hub id where its configuration has one, and its type."""
    of_type = f"of type {code(config.model_type)}"
    return f"{link(config._name_or_path)}, {of_type}" if hub_id(config._name_or_path) else of_type


def duration(seconds: float) -> str:
    """`3 h 5 min`, `5 min 2 s`, `1.5 s`."""
    if seconds < 60:
        return f"{seconds:.2g} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{int(seconds // 60)} min {int(seconds % 60)} s"


def one_line(text: str) -> str:
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def longest_run(text: str) -> int:
    """The length of the longest run of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)


ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,  # for templates that are included
    autoescape=False,  # markdown, not HTML
)
ENVIRONMENT.filters.update(
    code=code, duration=duration, fenced=fenced, link=link, link_dataset=link_dataset, name_part=name_part
)


def render(template: str, **context: object) -> str:
    """Fills a template and collapses runs of empty lines."""
    return re.sub(r"\n{3,}", "\n\n", ENVIRONMENT.get_template(template).render(context)).strip() + "\n"
