# SPDX-License-Identifier: Apache-2.0
"""Raw coefficients learn what the language model says after words: the loss, and what changes."""

import copy

import pytest
import torch
from tiny_parts import SENTENCES, make_image
from tiny_training import OPTIONS, losses, write_samples
from torch.nn import functional as F

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor, SharedVocabulary
from trainer import LangBridgeSFTConfig
from trainer.caption_distillation import CaptionDistillationTrainer, distil_captions
from trainer.data.collator import ConversationCollator
from trainer.data.conversations import ConversationEncoder
from trainer.data.sources import load_training_data


@pytest.fixture
def rows(tmp_path):
    return load_training_data(str(write_samples(tmp_path)))


@pytest.fixture
def compose(vision, text):
    def compose(words_per_image=None, **fields):
        processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text, words_per_image=words_per_image)
        vocabulary = SharedVocabulary.build([processor.tokenizer], SENTENCES, 60)
        torch.manual_seed(0)
        model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            vision, text, vocabulary, processor, projector_hidden_size=40, **fields
        )
        for parameter in model.model.language_model.parameters():
            if parameter.ndim == 2:  # else what it says would hardly depend on the image
                torch.nn.init.normal_(parameter, std=0.2)
        return model, processor

    return compose


@pytest.fixture
def parts(compose):
    """A model with raw coefficients, and a teacher that reads five words of an image."""
    return compose(), compose(words_per_image=5, coefficient_activation="gated_softmax")


def make_trainer(parts, rows, tmp_path, **options) -> CaptionDistillationTrainer:
    (model, processor), teacher = parts
    arguments = LangBridgeSFTConfig(str(tmp_path / "output"), **{**OPTIONS, **options})
    return CaptionDistillationTrainer(model, arguments, processor, rows, teacher=teacher)


def plain_loss(parts, rows) -> torch.Tensor:
    """The divergence of the answers' tokens, from the logits of all positions."""
    said = []
    for model, processor in parts:
        batch = ConversationCollator(ConversationEncoder(processor))(rows)
        del batch["sample_ids"]
        answered = batch.pop("labels")[:, 1:] != -100
        said.append(model(**batch).logits[:, :-1][answered].log_softmax(-1))  # (targets, vocabulary)
    return F.kl_div(*said, reduction="batchmean", log_target=True)


def test_the_loss_is_the_divergence_from_what_is_said_after_words(parts, rows, tmp_path):
    rows = rows.select(range(4))
    expected = plain_loss([(copy.deepcopy(model), processor) for model, processor in parts], list(rows))
    assert expected > 0.01
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "max_steps": 1}
    trainer = make_trainer(parts, rows, tmp_path, **options)
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(expected.item(), rel=1e-3)


def test_a_teacher_that_reads_the_same_teaches_nothing(compose, rows, tmp_path):
    trainer = make_trainer((compose(), compose()), rows, tmp_path, max_steps=1)
    trainer.train()
    assert losses(trainer)[0] == pytest.approx(0, abs=1e-6)


def test_it_comes_nearer_to_its_teacher_by_its_adapter_alone(parts, rows, tmp_path):
    (model, _), (teacher, _) = parts
    before = [{name: tensor.clone() for name, tensor in one.state_dict().items()} for one in (model, teacher)]
    first = plain_loss(parts, list(rows)).item()
    make_trainer(parts, rows, tmp_path, max_steps=40, learning_rate=1e-2).train()
    assert plain_loss(parts, list(rows)).item() < 0.95 * first
    for one, its in zip((model, teacher), before, strict=True):
        changed = {name for name, tensor in one.state_dict().items() if not tensor.equal(its[name])}
        assert all("projector" in name or "vocabulary_head" in name for name in changed)
        assert bool(changed) == (one is model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_captions_of_images_alone_are_learnt_and_the_dtype_stays(parts, tmp_path, dtype):
    for model, _ in parts:
        model.to(dtype).eval()
    (model, processor), teacher = parts
    images = [make_image(colour, (40, 30 + 5 * i)) for i, colour in enumerate(["red", "blue", "green", "black"])]
    before = model.model.vocabulary_head.weight.clone()
    arguments = LangBridgeSFTConfig(str(tmp_path / "output"), **{**OPTIONS, "max_steps": 2})
    assert distil_captions(model, processor, teacher, images, arguments, "what is in the picture?") > 0
    assert not model.training and {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert not model.model.vocabulary_head.weight.equal(before)


def test_a_loss_that_is_no_number_stops_and_names_the_samples(parts, rows, tmp_path):
    with torch.no_grad():
        parts[0][0].model.vocabulary_head.weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="The loss is nan in step 1, on the samples sample-"):
        make_trainer(parts, rows, tmp_path, max_steps=1).train()
