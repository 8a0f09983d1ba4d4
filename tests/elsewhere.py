# SPDX-License-Identifier: Apache-2.0
"""Fresh processes in which neither the checkout nor an installed copy of this project can be imported."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image


HIDE_THE_PROJECT = """
import gc, sys
gc.set_threshold(10_000)  # as child_processes/sitecustomize.py, which is hidden, too
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
sys.path = [entry for entry in sys.path if "site-packages" in entry or "lib/python" in entry]
"""

LOGITS = """
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

folder, picture, question = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
content = [{"type": "image", "path": picture}, {"type": "text", "text": question}]
inputs = processor.apply_chat_template(
    [{"role": "user", "content": content}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
)
with torch.no_grad():
    torch.save(model(**inputs).logits, "logits.pt")
assert "modeling_langbridge" not in sys.modules
"""


def run_elsewhere(code: str, *arguments: str | Path, home: Path) -> subprocess.CompletedProcess:
    """Runs code, with `sys` imported, in a new folder `home` with empty caches."""
    home.mkdir()
    environment = {"HF_HOME": str(home), "HF_MODULES_CACHE": str(home / "modules"), "HF_HUB_OFFLINE": "1", "PATH": ""}
    return subprocess.run(
        [sys.executable, "-c", HIDE_THE_PROJECT + code, *map(str, arguments)],
        cwd=home,
        env={**environment, **{name: value for name, value in os.environ.items() if name.startswith("OMP_")}},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
    )


def logits_elsewhere(
    folder: Path, picture: Image.Image, home: Path, question: str = "what is in the picture?", before: str = ""
) -> torch.Tensor:
    """The logits `(1, tokens, words)` about a picture and a question, of a checkpoint that is loaded there."""
    picture.save(home.with_suffix(".png"))
    result = run_elsewhere(f"{before}\n{LOGITS}", folder, home.with_suffix(".png"), question, home=home)
    assert result.returncode == 0, result.stderr[-3000:]
    return torch.load(home / "logits.pt")
