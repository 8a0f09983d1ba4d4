# SPDX-License-Identifier: Apache-2.0
"""What `train.py` answers to careless options: one sentence, before anything is read, loaded or written."""

from pathlib import Path

import pytest
import yaml
from paths import SCRIPTS
from refusals import assert_refused

from trainer import LangBridgeSFTConfig


SCRIPT = SCRIPTS / "train.py"
RUN = ["--model", "absent", "--dataset", "absent.json", "--output_dir", "out"]

# The same sentence from the command line, a recipe and Python: option, value as typed, value as YAML reads it.
VALUES = [
    ("max_steps", "1.5", 1.5, r"`max_steps` is '?1.5'?: give a whole number of at least 1, or -1"),
    ("max_steps", "0", 0, "`max_steps` is 0: give a whole number of at least 1, or -1"),
    ("num_train_epochs", "-1", -1, r"`num_train_epochs` is -1(\.0)?: give a number above 0"),
    ("num_train_epochs", "nan", float("nan"), "`num_train_epochs` is nan: give a number above 0"),
    ("learning_rate", "fast", "fast", "`learning_rate` is 'fast': give a number of at least 0"),
    ("learning_rate", "-1e-3", -1e-3, "`learning_rate` is -0.001: give a number of at least 0"),
    ("learning_rate", "inf", float("inf"), "`learning_rate` is inf: give a number of at least 0"),
    ("projector_learning_rate", "nan", float("nan"), "`projector_learning_rate` is nan: give a number of at least 0"),
    ("per_device_train_batch_size", "0", 0, "`per_device_train_batch_size` is 0: give a whole number of at least 1"),
    ("gradient_accumulation_steps", "0", 0, "`gradient_accumulation_steps` is 0: give a whole number of at least 1"),
    ("weight_decay", "-0.1", -0.1, "`weight_decay` is -0.1: give a number of at least 0"),
    ("warmup_steps", "-1", -1, r"`warmup_steps` is -1(\.0)?: give a number of at least 0"),
    ("save_total_limit", "0", 0, "`save_total_limit` is 0: give a whole number of at least 1"),
    ("logging_steps", "0", 0, r"`logging_steps` is 0(\.0)?: give a number above 0"),
    ("dataloader_num_workers", "-1", -1, "`dataloader_num_workers` is -1: give a whole number of at least 0"),
    (
        "label_smoothing_factor",
        "1",
        1,
        r"`label_smoothing_factor` is 1(\.0)?: give a number of at least 0 and below 1",
    ),
    ("bf16", "perhaps", "perhaps", "`bf16` is 'perhaps': give true or false"),
    ("optim", "adamx", "adamx", "`optim` is 'adamx': give one of .* names, such as ad"),
    ("lr_scheduler_type", "cosne", "cosne", "`lr_scheduler_type` is 'cosne': give .*cosine"),
    ("save_strategy", "never", "never", "`save_strategy` is 'never': give no, steps, epoch or best"),
    ("train_language_model", "true", "true", "`train_language_model` is 'true': give frozen, full or lora"),
    ("train_projector", "lora", "lora", "`train_projector` is 'lora': give frozen or full"),
    ("too_long", "Drop", "Drop", "`too_long` is 'Drop': give error or drop"),
    ("max_length", "0", 0, "`max_length` is 0: give a whole number of at least 1"),
    ("lora_r", "0", 0, "`lora_r` is 0: give a whole number of at least 1"),
    ("lora_alpha", "-1", -1, "`lora_alpha` is -1: give a whole number of at least 1"),
    ("lora_dropout", "1.5", 1.5, "`lora_dropout` is 1.5: give a number of at least 0 and below 1"),
    ("frequency_power", "-1", -1, r"`frequency_power` is -1(\.0)?: give a number of at least 0"),
    ("word_prediction_weight", "nan", float("nan"), "`word_prediction_weight` is nan: give a number of at least 0"),
    ("assignment_prediction_weight", "-1", -1, r"`assignment_prediction_weight` is -1(\.0)?: give a number of at"),
    ("assignment_targets", "optimal", "optimal", "`assignment_targets` is 'optimal': give transport or published"),
    ("assignment_temperature", "0", 0, r"`assignment_temperature` is 0(\.0)?: give a number of 9.8e-04 or more"),
]

# What only YAML and Python can say.
READ = [
    ("train_language_model", True, "`train_language_model` is True: give frozen, full or lora"),
    ("save_strategy", False, "`save_strategy` is False: give no, steps, epoch or best, in quotes"),
    ("learning_rate", [1, 2], r"`learning_rate` is \[1, 2\]: give a number of at least 0"),
    ("learning_rate", None, "`learning_rate` is None: give a number of at least 0"),
    ("max_steps", True, "`max_steps` is True: give a whole number"),
    ("output_dir", 3, "`output_dir` is 3: give text"),
    ("lr_scheduler_kwargs", [1], r"`lr_scheduler_kwargs` is \[1\]: give a mapping or text"),
    ("include_for_metrics", "loss", "`include_for_metrics` is 'loss': give a list of text"),
]

OPTIONS = {
    "no words": (["--vocab_size", "0"], "`vocab_size` is 0: give a whole number of at least 1"),
    "no width": (["--projector_hidden_size", "0"], "`projector_hidden_size` is 0: give a whole number of at least 1"),
    "no words of an image": (["--words_per_image", "0"], "`words_per_image` is 0: give a whole number of at least 1"),
    "no patches": (["--pool_patches", "0"], "`pool_patches` is 0: give a whole number of at least 1"),
    "an activation": (
        ["--coefficient_activation", "relu"],
        "`coefficient_activation` is 'relu': give linear, softmax or gated_softmax",
    ),
    "an adapter type": (["--adapter_type", "mpl"], "`adapter_type` is 'mpl': give langbridge, mlp or linear"),
    "a model type": (["--model_type", "llava"], "`model_type` is 'llava': give langbridge or langbridge_next"),
    "a resolution": (
        ["--image_grid_pinpoints", "336x672", "672"],
        "`image_grid_pinpoints` holds '672': give heights and widths in pixels, such as 336x672",
    ),
    "a model type beside a model": (["--model_type", "langbridge_next"], "--model_type would have no effect: --model"),
    "a dtype": (["--dtype", "half"], "`dtype` is 'half': give auto, bfloat16, float16 or float32"),
    "no steps between previews": (["--preview_steps", "0"], "`preview_steps` is 0: give a whole number of at least 1"),
    "a slip": (["--learning_rte", "1"], r"There is no option learning_rte: do you mean learning_rate\?"),
    "a shortened option": (
        ["--projector_hidden", "8"],
        "no option projector_hidden: do you mean projector_hidden_size",
    ),
    "a value too many": (["--lora_r", "8", "9"], "'9' belongs to no option"),
    "a recipe without a name": (["--config"], "--config needs the name of a recipe"),
    "two recipes": (["--config", "a.yaml", "--config=b.yaml"], "--config is given more than once"),
    "a recipe that is not there": (["--config=absent.yaml"], "The recipe absent.yaml cannot be read"),
    "a folder for a recipe": (["--config", "."], "The recipe . cannot be read"),
    "a shape beside a model": (
        ["--projector_hidden_size", "8"],
        "--projector_hidden_size would have no effect: --model has an adapter of its own",
    ),
    "words beside a model": (["--vocabulary", "words.json"], "--vocabulary would have no effect: the words are those"),
    "a type beside a model": (["--adapter_type", "mlp"], "--adapter_type would have no effect: --model"),
    "a quantization of nothing": (
        ["--bnb_4bit_quant_type", "fp4"],
        "--bnb_4bit_quant_type .* it needs --load_in_4bit",
    ),
    "a LoRA of nothing": (["--lora_r", "8"], "--lora_r would have no effect: no part is trained by LoRA"),
    "a rate of a frozen part": (
        ["--language_model_learning_rate", "1e-3"],
        "--language_model_learning_rate would have no effect: the part is frozen, see --train_language_model",
    ),
    "a power of nothing": (["--frequency_power", "1"], "--frequency_power .* it needs --word_prediction_weight"),
    "targets of nothing": (["--assignment_targets", "published"], "it needs --assignment_prediction_weight"),
    "previews of nothing": (
        ["--preview_steps", "5"],
        "--preview_steps would have no effect: it needs --preview_photos",
    ),
    "a split of a file": (["--dataset_split", "nope"], "`dataset_split` nope says nothing of absent.json"),
    "nothing trained": (
        ["--train_projector", "frozen", "--train_vocabulary_head", "frozen"],
        "Every part is frozen, so nothing would be trained",
    ),
    "code from elsewhere": (["--trust_remote_code"], "--trust_remote_code has no effect"),
}

RECIPES = {
    "an option with a slip": (
        "learning_rte: 1",
        r"mine.yaml holds no option learning_rte: do you mean learning_rate\?",
    ),
    "a number for an option": ("3: 1", "mine.yaml holds no option 3"),
    "a list": ("- 1", "mine.yaml must be a YAML mapping"),
    "nothing": ("", "mine.yaml must be a YAML mapping"),
    "no YAML": ("a: [", r"mine.yaml cannot be read: while parsing"),
    "no text": ("\x00", "mine.yaml cannot be read"),
    "a base that is not there": ("extends: absent.yaml", "absent.yaml cannot be read"),
    "a base in a list": (
        "extends: [a.yaml]",
        r"`extends` of the recipe .*mine.yaml is \['a.yaml'\]: give the file name",
    ),
    "itself": ("extends: mine.yaml", "mine.yaml extends itself"),
}


@pytest.mark.parametrize(("name", "typed", "read", "sentence"), VALUES, ids=lambda value: str(value)[:20])
def test_a_value_is_refused_alike_from_the_command_line_a_recipe_and_python(tmp_path, name, typed, read, sentence):
    found = assert_refused(SCRIPT, [*RUN, f"--{name}={typed}"], sentence, tmp_path)
    assert found.startswith(f"`{name}` is ")
    refused_from_a_recipe_and_python(tmp_path, name, read, sentence)


@pytest.mark.parametrize(("name", "read", "sentence"), READ, ids=lambda value: str(value)[:20])
def test_a_value_of_another_type_is_refused_from_a_recipe_and_python(tmp_path, name, read, sentence):
    refused_from_a_recipe_and_python(tmp_path, name, read, sentence)


def refused_from_a_recipe_and_python(folder: Path, name: str, value, sentence: str) -> None:
    (folder / "mine.yaml").write_text(yaml.safe_dump({"output_dir": "out", name: value}))
    assert_refused(SCRIPT, ["--config", "mine.yaml", *RUN[:4]], sentence, folder)
    with pytest.raises(ValueError, match=sentence):
        LangBridgeSFTConfig(**{"output_dir": str(folder / "out"), name: value})


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_is_refused(tmp_path, name):
    options, sentence = OPTIONS[name]
    assert_refused(SCRIPT, [*RUN, *options], sentence, tmp_path)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_refused(tmp_path, name):
    text, sentence = RECIPES[name]
    (tmp_path / "mine.yaml").write_text(text)
    assert_refused(SCRIPT, ["--config", tmp_path / "mine.yaml", *RUN], sentence, tmp_path)


def test_recipes_that_extend_each_other_are_refused(tmp_path):
    for name, base in (("a", "b"), ("b", "a")):
        (tmp_path / f"{name}.yaml").write_text(f"extends: {base}.yaml")
    assert_refused(SCRIPT, ["--config", "a.yaml", *RUN], "a.yaml extends itself, over b.yaml", tmp_path)


@pytest.mark.parametrize("option", ["--projector_hidden_size=8", "--vocab_size=8", "--coefficient_activation=softmax"])
def test_a_shape_beside_an_adapter_is_refused_on_the_command_line_alone(tmp_path, option):
    parts = ["--vision_tower", "absent", "--language_model", "absent", "--adapter", "absent"]
    command = [*parts, "--dataset", "absent.json", "--output_dir", "out"]
    assert_refused(SCRIPT, [*command, option], "would have no effect: --adapter has a shape and words", tmp_path)
    name, _, value = option.removeprefix("--").partition("=")
    (tmp_path / "mine.yaml").write_text(f"{name}: {value}")
    assert_refused(SCRIPT, [*command, "--config", "mine.yaml"], "absent.json cannot be read", tmp_path)


@pytest.mark.parametrize(("files", "refused"), [
    (["model.safetensors"], True),
    (["checkpoint-5/trainer_state.json"], True),
    (["checkpoint-5/model.safetensors"], False),
    (["runs/events", "preview/preview.md", "base/config.json"], False),
])  # fmt: skip
def test_a_run_begins_where_nothing_is_lost(tmp_path, files, refused):
    for name in files:
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    sentence = "out is not empty: name another folder, or go on" if refused else "absent.json cannot be read"
    assert_refused(SCRIPT, RUN, sentence, tmp_path)


def test_an_output_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "out").write_text("mine")
    assert_refused(SCRIPT, RUN, "--output_dir out is a file: name a folder", tmp_path)
