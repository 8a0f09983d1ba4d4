# SPDX-License-Identifier: Apache-2.0
"""A simulated training step holds and multiplies what a real one of the same options does."""

import json
from pathlib import Path

import pytest
import torch
from tiny_parts import make_image
from tiny_training import OPTIONS, as_saved, make_trainer, save_langbridge
from transformers import TrainerCallback

from modeling_langbridge import LangBridgeNextForConditionalGeneration, LangBridgeNextProcessor
from trainer import LangBridgeSFTConfig, load_training_data
from trainer.model_loading import ModelArguments
from trainer.parts import count_parameters
from trainer.planning.counted_products import CountedProducts
from trainer.planning.described_run import CONTEXT, DescribedRun
from trainer.planning.live_memory import COPIES, WEIGHTS, LiveMemory
from trainer.planning.simulated_step import GRADIENTS, OPTIMIZER, TOWER


BATCH = 8
CHECKPOINTING = {"activation_checkpointing": True}
FULL, LORA = {"train_language_model": "full"}, {"train_language_model": "lora"}
RUNS = {
    "adapter": {},
    "adapter, checkpointing": CHECKPOINTING,
    "adapter, bfloat16": {"bf16": True},
    "full": FULL,
    "full with the tower, checkpointing": {**FULL, **CHECKPOINTING, "train_vision_tower": "full"},
    "full, bfloat16": {**FULL, "bf16": True},
    "full, accumulated": {**FULL, "gradient_accumulation_steps": 2},
    "LoRA": LORA,
    "LoRA, bfloat16, checkpointing": {**LORA, **CHECKPOINTING, "bf16": True},
}


class LastStep(TrainerCallback):
    """Watches a run's last step, beginning with what lives before."""

    def __init__(self):
        self.memory, self.products = LiveMemory(), CountedProducts()

    def on_step_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        if state.global_step == args.max_steps - 1:
            self.memory.track([*model.parameters(), *model.buffers()], WEIGHTS)
            for values in optimizer.state.values():
                self.memory.track((value for value in values.values() if isinstance(value, torch.Tensor)), OPTIMIZER)
            self.memory.__enter__()
            self.products.__enter__()

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == args.max_steps:
            self.products.__exit__(None, None, None)
            self.memory.__exit__(None, None, None)


@pytest.fixture
def dataset(tmp_path):
    """Samples of one length, with a picture each."""
    make_image().save(tmp_path / "picture.png")
    turns = [{"from": "human", "value": "<image>\nwhat?"}, {"from": "gpt", "value": "a brown dog runs " * 8}]
    samples = [{"image": "picture.png", "conversations": turns}] * BATCH * 4
    (tmp_path / "samples.json").write_text(json.dumps(samples))
    return load_training_data(str(tmp_path / "samples.json"))


def describe(
    folder: Path,
    options: dict,
    text_tokens: int,
    answer_tokens: int | None = None,
    images: int = 1,
    on_gpu: bool = False,
    **model_options,
) -> DescribedRun:
    config = LangBridgeSFTConfig(output_dir="out", **{**OPTIONS, "per_device_train_batch_size": BATCH, **options})
    model = ModelArguments(model=str(folder), **model_options)
    return DescribedRun(model, config, text_tokens, answer_tokens, images, on_gpu)


@pytest.mark.parametrize("name", RUNS)
def test_it_is_as_a_real_step(dataset, model, processor, tmp_path, name):
    step, options = LastStep(), {**RUNS[name], "per_device_train_batch_size": BATCH, "max_steps": 2}
    model = as_saved(model, processor, tmp_path / "model")
    trainer = make_trainer(model, processor, dataset, tmp_path / "out", callbacks=[step], **options)
    labels = trainer.data_collator([dataset[0]])["labels"]
    tokens = labels.numel() - processor.num_image_tokens, int((labels != -100).sum())
    trainer.train()
    cost = describe(tmp_path / "model", RUNS[name], *tokens).cost(BATCH)
    assert cost.memory.total() == pytest.approx(step.memory.most, rel=0.03)
    assert dict(cost.multiply_adds) == pytest.approx(dict(step.products.multiply_adds), rel=1e-6)


def test_weights_gradients_and_moments_are_those_of_the_parameters(saved):
    run = describe(saved / "model", {**FULL, "gradient_accumulation_steps": 2}, text_tokens=1)
    _, trained = count_parameters(run.training.model)
    memory = run.cost(1).memory
    assert memory[GRADIENTS] == 4 * trained.total()
    assert memory[OPTIMIZER] == pytest.approx(8 * trained.total(), rel=0.01)  # and a number of steps each
    held = [*run.training.model.parameters(), *run.training.model.buffers()]
    assert memory[WEIGHTS] == sum(tensor.nbytes for tensor in held)


def test_memory_grows_with_the_batch_and_a_frozen_tower_keeps_nothing(saved):
    run = describe(saved / "model", {}, text_tokens=40)
    sizes = [run.memory(batch) for batch in (4, 8, 16)]
    assert sizes[2] - sizes[1] == pytest.approx(2 * (sizes[1] - sizes[0]), rel=0.05)
    assert TOWER not in +run.cost(16).memory
    assert run.training.config.train_vision_tower == "frozen"
    trained = describe(saved / "model", {"train_vision_tower": "full"}, text_tokens=40)
    assert trained.cost(16).memory[TOWER] > 0


def test_frozen_float32_weights_are_cast_anew_in_bfloat16_runs_and_bfloat16_ones_are_not(saved):
    in_float32 = describe(saved / "model", {"bf16": True}, text_tokens=40)
    in_bfloat16 = describe(saved / "model", {"bf16": True}, text_tokens=40, dtype="bfloat16")
    adapter = sum(parameter.numel() for parameter in in_float32.training.trained)
    assert in_float32.cost(8).memory[COPIES] > 2 * adapter
    assert in_bfloat16.cost(8).memory[COPIES] <= 2 * adapter
    assert in_bfloat16.cost(8).memory[WEIGHTS] < in_float32.cost(8).memory[WEIGHTS]


def test_a_gpu_takes_less_for_the_loss_and_some_for_itself(saved):
    on_cpu = describe(saved / "model", {"bf16": True}, text_tokens=40)
    on_gpu = describe(saved / "model", {"bf16": True}, text_tokens=40, on_gpu=True)
    assert on_gpu.cost(8).memory.total() < on_cpu.cost(8).memory.total()
    assert on_gpu.memory(8) == on_gpu.cost(8).memory.total() + CONTEXT
    assert set(on_gpu.cost(8).multiply_adds) == {torch.bfloat16}


def test_four_bits_take_a_quarter_of_sixteen(saved):
    pytest.importorskip("bitsandbytes")
    options = {**LORA, "bf16": True}
    plain = describe(saved / "model", options, text_tokens=8, dtype="bfloat16")
    packed = describe(saved / "model", options, text_tokens=8, dtype="bfloat16", load_in_4bit=True)
    layers = sum(
        module.in_features * module.out_features
        for name, module in plain.training.bare.named_modules()
        if "language_model" in name and name.endswith("base_layer")
    )
    saved_bytes = plain.cost(2).memory[WEIGHTS] - packed.cost(2).memory[WEIGHTS]
    assert saved_bytes == pytest.approx(layers * (2 - 0.5 - 4 / 64), rel=0.05)
    assert count_parameters(packed.training.model) == count_parameters(plain.training.model)


def test_several_images_count(saved):
    one = describe(saved / "model", {}, text_tokens=40)
    two = describe(saved / "model", {}, text_tokens=40, images=2)
    assert two.sample_tokens == one.sample_tokens + one.image_tokens
    assert two.cost(4).memory.total() > one.cost(4).memory.total()


def test_images_in_tiles_are_planned(vision, text, tmp_path):
    processor = LangBridgeNextProcessor.from_vision_text_pretrained(vision, text, image_grid_pinpoints=[[64, 64]])
    folder = save_langbridge(vision, text, processor, tmp_path / "next", LangBridgeNextForConditionalGeneration)
    run = describe(folder, {}, text_tokens=8)
    assert run.sample_tokens == 16 + 8 * 9 + 8  # the whole image, 8 rows of 8 patches and a newline, and the text
    assert run.cost(2).memory.total() > run.cost(1).memory.total()
