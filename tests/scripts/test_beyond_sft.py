# SPDX-License-Identifier: Apache-2.0
"""The scripts of docs/beyond_sft.md, run as they stand there: TRL's DPO and GRPO trainers take a LangBridge."""

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pandas
import pytest
import torch
from paths import ROOT
from tiny_parts import make_image
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import AutoModelForImageTextToText, CLIPVisionModel


TEXT = (ROOT / "docs" / "beyond_sft.md").read_text()
COLOURS = ["red", "blue", "green", "black"]


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


PREFERENCE, QUESTION = map(json.loads, code_blocks("json"))
DPO, GRPO = code_blocks("python")


@pytest.fixture
def checkpoint(tmp_path, monkeypatch, model, processor) -> nn.Module:
    """Where a reader stands: with photos and a checkpoint in bfloat16, as language models are published."""
    model.to(torch.bfloat16).save_pretrained(tmp_path / "my-langbridge")
    processor.save_pretrained(tmp_path / "my-langbridge")
    (tmp_path / "photos").mkdir()
    for colour in COLOURS:
        make_image(colour).save(tmp_path / "photos" / f"{colour}.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return model


@pytest.fixture
def pictures_seen(processor):
    """What reaches any vision tower: whether gradients are recorded behind it, and how often each picture is there."""
    known = {colour: processor.image_processor(make_image(colour), return_tensors="pt") for colour in COLOURS}
    seen, pictures = [], []

    def name(pixels: torch.Tensor) -> str:
        (colour,) = (c for c, image in known.items() if torch.allclose(image["pixel_values"][0], pixels, atol=0.05))
        return colour

    def note(module, arguments):
        if isinstance(module, CLIPVisionModel):
            pictures[:] = [Counter(map(name, arguments[0].float()))]
        elif type(module).__name__ == "LangBridgeMultiModalProjector":
            seen.append((torch.is_grad_enabled(), *pictures))

    handle = register_module_forward_pre_hook(note)
    yield seen
    handle.remove()


def write_rows(path: str, row: dict, **fields: Callable[[str], Any]) -> None:
    """A row of each colour, like the one that is shown to the reader but for its photo and these fields."""
    assert fields.keys() <= row.keys()
    rows = [
        row | {"images": [f"photos/{colour}.png"]} | {name: field(colour) for name, field in fields.items()}
        for colour in COLOURS
    ]
    Path(path).write_text("\n".join(map(json.dumps, rows)))


def run(script: str, steps: int = 2) -> dict[str, Any]:
    """Executes a script, whose first assignment ends in its number of steps, and returns what it defined."""
    assert script.count(", 200\n") == 1
    names = {}
    exec(script.replace(", 200\n", f", {steps}\n"), names)
    assert names["trainer"].state.global_step == steps
    return names


def trained(model: nn.Module, checkpoint: nn.Module) -> set[str]:
    """The parts of a model with LoRA, or the LoRA of parts, that differ from the checkpoint."""
    before, changed = dict(checkpoint.named_parameters()), set()
    for name, parameter in model.named_parameters():
        part = name.split(".")[1]
        if "lora_B" in name:
            changed |= {f"LoRA of {part}"} if parameter.any() else set()  # zero before training
        elif "lora_A" not in name and "original_module" not in name:
            plain = name.replace(".base_layer", "").replace(".modules_to_save.default", "")
            changed |= set() if torch.equal(parameter.float(), before[plain].float()) else {part}
    return changed


def is_loaded_again(model: nn.Module, folder: str) -> bool:
    """Whether a folder gives the model back, which it may in a less exact dtype."""
    saved = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).state_dict()
    return saved.keys() == model.state_dict().keys() and all(
        torch.equal(saved[name], tensor.to(saved[name].dtype)) for name, tensor in model.state_dict().items()
    )


def test_dpo_starts_as_its_own_reference_and_trains_lora_and_adapter(checkpoint, pictures_seen):
    write_rows(
        "preferences.jsonl", PREFERENCE, chosen=lambda colour: [{"role": "assistant", "content": f"a {colour} ball"}]
    )
    trainer = run(DPO)["trainer"]
    model, (first, *_, last) = trainer.model.get_base_model(), trainer.state.log_history

    assert trainer.ref_model is None, "a second model was loaded as the reference"
    assert first["step"] == 1 and first["loss"] == pytest.approx(math.log(2), abs=1e-3)
    assert first["grad_norm"] > 0 and math.isfinite(last["train_loss"])
    assert trained(model, checkpoint) == {"LoRA of language_model", "multi_modal_projector", "vocabulary_head"}
    weight = model.get_parameter("model.multi_modal_projector.modules_to_save.default.linear_2.weight")
    moved = weight.float() != checkpoint.model.multi_modal_projector.linear_2.weight.float()
    assert moved.float().mean() > 0.9, "in bfloat16 most steps were rounded to nothing"
    assert is_loaded_again(model, "my-langbridge-dpo")
    # Each step shows the pictures, with both answers, to the model and then to its reference.
    once = Counter(COLOURS * 2)
    assert pictures_seen == [(True, once), (False, once)] * 2


def test_grpo_rewards_answers_about_the_pictures_and_trains_lora_alone(checkpoint, pictures_seen):
    def ask_about(colour: str) -> list[dict]:
        return [{"role": "user", "content": f"Is it {colour}?"}]

    write_rows("questions.jsonl", QUESTION, prompt=ask_about, colour=str)
    names = run(GRPO)
    model, reward = names["trainer"].model.get_base_model(), names["names_the_colour"]

    log = names["trainer"].state.log_history[-1]
    assert math.isfinite(log["train_loss"]) and math.isfinite(log["reward"]) and log["reward_std"] > 0
    assert trained(model, checkpoint) == {"LoRA of language_model"}
    assert is_loaded_again(model, "my-langbridge-grpo")
    # Eight answers to each of two questions are written, in inference; then the model learns from the same.
    assert [with_gradient for with_gradient, _ in pictures_seen] == [False, True] * 2
    (written, learnt), (written_next, learnt_next) = pictures_seen[:2], pictures_seen[2:]
    assert written[1] == learnt[1] and written_next[1] == learnt_next[1] and set(written[1].values()) == {8}
    assert written[1] + written_next[1] == Counter(COLOURS * 8)
    # Each answer of the last step was paid for, by its own picture's colour.
    answers = pandas.concat(map(pandas.read_parquet, Path("my-langbridge-grpo/completions").iterdir()))
    colours = [re.search(r"Is it (\w+)\?", str(prompt))[1] for prompt in answers["prompt"]]
    assert Counter(colours) == written_next[1]
    assert answers["names_the_colour"].tolist() == pytest.approx(reward(answers["completion"].tolist(), colours))


def test_the_reward_prefers_the_right_colour_alone():
    names = {}
    exec(GRPO[GRPO.index("def names_the_colour") : GRPO.index("dataset =")], {"re": re}, names)
    answers = ["A red ball.", "a blue ball", "red blue green black", "a bored man"]
    completions = [[{"role": "assistant", "content": answer}] for answer in answers]
    right, wrong, everything, part_of_a_word = names["names_the_colour"](completions, ["red"] * 4, images=None)
    assert right > everything > wrong == part_of_a_word
