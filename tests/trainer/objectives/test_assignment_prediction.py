# SPDX-License-Identifier: Apache-2.0
"""Assignment prediction beside the caption loss: as by hand, alike in several processes, and always a number."""

import json
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from largest_tensor import LargestTensor
from paths import ROOT
from PIL import Image
from tiny_parts import SENTENCES, save_language_model, save_other_language_model
from tiny_training import OPTIONS, as_saved, write_samples
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForImageTextToText
from transformers.integrations.neftune import neftune_post_forward_hook

from modeling_langbridge import (
    LangBridgeForConditionalGeneration,
    LangBridgeProcessor,
    SharedVocabulary,
    transfer,
)
from trainer import LangBridgeSFTConfig, LangBridgeSFTTrainer, load_training_data
from trainer.data.caption_words import caption_of
from trainer.objectives.transport import (
    assignment_prediction_loss,
    published_targets,
    transport_targets,
    word_frequencies,
)


@pytest.fixture
def dataset(tmp_path):
    return load_training_data(str(write_samples(tmp_path)))


@pytest.fixture
def vocabulary(processor) -> SharedVocabulary:
    return SharedVocabulary.build([processor.tokenizer], SENTENCES, 60)


@pytest.fixture
def compose(vision, text, processor, vocabulary):
    def compose(adapter_type: str = "linear", activation: str = "linear") -> LangBridgeForConditionalGeneration:
        torch.manual_seed(0)
        return LangBridgeForConditionalGeneration.from_vision_text_pretrained(
            vision,
            text,
            vocabulary,
            processor,
            adapter_type,
            projector_hidden_size=40,
            coefficient_activation=activation,
        )

    return compose


@pytest.fixture
def make(compose, processor, vocabulary, dataset, tmp_path):
    def make(model=None, dataset=dataset, processor=processor, vocabulary=vocabulary, **options):
        options = {**OPTIONS, "output_dir": str(tmp_path / "out"), "assignment_prediction_weight": 0.1, **options}
        config = LangBridgeSFTConfig(**options)
        return LangBridgeSFTTrainer(model or compose(), config, processor, dataset, vocabulary=vocabulary)

    return make


def logged(trainer, name: str) -> list[float]:
    return [float(entry[name]) for entry in trainer.state.log_history if name in entry]


def collate(trainer, rows) -> dict[str, torch.Tensor]:
    """What the objective makes of a batch of rows."""
    (objective,) = trainer.objectives
    return trainer.data_collator(rows)[objective.name]


def terms_of(trainer, rows) -> dict[str, torch.Tensor]:
    """Shows the model a batch of rows, and the objective's sums of it."""
    batch = trainer.data_collator(rows)
    trainer.model(**{name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")})
    (objective,) = trainer.objectives
    return objective.sums(trainer.model, batch[objective.name], Accelerator(cpu=True))


def scores_by_hand(model, processor, rows, token_ids) -> tuple[torch.Tensor, torch.Tensor]:
    """Each image's and its caption's cosines to the words, one image and one caption at a time."""
    words = model.get_input_embeddings()(token_ids)
    visual, text = [], []
    for row in rows:
        caption = processor.tokenizer(caption_of(row), return_tensors="pt").input_ids  # (1, tokens)
        state = model.model.language_model(input_ids=caption).last_hidden_state.mean(1)  # (1, d)
        pixel_values = processor.image_processor(row["images"], return_tensors="pt")["pixel_values"]
        for tokens in model.get_image_features(pixel_values).pooler_output:
            visual.append(F.cosine_similarity(tokens.mean(0)[None], words))
            text.append(F.cosine_similarity(state, words))
    return torch.stack(visual), torch.stack(text)


def frequencies_by_hand(processor, rows, token_ids, smoothing) -> torch.Tensor:
    captions = [processor.tokenizer(caption_of(row)).input_ids for row in rows if row["images"]]
    said = [token_id for caption in captions for token_id in caption]
    return word_frequencies(torch.tensor([said.count(token_id) for token_id in token_ids.tolist()]), smoothing)


def with_images_opened(rows):
    return [{**row, "images": [Image.open(path).convert("RGB") for path in row["images"]]} for row in rows]


@pytest.mark.parametrize(
    ("adapter_type", "targets"),
    [("langbridge", "transport"), ("mlp", "transport"), ("linear", "transport"), ("linear", "published")],
)
@torch.no_grad()
def test_the_loss_is_the_caption_loss_and_the_weighted_assignments(
    compose, make, processor, dataset, vocabulary, adapter_type, targets
):
    options = {"max_steps": 1, "per_device_train_batch_size": 12, "assignment_targets": targets}
    with torch.enable_grad():
        plain = make(compose(adapter_type), assignment_prediction_weight=0.0, **options)
        plain.train()
        trainer = make(compose(adapter_type), assignment_prediction_weight=0.5, **options)
        trainer.train()
    (loss,), assignment = logged(trainer, "loss"), logged(trainer, "assignment_prediction")[0]
    assert loss == pytest.approx(logged(plain, "loss")[0] + 0.5 * assignment, abs=2e-3)

    rows = [row for row in with_images_opened(dataset) if row["images"]]
    assert sum(len(row["images"]) for row in rows) > len(rows)
    token_ids = torch.tensor(vocabulary.token_ids(processor.tokenizer))
    visual, text = scores_by_hand(compose(adapter_type), processor, rows, token_ids)
    frequencies = frequencies_by_hand(processor, rows, token_ids, 1 if targets == "transport" else 0)
    targets_of = transport_targets if targets == "transport" else published_targets
    expected = assignment_prediction_loss(visual, text, targets_of(visual, frequencies), targets_of(text, frequencies))
    assert assignment == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "phi", "gpt_neox"])
@torch.no_grad()
def test_a_batchs_padding_and_dropout_change_no_caption(vision, vocabulary, make, dataset, tmp_path, name):
    text = save_language_model(name, tmp_path / name)
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, processor=processor, adapter_type="linear"
    )
    trainer = make(model, processor=processor)
    (objective,) = trainer.objectives
    rows = [row for row in dataset if row["images"]]
    _, expected = scores_by_hand(model, processor, with_images_opened(rows), objective.token_ids)
    batch = trainer.data_collator(rows)
    assert not batch[objective.name]["mask"].all()
    model.train()  # GPT-2's dropout is 0.1
    objective.visual_tokens = torch.ones(batch[objective.name]["lengths"].sum(), 32)
    _, scores = objective.scores(model, batch[objective.name], Accelerator(cpu=True))
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-4)
    assert model.model.language_model.training


def test_tokens_that_the_tokenizer_puts_around_a_caption_are_read_but_not_counted(make, processor, dataset):
    end = processor.tokenizer.eos_token, processor.tokenizer.eos_token_id
    plain = collate(make(), [dataset[0]])
    processor.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{end[0]} $A", special_tokens=[end]
    )
    batch = collate(make(), [dataset[0]])
    assert batch["input_ids"][0].tolist() == [end[1], *plain["input_ids"][0].tolist()]
    assert batch["mask"][0].tolist() == [False] + [True] * plain["mask"].shape[1]


@pytest.mark.parametrize("mode", ["frozen", "full", "lora"])
def test_only_the_adapter_learns_from_it_whatever_else_is_trained(compose, make, processor, dataset, tmp_path, mode):
    trainer = make(as_saved(compose(), processor, tmp_path / "base"), train_language_model=mode)
    model = trainer._bare_model().train()
    (objective,) = trainer.objectives
    batch = trainer.data_collator(list(dataset))
    model(**{name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")})
    objective.sums(model, batch[objective.name], Accelerator(cpu=True))["loss"].backward()
    learning = {name for name, parameter in trainer.model.named_parameters() if parameter.grad is not None}
    assert learning and all("multi_modal_projector" in name for name in learning)


def test_accumulated_batches_learn_what_one_batch_learns_where_no_image_depends_on_others(compose, make):
    trainers = []
    for number, accumulation in ((12, 1), (3, 4)):
        trainer = make(
            compose(),
            max_steps=3,
            per_device_train_batch_size=number,
            gradient_accumulation_steps=accumulation,
            assignment_targets="published",
        )
        trainer.train()
        trainers.append(trainer)
    for name in ("loss", "assignment_prediction"):
        assert logged(trainers[0], name) == pytest.approx(logged(trainers[1], name), abs=2e-3)
    for one, other in zip(*(trainer.model.parameters() for trainer in trainers), strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("targets", ["transport", "published"])
def test_it_is_learnt_beside_captions(compose, make, targets):
    courses = []
    for weight in (1.0, 1e-6):
        trainer = make(compose(), max_steps=30, assignment_targets=targets, assignment_prediction_weight=weight)
        trainer.train()
        courses.append(logged(trainer, "assignment_prediction"))
    learnt, watched = (sum(course[-4:]) / 4 for course in courses)
    assert courses[0][0] == courses[1][0] and learnt < watched - 1


def test_both_objectives_run_together(compose, make):
    options = {"max_steps": 1, "per_device_train_batch_size": 12, "word_prediction_weight": 2.0}
    alone = make(compose("langbridge", "gated_softmax"), **{**options, "assignment_prediction_weight": 0.0})
    alone.train()
    both = make(compose("langbridge", "gated_softmax"), **options)
    both.train()
    assert logged(both, "word_prediction")[0] == pytest.approx(logged(alone, "word_prediction")[0], abs=1e-3)
    expected = logged(alone, "loss")[0] + 0.1 * logged(both, "assignment_prediction")[0]
    assert logged(both, "loss")[0] == pytest.approx(expected, abs=2e-3)


def test_evaluation_reports_the_mean_over_a_batchs_images(compose, make, dataset):
    trainer = make(assignment_prediction_weight=1.0, per_device_eval_batch_size=12)
    metrics = trainer.evaluate(dataset)
    images = sum(len(row["images"]) for row in dataset)
    expected = terms_of(trainer, list(dataset))["loss"].item() / images
    assert metrics["eval_assignment_prediction"] == pytest.approx(expected, rel=1e-4)
    plain = make(compose(), assignment_prediction_weight=0.0, per_device_eval_batch_size=12).evaluate(dataset)
    assert metrics["eval_loss"] == pytest.approx(plain["eval_loss"] + expected, rel=1e-4)


def test_label_smoothing_does_not_stop_it_from_learning(make, dataset):
    """With it, TRL follows a training step's forward pass by one without gradients."""
    trainer = make()
    trainer.model.train()
    batch = trainer.data_collator(list(dataset))
    seen_by_the_model = {name: batch[name] for name in ("input_ids", "attention_mask", "pixel_values")}
    trainer.model(**seen_by_the_model)
    with torch.no_grad():
        trainer.model(**seen_by_the_model)
    (objective,) = trainer.objectives
    assert objective.sums(trainer.model, batch[objective.name], Accelerator(cpu=True))["loss"].requires_grad


@pytest.mark.parametrize("adapter_type", ["langbridge", "mlp"])
def test_noise_on_the_texts_embeddings_does_not_reach_the_words(make, compose, dataset, adapter_type):
    plain, noisy = (make(compose(adapter_type)) for _ in range(2))
    embedding = noisy.model.get_input_embeddings()
    embedding.neftune_noise_alpha = 50
    embedding.register_forward_hook(neftune_post_forward_hook)
    noisy.model.train()
    rows = with_images_opened(dataset)
    expected, found = (terms_of(trainer, rows)["assignment_prediction"] for trainer in (plain, noisy))
    torch.testing.assert_close(found, expected)


def test_text_alone_counts_nothing_and_lora_trains(compose, make, processor, tmp_path):
    dataset = load_training_data(str(write_samples(tmp_path, text_only=lambda index: index >= 6)))
    model = as_saved(compose(), processor, tmp_path / "base")
    options = {"train_sampling_strategy": "sequential", "train_language_model": "lora"}
    trainer = make(model, dataset=dataset, max_steps=4, **options)
    trainer.train()
    course = logged(trainer, "assignment_prediction")
    assert all(value > 0 for value in course[:2]) and course[2:4] == [0, 0]


def test_one_image_and_captions_without_a_shared_word_give_finite_losses(make, dataset):
    answers = [{"role": "user", "content": "what?"}, {"role": "assistant", "content": "0123 %$#"}]
    trainer = make()
    for rows in ([dataset[0]], [{"images": dataset[0]["images"], "messages": answers}] * 3):
        terms = terms_of(trainer, rows)
        terms["loss"].backward()
        assert terms["loss"].isfinite() and terms["loss"] > 0
    assert all(parameter.grad.isfinite().all() for parameter in trainer.model.model.multi_modal_projector.parameters())


def test_a_caption_without_tokens_counts_nothing(make, dataset):
    trainer = make()
    (objective,) = trainer.objectives
    rows = [row for row in dataset if row["images"]][:3]
    expected = terms_of(trainer, rows)["loss"]
    first, *others = map(trainer.data_collator.encoder.encode, rows)
    silent = {**first, "messages": [{"role": "assistant", "content": [{"type": "text", "text": ""}]}]}
    batch = objective.collate([first, silent, *others])
    assert batch["places"].tolist() == [0, -1, 1, 2] and objective.count(batch) == 3
    assert objective.count(objective.collate([silent])) == 0
    encoded = trainer.data_collator([rows[0], rows[0], *rows[1:]])
    trainer.model(**{name: encoded[name] for name in ("input_ids", "attention_mask", "pixel_values")})
    torch.testing.assert_close(objective.sums(trainer.model, batch, Accelerator(cpu=True))["loss"], expected)


@pytest.mark.parametrize("targets", ["transport", "published"])
def test_words_that_are_all_alike_give_finite_losses(make, dataset, targets):
    trainer = make(assignment_targets=targets)
    with torch.no_grad():
        trainer.model.get_input_embeddings().weight.fill_(0.1)
    terms = terms_of(trainer, list(dataset))
    terms["loss"].backward()
    assert terms["loss"].isfinite()
    assert all(parameter.grad.isfinite().all() for parameter in trainer.model.model.multi_modal_projector.parameters())


def test_weights_that_are_no_numbers_stop_the_run_and_name_the_samples(make):
    trainer = make(max_steps=1)
    trainer.model.model.multi_modal_projector.linear_1.weight.data.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="The loss is nan in step 1, on the samples sample-"):
        trainer.train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"assignment_temperature": 1e-4}, "`assignment_temperature` is 0.0001: give a number of 9.8e-04 or more"),
        ({"assignment_temperature": float("nan")}, "`assignment_temperature` is nan"),
        ({"assignment_targets": "optimal"}, "`assignment_targets` is 'optimal': give transport or published"),
        ({"assignment_prediction_weight": -1.0}, "`assignment_prediction_weight` is -1.0"),
        ({"vocabulary": None}, "an adapter of type 'linear' has none: give a `vocabulary`"),
        ({"vocabulary": SharedVocabulary([" chien"])}, "are not single tokens of the tokenizer"),
        ({"vocabulary": SharedVocabulary(["#", "%"])}, "No caption has a word of the vocabulary"),
    ],
)
def test_what_cannot_be_is_refused(make, options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_streams_are_refused(make, tmp_path):
    dataset = load_training_data(str(write_samples(tmp_path)), streaming=True)
    with pytest.raises(ValueError, match="`assignment_prediction_weight` counts .* leave `streaming` out"):
        make(dataset=dataset, max_steps=1)


def test_no_number_per_token_and_word_is_ever_stored(make, dataset):
    trainer = make()
    (objective,) = trainer.objectives
    rows = [row for row in dataset if row["images"]]
    batch = collate(trainer, rows)
    batch["lengths"].fill_(100)
    projector = trainer.model.model.multi_modal_projector
    features = torch.randn(len(batch["places"]), 100, 24)
    with LargestTensor() as largest:
        objective.visual_tokens = projector(features).flatten(0, 1)
        objective.sums(trainer.model, batch, Accelerator(cpu=True))["loss"].backward()
    assert largest.numel <= max(features.numel(), len(features) * 100 * 32)  # tokens x d, under tokens x 60 words


@pytest.fixture
def launch(compose, processor, vocabulary, tmp_path):
    """Runs train.py in two processes under a preset."""

    def launch(preset: str, **options) -> subprocess.CompletedProcess:
        compose().save_pretrained(tmp_path / "base")
        processor.save_pretrained(tmp_path / "base")
        vocabulary.save(tmp_path / "words.json")
        options |= {"model": tmp_path / "base", "vocabulary": tmp_path / "words.json", "output_dir": tmp_path / preset}
        command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2"]
        command += ["--config_file", ROOT / "scripts" / "accelerate" / f"{preset}.yaml", "--mixed_precision", "no"]
        command += ["--main_process_port", "0", ROOT / "tests" / "sharded_on_cpu.py", ROOT / "scripts" / "train.py"]
        command += [word for name, value in options.items() for word in (f"--{name}", value)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        return subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=200, env=environment, cwd=ROOT
        )

    return launch


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(make, launch, tmp_path):
    # In batches of four, taken in turns: three samples with images and one, then four and none, then four and four.
    text_only = {2, 5, 6, 7, 12, 13, 14, 15}
    samples = write_samples(tmp_path, number=24, text_only=lambda index: index in text_only)
    options = {"max_steps": 3, "assignment_prediction_weight": 0.5, "train_sampling_strategy": "sequential"}
    one = make(dataset=load_training_data(str(samples)), per_device_train_batch_size=8, **options)
    one.train()
    saving = {"save_strategy": "steps", "save_steps": 3, "per_device_train_batch_size": 4, "dataset": samples}
    result = launch("ddp", **{**OPTIONS, **options, **saving})
    assert result.returncode == 0, result.stderr[-4000:]
    history = json.loads((tmp_path / "ddp" / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
    for name in ("loss", "assignment_prediction", "grad_norm"):
        found = [float(entry[name]) for entry in history if name in entry]
        assert found == pytest.approx(logged(one, name)[:3], rel=1e-3)
    two = AutoModelForImageTextToText.from_pretrained(tmp_path / "ddp")
    for expected, found in zip(one.model.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_sharded_weights_are_refused(launch, tmp_path):
    options = {**OPTIONS, "max_steps": 1, "dataset": write_samples(tmp_path), "assignment_prediction_weight": 0.5}
    result = launch("fsdp2", **options)
    assert "train.py: `assignment_prediction_weight` is not supported with sharded weights" in result.stderr


def test_words_that_the_tokenizer_cuts_count_as_never_used_and_train_on(compose, processor, make, tmp_path):
    tokens = save_other_language_model(tmp_path / "other")
    model, its_processor = transfer(compose("langbridge", "gated_softmax"), processor, tokens, split_words="mean")
    trainer = make(model, processor=its_processor, vocabulary=None, max_steps=1)
    (objective,) = trainer.objectives
    cut = model.model.vocabulary_head.token_ids[:, 1] >= 0  # (V,)
    assert cut.any() and (objective.token_ids[cut] == -1).all() and (objective.token_ids[~cut] >= 0).all()
    assert objective.frequencies[cut].max() == objective.frequencies.min()
    trainer.train()
    assert logged(trainer, "assignment_prediction")[0] > 0
