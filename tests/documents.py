# SPDX-License-Identifier: Apache-2.0
"""What a document tells its reader to type, in order, and what comes of it."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

from in_process import run_here, run_script_here
from markdown_it import MarkdownIt
from paths import ROOT


# Needs a network, a GPU or a server, other software, a person, or the files of `$LANGBRIDGE_DATA`.
NOT_RUN = re.compile(
    r"(make|source|pip|hf|curl|vllm|transformers serve|llama-server|mkdir|mv|accelerate launch)\b"
    r"|scripts/evaluate_all\.sh "
    r"|python (-c|-m sglang|llama\.cpp/)|MODEL_ID=\S+ python hub_cards/space/app\.py|.*\$LANGBRIDGE_DATA"
    r"|python scripts/serve(_eyes)?\.py|PYTHONPATH=\S+ python -m experiments\."
    r"|python scripts/download_data\.py (?!.*--list)"
    r"|python scripts/push_to_hub\.py (?!.*--dry_run)|python scripts/chat\.py (?!.*--question)"
)


def code_blocks(document: Path) -> Iterator[tuple[str, str]]:
    """The fenced blocks of a document: language and text."""
    for token in MarkdownIt("commonmark").parse(document.read_text(encoding="utf-8")):
        if token.type == "fence":
            yield token.info, token.content


def read_commands(block: str) -> Iterator[list[str]]:
    """The words of each command of a shell block."""
    pending = ""
    for line in block.replace("\\\n", " ").splitlines():
        pending += f"{line}\n"
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quotation goes on in the next line
            continue
        pending = ""
        if words:
            yield words


def follow(document: Path, folder: Path, options: dict[str, list[str]] | None = None) -> dict[str, CompletedProcess]:
    """
    Runs a document's commands and Python code in order, in a folder, unless they are in `NOT_RUN`.

    Args:
        document (`Path`): a markdown file.
        folder (`Path`): the working folder, with what the document's reader has.
        options (`dict[str, list[str]]`, *optional*): by a part of a command, what is added to those with it.

    Returns:
        `dict[str, CompletedProcess]`: what each left, by its own text.
    """
    (folder / "scripts").symlink_to(ROOT / "scripts")
    names: dict[str, object] = {"__name__": "__main__"}  # the blocks of a document are one session
    left = {}
    for language, block in code_blocks(document):
        if language == "python":
            result = run_here(lambda: exec(compile(block, str(document), "exec"), names), ["-c"], folder)  # noqa: B023
            assert result.returncode == 0, f"{block}\n{result.stderr[-3000:]}"
            left[block] = result
        for words in read_commands(block) if language in ("shell", "bash") else ():
            command = " ".join(words)
            if NOT_RUN.match(command):
                continue
            python, script, *arguments = words
            assert python == "python" and script.startswith("scripts/"), f"{document}: what is `{command}`?"
            more = [word for part, added in (options or {}).items() if part in command for word in added]
            result = run_script_here(script, *arguments, *more, cwd=folder)
            assert result.returncode == 0, f"{command}\n{result.stderr[-3000:]}"
            left[command] = result
    return left
