# Copyright 2026 The LangBridge team. All rights reserved.
#
# Licensed under the Apache License, Version 2.0 (the "License");
# you may not use this file except in compliance with the License.
# You may obtain a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS,
# WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
# See the License for the specific language governing permissions and
# limitations under the License.
"""The pretraining stage: samples in, answers as targets, the adapter alone learns, a loadable folder out."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from tiny_parts import make_image
from transformers import AutoModelForImageTextToText, AutoProcessor
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from modeling_langbridge import LangBridgeForConditionalGeneration, SharedVocabulary
from trainer import LangBridgeSFTConfig, LangBridgeSFTTrainer, load_training_data


ROOT = Path(__file__).parents[1]
ANSWERS = ["a red ball", "a blue boat", "on the grass"]


@pytest.fixture
def llava_json(tmp_path) -> Path:
    for colour in ("red", "blue"):
        make_image(colour).save(tmp_path / f"{colour}.png")
    samples = [
        {
            "id": "first",
            "image": "red.png",
            "conversations": [
                {"from": "human", "value": "<image>\nwhat is in the picture?"},
                {"from": "gpt", "value": ANSWERS[0]},
            ],
        },
        {
            "id": "second",
            "image": "blue.png",
            "conversations": [
                {"from": "human", "value": "what is it?\n<image>"},
                {"from": "gpt", "value": ANSWERS[1]},
                {"from": "human", "value": "where?"},
                {"from": "gpt", "value": ANSWERS[2]},
            ],
        },
    ]
    path = tmp_path / "samples.json"
    path.write_text(json.dumps(samples))
    return path


def train(model, processor, dataset, output_dir, **options):
    config = LangBridgeSFTConfig(
        output_dir=str(output_dir),
        use_cpu=True,
        bf16=False,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        **{"max_steps": 12, "per_device_train_batch_size": 3, "learning_rate": 0.02, "logging_steps": 1, **options},
    )
    trainer = LangBridgeSFTTrainer(model, args=config, train_dataset=dataset, processing_class=processor)
    trainer.train()
    return trainer


def test_llava_json_becomes_one_sample_for_each_answer(llava_json):
    dataset = load_training_data(str(llava_json))
    assert [row["completion"][0]["content"][0]["text"] for row in dataset] == ANSWERS
    assert [len(row["prompt"]) for row in dataset] == [1, 1, 3]
    assert [block["type"] for block in dataset[0]["prompt"][0]["content"]] == ["image", "text"]
    assert [block["type"] for block in dataset[1]["prompt"][0]["content"]] == ["text", "image"]
    assert all(Path(image).is_file() for row in dataset for image in row["images"])


def test_the_targets_are_the_answers_and_their_end_never_an_image(llava_json, processor):
    rows = list(load_training_data(str(llava_json)))
    batch = DataCollatorForVisionLanguageModeling(processor, completion_only_loss=True)(rows)
    targets = [labels[labels != -100] for labels in batch["labels"]]
    assert [processor.decode(ids) for ids in targets] == [f" {answer}<|endoftext|>" for answer in ANSWERS]
    assert (batch["input_ids"] == processor.image_token_id).sum() == 3 * 16


def test_only_the_adapter_learns_and_the_loss_falls(llava_json, model, processor, tmp_path):
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    trainer = train(
        model, processor, load_training_data(str(llava_json)), tmp_path / "out", max_steps=30, learning_rate=0.05
    )
    changed = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {name for name in before if "multi_modal_projector" in name or "vocabulary_head" in name}
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert float(losses[-1]) < float(losses[0]) - 0.02


@pytest.mark.parametrize("activation", ["softmax", "gated_softmax"])
def test_the_other_activations_train_too(llava_json, vision, text, processor, tmp_path, activation):
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor, projector_hidden_size=40, coefficient_activation=activation
    )
    trainer = train(model, processor, load_training_data(str(llava_json)), tmp_path / "out", max_steps=2)
    assert all(torch.isfinite(torch.tensor(float(e["loss"]))) for e in trainer.state.log_history if "loss" in e)


def test_a_dataset_of_messages_and_images_trains(model, processor, tmp_path):
    rows = [
        {
            "messages": [{"role": "user", "content": "what?"}, {"role": "assistant", "content": answer}],
            "images": [make_image(colour)],
        }
        for answer, colour in zip(ANSWERS, ("red", "blue", "green"), strict=True)
    ]
    Dataset.from_list(rows).save_to_disk(tmp_path / "dataset")
    dataset = load_training_data(str(tmp_path / "dataset"))
    trainer = train(model, processor, dataset, tmp_path / "out", max_steps=1)
    assert trainer.state.global_step == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda sample: sample["conversations"][0].update({"from": "alien"}), "sample first: unknown role 'alien'"),
        (lambda sample: sample.update(image=["red.png", "blue.png"]), "sample first: 1 <image> placeholders, but 2"),
    ],
)
def test_a_faulty_sample_is_named(llava_json, change, message):
    samples = json.loads(llava_json.read_text())
    change(samples[0])
    llava_json.write_text(json.dumps(samples))
    with pytest.raises(ValueError, match=message):
        load_training_data(str(llava_json))


def test_an_unreadable_image_is_named_in_training(llava_json, model, processor, tmp_path):
    image = tmp_path / "red.png"
    image.write_bytes(image.read_bytes()[:100])
    with pytest.raises(ValueError, match="red.png cannot be read"):
        train(model, processor, load_training_data(str(llava_json)), tmp_path / "out")


def test_a_maximal_length_that_would_cut_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`max_length` is 512"):
        LangBridgeSFTConfig(output_dir=str(tmp_path), max_length=512, use_cpu=True, bf16=False)


def run_script(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "train.py"), *arguments], capture_output=True, text=True, timeout=200
    )


def test_the_script_composes_trains_and_saves_a_folder_that_loads(llava_json, vision, text, tmp_path):
    vocabulary = tmp_path / "vocabulary.json"
    SharedVocabulary([" dog", " ball", " a"]).save(vocabulary)
    arguments = ["--config", str(ROOT / "scripts" / "recipes" / "tiny.yaml"), "--vision_tower", vision]
    arguments += ["--language_model", text, "--vocabulary", str(vocabulary), "--dataset", str(llava_json)]
    arguments += ["--output_dir", str(tmp_path / "out"), "--max_steps", "2"]
    result = run_script(*arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    assert AutoProcessor.from_pretrained(tmp_path / "out").image_token == "<image>"
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "out")
    assert model.config.projector_hidden_size == 256

    again = run_script(*arguments)
    assert again.returncode != 0
    assert "out is not empty" in again.stderr and "Traceback" not in again.stderr


def test_the_script_says_what_is_missing():
    result = run_script("--output_dir", "unused", "--dataset", "absent.json", "--use_cpu", "--bf16", "false")
    assert result.returncode != 0
    assert "absent.json cannot be read" in result.stderr and "Traceback" not in result.stderr
