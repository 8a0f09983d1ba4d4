# SPDX-License-Identifier: Apache-2.0
"""The output layer scores answers alone, with the loss, the gradients and the metrics of scoring every position."""

import copy

import pytest
import torch
from tiny_training import make_trainer, write_samples
from torch.utils.flop_counter import FlopCounterMode

from trainer import load_training_data


class Narrowing:
    """Leaves the labels as they are, as TRL alone does."""

    def narrow(self, inputs) -> None:
        pass


@pytest.fixture
def trainer(model, processor, tmp_path):
    dataset = load_training_data(str(write_samples(tmp_path)))
    options = {"train_language_model": "full", "per_device_train_batch_size": 4}
    return make_trainer(model, processor, dataset, tmp_path / "out", **options)


def run(trainer, batch, answers: torch.Tensor | None = None) -> tuple[torch.Tensor, dict, dict, int]:
    """Loss, gradients, metrics and floating-point operations of a batch."""
    batch = copy.deepcopy(batch)
    if answers is not None:
        batch["labels"] = answers
    trainer.model.train().zero_grad()
    trainer._metrics["train"].clear()
    trainer._total_train_tokens = 0
    with FlopCounterMode(display=False) as counter:
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
    gradients = {name: p.grad for name, p in trainer.model.named_parameters() if p.grad is not None}
    return loss.detach(), gradients, dict(trainer._metrics["train"]), counter.get_total_flops()


@pytest.fixture
def batch(trainer):
    return next(iter(trainer.get_train_dataloader()))


def test_loss_gradients_and_metrics_are_those_of_all_positions(trainer, batch):
    *narrow, few = run(trainer, batch)
    trainer.answered_positions = Narrowing()
    *whole, many = run(trainer, batch)
    torch.testing.assert_close(narrow, whole)
    targets = int((batch["labels"][:, 1:] != -100).sum())
    spared = batch["labels"][:, 1:].numel() - targets
    # Each position's logits, and again in the backward pass; the counter leaves out products in place.
    assert many - few >= 2 * 2 * spared * trainer.model.lm_head.weight.numel() > 0


def test_a_batch_without_targets_gives_a_zero_through_which_gradients_flow(trainer, batch):
    loss, gradients, _, _ = run(trainer, batch, torch.full_like(batch["labels"], -100))
    assert loss == 0
    assert all(not gradient.any() for gradient in gradients.values())
    assert any("multi_modal_projector" in name for name in gradients)


def test_a_loss_with_smoothed_labels_is_that_of_the_logits(model, processor, tmp_path):
    dataset = load_training_data(str(write_samples(tmp_path)))
    trainer = make_trainer(model, processor, dataset, tmp_path / "out", label_smoothing_factor=0.1)
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        inputs = {name: value for name, value in batch.items() if name not in ("labels", "sample_ids")}
        logits = trainer.model.train()(**inputs).logits[:, :-1].flatten(0, 1)
        labels = batch["labels"][:, 1:].flatten()
        expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
        found = trainer.compute_loss(trainer.model, copy.deepcopy(batch))
    torch.testing.assert_close(found, expected)


def test_generation_after_a_step_sees_every_position(trainer, batch):
    run(trainer, batch)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    with torch.no_grad():
        logits = trainer.model.eval()(**inputs).logits
    assert logits.shape[:2] == batch["input_ids"].shape
