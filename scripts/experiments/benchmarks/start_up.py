# SPDX-License-Identifier: Apache-2.0
"""What one waits for before anything happens: imports, `--help`, a checkpoint that opens, words that are looked up.

Each is a process of its own, in turn.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from .measuring import measure
from .models import make_langbridge, make_llava
from .shapes import Shapes
from .tables import Table, compare


SCRIPTS = Path(__file__).parents[2]
OPEN = "from transformers import AutoModelForImageTextToText as A; A.from_pretrained({!r}, trust_remote_code=True)"
MATCH = """
from transformers import AutoTokenizer
from modeling_langbridge import SharedVocabulary
tokenizer, vocabulary = AutoTokenizer.from_pretrained({!r}), SharedVocabulary.qwen2_llama3({})
vocabulary.token_ids(tokenizer, split_words="mean")
"""


def answer(arguments: argparse.Namespace) -> list[Table]:
    imports = {
        "transformers' LLaVA": "from transformers import LlavaForConditionalGeneration",
        "modeling_langbridge": "import modeling_langbridge",
        "TRL's SFTTrainer": "from trl import SFTTrainer",
        "LangBridgeSFTTrainer": "from trainer import LangBridgeSFTTrainer",
    }
    helps = {path.name: [str(path), "--help"] for path in sorted(SCRIPTS.glob("*.py")) if path.stem != "langbridge"}
    tables = [compare_commands("Imports", {name: ["-c", code] for name, code in imports.items()}, arguments)]
    tables.append(compare_commands("--help", helps, arguments))
    with tempfile.TemporaryDirectory() as folder:
        opens = save_checkpoints(Shapes(arguments.scale), Path(folder))
        tables.append(compare_commands("Opening a checkpoint, imports included", opens, arguments))
    if arguments.tokenizer is not None:
        words = {f"{words:,} words": ["-c", MATCH.format(arguments.tokenizer, words)] for words in (1, 19200)}
        tables.append(compare_commands("Finding words in a tokenizer, imports included", words, arguments))
    return tables


def save_checkpoints(shapes: Shapes, folder: Path) -> dict[str, list[str]]:
    """The commands that open a LLaVA and a LangBridge of the same parts."""
    langbridge = make_langbridge(shapes)
    commands = {}
    for name, model in {"LLaVA": make_llava(shapes, langbridge), "LangBridge": langbridge}.items():
        model.save_pretrained(folder / name)
        size = (folder / name / "model.safetensors").stat().st_size / 2**30
        commands[f"{name}, {size:.2f} GiB"] = ["-c", OPEN.format(str(folder / name))]
    return commands


def compare_commands(title: str, commands: dict[str, list[str]], arguments: argparse.Namespace) -> Table:
    return compare(title, measure({name: make_run(command) for name, command in commands.items()}, arguments.rounds))


def make_run(command: list[str]) -> Callable[[], None]:
    def run() -> None:
        subprocess.run([sys.executable, *command], check=True, capture_output=True)

    return run
