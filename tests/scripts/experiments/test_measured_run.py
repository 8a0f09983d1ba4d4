# SPDX-License-Identifier: Apache-2.0
"""Real training steps that are measured: their real tokens, their products, and memory that is the model's alone."""

import argparse
import json
from pathlib import Path

import pytest
from tiny_training import write_samples
from transformers import Trainer

from experiments.benchmarks import step_memory
from experiments.benchmarks.held_memory import take_out_of_files
from experiments.benchmarks.measured_run import measure, train
from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
from trainer import load_training_data
from trainer.data.conversations import ConversationEncoder
from trainer.data.sample_lengths import count_tokens
from trainer.data.sources import as_rows


@pytest.fixture
def options(saved, tmp_path):
    """Of train.py, for four steps of a tiny model."""
    return {
        "model": saved / "model",
        "dataset": write_samples(tmp_path, number=24),
        "output_dir": tmp_path / "out",
        "max_steps": 4,
        "per_device_train_batch_size": 2,
        "bf16": False,
        "save_strategy": "no",
        "report_to": "none",
    }


def test_padding_is_no_token_in_batches_and_in_bins(options, saved, tmp_path):
    encoder = ConversationEncoder(LangBridgeProcessor.from_pretrained(saved / "model"))
    lengths = count_tokens(as_rows(load_training_data(str(options["dataset"]))), encoder)["num_tokens"]
    epoch = {**options, "max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": 8}
    in_batches = train(epoch, plain=False)
    assert (len(in_batches.tokens), sum(in_batches.tokens)) == (3, sum(lengths))
    bins = {"packing": True, "max_length": 300, "per_device_train_batch_size": 1, "output_dir": tmp_path / "bins"}
    packed = train({**epoch, **bins}, plain=False)
    assert sum(packed.tokens) == sum(lengths)
    assert max(lengths) < max(packed.tokens) <= 300


def test_the_first_rung_is_transformers_own_trainer(options, monkeypatch):
    trained = []
    whole = Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda trainer: trained.append(trainer) or whole(trainer))
    steps = train(options, plain=True)
    assert len(steps.seconds) == 4
    assert steps.products.multiply_adds.total() > 0
    assert [kind.__name__ for kind in type(trained[0]).__mro__[:2]] == ["Counting", "Trainer"]


def test_weights_are_taken_out_of_the_file_that_they_are_mapped_from(saved):
    """Pages of a mapped file are not counted, so that weights must not lie there."""
    model = LangBridgeForConditionalGeneration.from_pretrained(saved / "model")
    lines = Path("/proc/self/maps").read_text(encoding="ascii").splitlines()
    mapped = [[int(end, 16) for end in line.split()[0].split("-")] for line in lines if str(saved / "model") in line]

    def in_file() -> list[str]:
        places = {name: value.data_ptr() for name, value in model.state_dict().items()}
        return [name for name, place in places.items() if any(start <= place < end for start, end in mapped)]

    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert in_file()
    take_out_of_files(model)
    assert not in_file()
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_a_tiny_model_takes_next_to_nothing(options, tmp_path):
    """What libraries, tokenizer and kernels take is there before."""
    found = measure(options, {"output_dir": tmp_path / "tiny", "max_steps": 1}, "cpu")
    assert 0 < found["memory"] < 6 * 2**20  # without a step before it 12
    assert found["tokens"] > 0
    assert found["product_time"] == {}
    assert json.loads(json.dumps(found)) == found


@pytest.mark.slow
def test_the_plan_is_within_15_percent_of_what_is_measured(data, monkeypatch):
    name = "adapter, bfloat16, checkpointing"  # the least memory, so the largest share of what is not planned
    monkeypatch.setattr(step_memory, "WAYS", {name: step_memory.WAYS[name]})
    (table,) = step_memory.answer(argparse.Namespace(shape="small", data=data, images=8, device="cpu"))
    [[_, planned, measured, _]] = table.rows
    assert planned == pytest.approx(measured, rel=0.15)
