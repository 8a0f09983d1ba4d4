# SPDX-License-Identifier: Apache-2.0
"""One adapter trained with several language models: they share its weights, take turns, and each adds its gradient."""

import copy

import pytest
import torch
from tiny_parts import SENTENCES, save_other_language_model
from tiny_training import OPTIONS, losses, write_samples

from modeling_langbridge import LangBridgeForConditionalGeneration, SharedVocabulary
from trainer import LangBridgeSFTConfig, LangBridgeSFTTrainer, SeveralLanguageModelsTrainer, share_adapter
from trainer.data.collator import ConversationCollator
from trainer.data.conversations import ConversationEncoder
from trainer.data.sources import load_training_data


@pytest.fixture(scope="module")
def other_text(tmp_path_factory) -> str:
    """Of another family, width and tokenizer, which splits some of the words."""
    return save_other_language_model(tmp_path_factory.mktemp("other"))


@pytest.fixture
def rows(tmp_path):
    return load_training_data(str(write_samples(tmp_path)))


@pytest.fixture
def pair(request, vision, text, processor, other_text):
    vocabulary = SharedVocabulary.build([processor.tokenizer], SENTENCES, 60)
    torch.manual_seed(0)
    activation = getattr(request, "param", "gated_softmax")
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, vocabulary, processor, projector_hidden_size=40, coefficient_activation=activation
    )
    other, other_processor = share_adapter(model, processor, other_text)
    for module in other.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # GPT-2's, by which no two runs would be alike
    return (model, processor), (other, other_processor)


def adapter_of(model) -> dict[str, torch.nn.Parameter]:
    parts = model.model.multi_modal_projector, model.model.vocabulary_head
    return {f"{place}.{name}": value for place, part in enumerate(parts) for name, value in part.named_parameters()}


def gradients(model, *losses: torch.Tensor) -> list[torch.Tensor]:
    for loss in losses:
        loss.backward()
    return [parameter.grad for parameter in adapter_of(model).values()]


def loss_of(model, processor, rows) -> torch.Tensor:
    batch = ConversationCollator(ConversationEncoder(processor))(rows)
    del batch["sample_ids"]
    return model(**batch).loss


@pytest.mark.parametrize("pair", ["linear", "gated_softmax"], indirect=True)
def test_the_gradient_of_the_shared_adapter_is_the_sum_of_what_each_alone_gives(pair, rows):
    (model, processor), (other, other_processor) = pair
    rows = list(rows)
    alone = [copy.deepcopy(one) for one in (model, other)]
    expected = [
        gradients(one, loss_of(one, its, part))
        for one, its, part in zip(alone, (processor, other_processor), (rows[:3], rows[3:6]), strict=True)
    ]
    together = gradients(model, loss_of(model, processor, rows[:3]), loss_of(other, other_processor, rows[3:6]))
    for found, first, second in zip(together, *expected, strict=True):
        assert second.abs().sum() > 0
        torch.testing.assert_close(found, first + second)


def test_each_has_the_words_under_its_own_ids_in_its_own_space(pair):
    (model, _), (other, _) = pair
    for one, another in zip(adapter_of(model).values(), adapter_of(other).values(), strict=True):
        assert one is another
    assert other.model.vision_tower is model.model.vision_tower
    assert model.model.get_word_embeddings().shape == (60, 32) and other.model.get_word_embeddings().shape == (60, 48)
    assert not other.model.vocabulary_head.token_ids.equal(model.model.vocabulary_head.token_ids)


def test_batches_take_turns_and_each_step_is_what_its_language_model_alone_would_do(pair, rows, tmp_path):
    (model, processor), (other, other_processor) = pair
    alone = [(copy.deepcopy(one), its) for one, its in pair]
    options = {**OPTIONS, "learning_rate": 0.0, "max_steps": 4, "train_sampling_strategy": "sequential"}

    def train(trainer_class, one, its, **kwargs):
        config = LangBridgeSFTConfig(output_dir=str(tmp_path / str(len(kwargs))), **options)
        trainer = trainer_class(one, config, its, rows, **kwargs)
        trainer.train()
        return losses(trainer)

    together = train(SeveralLanguageModelsTrainer, model, processor, others={"other": (other, other_processor)})
    first, second = (train(LangBridgeSFTTrainer, one, its) for one, its in alone)
    assert together == pytest.approx([first[0], second[1], first[2], second[3]], abs=1e-4)
    assert abs(first[1] - second[1]) > 1e-3


def test_a_resumed_run_goes_on_in_turn_to_the_same_weights(pair, rows, tmp_path):
    (model, processor), (other, other_processor) = pair
    start = copy.deepcopy(adapter_of(model))
    options = {"max_steps": 5, "gradient_accumulation_steps": 3, "per_device_train_batch_size": 1}
    saving = {"save_strategy": "steps", "save_steps": 3}
    config = LangBridgeSFTConfig(output_dir=str(tmp_path / "run"), **{**OPTIONS, **options, **saving})
    others = {"other": (other, other_processor)}
    SeveralLanguageModelsTrainer(model, config, processor, rows, others).train()
    expected = copy.deepcopy(adapter_of(model))
    with torch.no_grad():
        for name, parameter in adapter_of(model).items():
            assert not parameter.equal(start[name])
            parameter.zero_()
    SeveralLanguageModelsTrainer(model, config, processor, rows, others).train(
        resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-3")
    )
    for name, parameter in adapter_of(other).items():
        assert parameter.equal(expected[name])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"train_language_model": "full"}, "`train_language_model` full or lora"),
        ({"packing": True, "max_length": 64}, "`packing`"),
        ({"word_prediction_weight": 1.0}, "`word_prediction_weight`"),
        ({"assignment_prediction_weight": 1.0}, "`assignment_prediction_weight`"),
        ({"max_length": 64}, "`max_length`"),
    ],
)
def test_what_is_not_supported_is_refused(pair, rows, tmp_path, options, complaint):
    (model, processor), other = pair
    config = LangBridgeSFTConfig(output_dir=str(tmp_path), **OPTIONS, **options)
    with pytest.raises(ValueError, match=f"several language models does not support {complaint}: leave it out"):
        SeveralLanguageModelsTrainer(model, config, processor, rows, {"other": other})
