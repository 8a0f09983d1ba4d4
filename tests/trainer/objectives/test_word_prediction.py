# SPDX-License-Identifier: Apache-2.0
"""Word prediction beside the caption loss: added by its weight, exact under accumulation and in several processes."""

import pytest
import torch
from tiny_parts import SENTENCES
from tiny_training import as_saved, make_trainer, write_samples

from modeling_langbridge import LangBridgeForConditionalGeneration, SharedVocabulary
from trainer import load_training_data
from trainer.data.caption_words import caption_of
from trainer.objectives.word_prediction import word_prediction_loss


@pytest.fixture
def dataset(tmp_path):
    return load_training_data(str(write_samples(tmp_path)))


@pytest.fixture
def compose(vision, text, processor):
    def compose(activation: str = "gated_softmax") -> LangBridgeForConditionalGeneration:
        torch.manual_seed(0)
        vocabulary = SharedVocabulary.build([processor.tokenizer], SENTENCES, 60)
        return LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            vision, text, vocabulary, processor, projector_hidden_size=40, coefficient_activation=activation
        )

    return compose


def logged(trainer, name: str) -> list[float]:
    return [float(entry[name]) for entry in trainer.state.log_history if name in entry]


def test_the_loss_is_the_caption_loss_and_the_weighted_words(compose, processor, dataset, tmp_path):
    options = {"max_steps": 1, "per_device_train_batch_size": 12}
    plain = make_trainer(compose(), processor, dataset, tmp_path / "plain", **options)
    plain.train()
    with_words = make_trainer(compose(), processor, dataset, tmp_path / "words", word_prediction_weight=2.0, **options)
    with_words.train()
    (loss,), (prediction,), (entropy,) = (logged(with_words, n) for n in ("loss", "word_prediction", "word_entropy"))
    assert loss == pytest.approx(logged(plain, "loss")[0] + 2 * prediction, abs=2e-3)

    model, (objective,) = compose(), with_words.objectives
    rows = [row for row in dataset if row["images"]]
    batch = with_words.data_collator(rows)
    coefficients = model.get_image_coefficients(batch["pixel_values"])  # gated, (images, tokens, V)
    pooled = coefficients.sum(1) / coefficients.sum((1, 2))[:, None]
    assert prediction == pytest.approx(word_prediction_loss(pooled, objective.targets(rows)).item(), abs=1e-3)
    gates = coefficients.sum(-1)  # (images, tokens)
    softmax = coefficients / gates[..., None]
    expected = -(gates * (softmax * softmax.log()).sum(-1)).sum(1) / gates.sum(1)  # (images,)
    assert entropy == pytest.approx(expected.mean().item(), abs=1e-3)


def test_accumulated_batches_learn_what_one_batch_learns(compose, processor, dataset, tmp_path):
    trainers = []
    for number, accumulation in ((12, 1), (3, 4)):
        trainer = make_trainer(
            compose(),
            processor,
            dataset,
            tmp_path / str(number),
            max_steps=3,
            per_device_train_batch_size=number,
            gradient_accumulation_steps=accumulation,
            word_prediction_weight=1.0,
        )
        trainer.train()
        trainers.append(trainer)
    for name in ("loss", "word_prediction", "word_entropy"):
        assert logged(trainers[0], name) == pytest.approx(logged(trainers[1], name), abs=2e-3)
    for one, other in zip(*(trainer.model.parameters() for trainer in trainers), strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


def test_words_are_learnt_beside_captions(compose, processor, dataset, tmp_path):
    trainer = make_trainer(
        compose(), processor, dataset, tmp_path / "out", max_steps=30, word_prediction_weight=1.0, learning_rate=0.01
    )
    trainer.train()
    course = logged(trainer, "word_prediction")
    assert sum(course[-4:]) / 4 < sum(course[:4]) / 4 - 0.3


def test_label_smoothing_does_not_stop_the_projector_from_learning_words(compose, processor, dataset, tmp_path):
    """With it, TRL follows a training step's forward pass by one without gradients."""
    trainer = make_trainer(compose(), processor, dataset, tmp_path / "out", word_prediction_weight=1.0)
    model = trainer.model.train()
    batch = trainer.data_collator(list(dataset))
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    model(**inputs)
    with torch.no_grad():
        model(**inputs)
    (objective,) = trainer.objectives
    objective.sums(model, batch[objective.name], trainer.accelerator)["loss"].backward()
    assert model.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0


def test_text_alone_and_lora_train_with_words_too(compose, processor, tmp_path):
    dataset = load_training_data(str(write_samples(tmp_path, text_only=lambda index: index >= 6)))
    trainer = make_trainer(
        as_saved(compose(), processor, tmp_path / "base"),
        processor,
        dataset,
        tmp_path / "out",
        max_steps=4,
        train_sampling_strategy="sequential",
        train_language_model="lora",
        word_prediction_weight=1.0,
    )
    trainer.train()
    assert all(value > 0 for value in logged(trainer, "word_prediction")[:2])
    assert logged(trainer, "word_prediction")[2:] == [0, 0]  # the batches of text alone


def test_evaluation_reports_the_words_too(compose, processor, dataset, tmp_path):
    trainer = make_trainer(compose(), processor, dataset, tmp_path / "out", word_prediction_weight=1.0)
    metrics = trainer.evaluate(dataset)
    assert metrics["eval_loss"] > metrics["eval_word_prediction"] > 0


def test_captions_are_all_that_the_assistant_says(dataset):
    row = next(row for row in dataset if len(row["messages"]) == 4)
    assert caption_of(row) == "a red ball on the grass near the dog"


@pytest.mark.parametrize(
    ("activation", "streaming", "message"),
    [("linear", False, "needs a softmax adapter"), ("gated_softmax", True, "leave `streaming` out")],
)
def test_what_cannot_be_is_refused(compose, processor, tmp_path, activation, streaming, message):
    dataset = load_training_data(str(write_samples(tmp_path)), streaming=streaming)
    with pytest.raises(ValueError, match=message):
        make_trainer(
            compose(activation), processor, dataset, tmp_path / "out", max_steps=1, word_prediction_weight=1.0
        )
