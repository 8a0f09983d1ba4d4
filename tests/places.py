# SPDX-License-Identifier: Apache-2.0
"""A folder of each kind, whole and broken, to be given where it does not belong: a pytest plugin of refusals."""

import json
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from refusals import assert_refused
from safetensors.torch import load_file, save_file
from tiny_parts import make_image
from tiny_training import save_langbridge

from modeling_langbridge import LangBridgeAdapter, LangBridgeForConditionalGeneration, to_llava


def spoil(folder: Path, ending: str) -> None:
    """Puts one NaN into the weight whose name ends so."""
    tensors = load_file(folder / "model.safetensors")
    next(tensor for name, tensor in tensors.items() if name.endswith(ending)).view(-1)[0] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def save_lora(base: Path, processor, folder: Path, named: str) -> None:
    """A LoRA of a checkpoint, whose folder calls its base by the name `named`."""
    model = LangBridgeForConditionalGeneration.from_pretrained(base)
    get_peft_model(model, LoraConfig(target_modules=["q_proj"])).save_pretrained(folder)
    processor.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": named}))


@pytest.fixture(scope="session")
def places(vision, text, composed, tmp_path_factory) -> dict[str, Path]:
    """The folders by their names, and `raw` and `grounded` checkpoints, `adapter`, `llava`, `tower`, `words` …"""
    root, processor = tmp_path_factory.mktemp("places"), composed[1]
    save_langbridge(vision, text, processor, root / "raw")
    save_langbridge(vision, text, processor, root / "grounded", coefficient_activation="gated_softmax")
    for kind in ("raw", "grounded"):
        model = LangBridgeForConditionalGeneration.from_pretrained(root / kind)
        LangBridgeAdapter.from_model(model, processor.tokenizer).save_pretrained(root / f"{kind}_adapter")
    mlp = root / "mlp"
    save_langbridge(vision, text, processor, mlp, adapter_type="mlp")
    for part in to_llava(LangBridgeForConditionalGeneration.from_pretrained(mlp), processor):
        part.save_pretrained(root / "llava")
    save_lora(root / "raw", processor, root / "lora", "../raw")
    save_lora(root / "raw", processor, root / "lora_of_nothing", "./gone")
    save_lora(root / "raw", processor, root / "lora_of_two", "taken")
    for name in ("raw", "llava"):
        shutil.copytree(root / name, root / f"{name}_with_nan")
        spoil(root / f"{name}_with_nan", "linear_1.weight")
    shutil.copytree(root / "raw", root / "other_code")
    (root / "other_code" / "image_opening.py").write_text("import os\n")
    shutil.copytree(root / "raw_adapter", root / "reordered")
    words = json.loads((root / "reordered" / "vocabulary.json").read_text())
    (root / "reordered" / "vocabulary.json").write_text(json.dumps([words[1], words[0], *words[2:]]))
    for folder in ("empty", "photos", "broken"):
        (root / folder).mkdir()
    for colour in ("red", "blue"):
        make_image(colour).save(root / "photos" / f"{colour}.png")
    (root / "broken" / "a.png").write_text("no picture")
    rows = [{"image": f"photos/{colour}.png", "caption": f"a {colour} ball"} for colour in ("red", "blue")]
    (root / "captions.json").write_text(json.dumps([{**row, "split": "test"} for row in rows]))
    (root / "words.json").write_text(json.dumps([" a", " dog", " ball"]))
    (root / "text.txt").write_text("a dog and a ball\n")
    (root / "nothing.txt").write_text("")
    made = {path.name.replace(".", "_"): path for path in root.iterdir()}
    return {**made, "tower": Path(vision), "language_model": Path(text)}


@pytest.fixture
def refuse(request, places, tmp_path):
    """Asserts that the test file's `SCRIPT` refuses a command line, in which `{raw}` and the like are places."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine").write_text("mine")
    (tmp_path / "file").write_text("mine")

    def refuse(arguments: str, sentence: str) -> str:
        command = [argument.format(**places) for argument in shlex.split(arguments)]
        return assert_refused(request.module.SCRIPT, command, sentence, tmp_path)

    return refuse
