# SPDX-License-Identifier: Apache-2.0
"""Recipes: each parses, names only what differs from the one it extends, and holds the published hyperparameters."""

from pathlib import Path

import pytest
from paths import ROOT, SCRIPTS
from tiny_training import load_script

import trainer.device
from hub_cards.training_record import TRAINING_RECORD, read_training_records
from modeling_langbridge import LangBridgeAdapter, SharedVocabulary
from trainer import LangBridgeSFTConfig
from trainer.device import has_bfloat16
from trainer.grounding import GroundingConfig
from trainer.model_loading import ModelArguments
from trainer.recipes import RecipeParser, read_recipe


FOLDER = SCRIPTS / "recipes"
GROUNDING = ["ground", "words_efficientnet_lite0"]
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml") if path.stem not in GROUNDING)
NEXT = [name for name in RECIPES if "_next_" in name]
PAPER = [name for name in RECIPES if name.startswith(("pretrain", "finetune", "transfer")) and name not in NEXT]


@pytest.fixture(scope="module")
def parse():

    def parse(path: Path, *arguments: str):
        parser = RecipeParser((ModelArguments, load_script("train").DataArguments, LangBridgeSFTConfig))
        return parser.parse(["--config", str(path), "--output_dir", "unused", *arguments])[:3]

    return parse


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_parses(parse, name):
    model, data, config = parse(FOLDER / f"{name}.yaml")
    assert config.logging_steps in (5, 10)


def parse_grounding(name: str, *arguments: str):
    ground = load_script("ground")
    parser = RecipeParser((ground.GroundingArguments, GroundingConfig))
    needed = ["--vision_tower", "tower", "--dataset", "a.json", "--output_dir", "unused"]
    return parser.parse(["--config", str(FOLDER / f"{name}.yaml"), *needed, *arguments])[:2]


def test_the_grounding_recipe_parses():
    arguments, config = parse_grounding("ground")
    assert arguments.coefficient_activation == "gated_softmax"
    assert 8 * config.per_device_train_batch_size * config.gradient_accumulation_steps == 256


def test_the_recipe_of_the_shipped_adapter_is_the_one_that_made_it():
    arguments, config = parse_grounding("words_efficientnet_lite0")
    adapter = LangBridgeAdapter.grounded_efficientnet_lite0()
    assert SharedVocabulary.from_file(ROOT / arguments.vocabulary) == adapter.vocabulary
    assert arguments.projector_hidden_size == adapter.config.projector_hidden_size
    assert arguments.coefficient_activation == adapter.config.coefficient_activation
    (record,) = read_training_records(Path(adapter.name, TRAINING_RECORD))
    assert (record.epochs, record.samples) == (config.num_train_epochs, config.num_train_epochs * 6000)
    assert (record.batch_size, record.seed) == (config.per_device_train_batch_size, config.seed)
    assert record.parts["vocabulary_head"].learning_rate == config.learning_rate
    assert record.schedule == config.lr_scheduler_type


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_runs_have_the_published_hyperparameters(parse, name):
    """Batches of 256 and 128 on 8 processes, 2e-5, one epoch, cosine, 3 % warm-up, no decay, length 2048."""
    model, data, config = parse(FOLDER / f"{name}.yaml")
    first_stage = name.startswith("pretrain")
    batch = 8 * config.per_device_train_batch_size * config.gradient_accumulation_steps
    assert batch == (256 if first_stage else 128)
    assert (config.learning_rate, config.weight_decay, config.num_train_epochs) == (2e-5, 0, 1)
    assert (config.lr_scheduler_type, config.warmup_steps, config.max_length) == ("cosine", 0.03, 2048)
    assert config.plain_captions == first_stage
    learning = {part for part, mode in config.modes().items() if mode == "full"}
    assert learning == {"projector", "vocabulary_head"} | (set() if first_stage else {"language_model"})
    assert set(config.learning_rates().values()) == {None}
    if first_stage:
        assert (model.vocab_size, model.coefficient_activation) == (19200, "linear")
        # Where the paper's H, 5120, is more than the language model is wide, the adapter could not be exported.
        widths = {"qwen2_0.5b": 896, "qwen2_7b": 3584, "llama3_8b": 4096, "qwen2.5_14b": 5120}
        assert model.projector_hidden_size == widths[name.removeprefix("pretrain_")]


@pytest.mark.parametrize("name", NEXT)
def test_the_papers_next_runs_have_the_published_hyperparameters(parse, name):
    """First whole images, 2e-5, 16 a process, length 8192; then tiles, all parts, 1e-5, the tower 2e-6, 4, 32768."""
    model, data, config = parse(FOLDER / f"{name}.yaml")
    assert (config.weight_decay, config.num_train_epochs, config.gradient_accumulation_steps) == (0, 1, 1)
    assert (config.lr_scheduler_type, config.warmup_steps, config.bf16) == ("cosine", 0.03, has_bfloat16())
    if name.startswith("pretrain"):
        assert model.model_type is None and config.plain_captions
        assert {part for part, mode in config.modes().items() if mode == "full"} == {"projector", "vocabulary_head"}
        assert (config.learning_rate, config.per_device_train_batch_size, config.max_length) == (2e-5, 16, 8192)
        return
    assert (model.model, model.adapter) == (None, "runs/pretrain_next_qwen2_0.5b/adapter")
    assert model.model_type == "langbridge_next" and not config.plain_captions
    assert model.resolutions() == [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
    assert set(config.modes().values()) == {"full"}
    rates = {**dict.fromkeys(config.modes()), "vision_tower": 2e-6}
    assert (config.learning_rate, config.learning_rates()) == (1e-5, rates)
    assert (config.per_device_train_batch_size, config.max_length) == (4, 32768)
    assert config.train_sampling_strategy == "group_by_length"


def test_vlaps_recipe_is_vlaps(parse):
    """One linear layer learns, weight 0.1, temperatures 0.01, AdamW at 1e-4, batches of 256 (arXiv 2404.09632)."""
    model, data, config = parse(FOLDER / "vlap_qwen2_0.5b.yaml")
    assert model.adapter_type == "linear"
    modes = config.modes()
    assert modes["projector"] == "full" and modes["vision_tower"] == modes["language_model"] == "frozen"
    assert (config.assignment_prediction_weight, config.assignment_temperature) == (0.1, 0.01)
    assert config.assignment_targets == "transport" and config.word_prediction_weight == 0
    # The transport runs over the images of one forward pass: accumulated batches would each have their own.
    assert (8 * config.per_device_train_batch_size, config.gradient_accumulation_steps) == (256, 1)
    assert (config.learning_rate, config.lr_scheduler_type, config.warmup_steps) == (1e-4, "cosine", 3 / 32)
    assert config.optim.startswith("adamw")


def test_each_finetuning_goes_on_from_the_pretraining_of_the_same_language_model():
    for name in (name for name in PAPER if name.startswith("finetune")):
        language_model = name.removeprefix("finetune_")
        pretraining = read_recipe(FOLDER / f"pretrain_{language_model}.yaml")
        assert read_recipe(FOLDER / f"{name}.yaml")["model"] == pretraining["output_dir"]


def test_each_transfer_takes_the_adapter_that_qwen2_was_finetuned_with():
    adapter = read_recipe(FOLDER / "finetune_qwen2_0.5b.yaml")["output_dir"] + "/adapter"
    for name in (name for name in PAPER if name.startswith("transfer")):
        recipe = read_recipe(FOLDER / f"{name}.yaml")
        language_model = read_recipe(FOLDER / f"{name.replace('transfer', 'pretrain')}.yaml")["language_model"]
        assert (recipe["model"], recipe["adapter"]) == (None, adapter)
        assert recipe["language_model"] == language_model


def test_no_two_recipes_write_to_the_same_folder():
    folders = [read_recipe(FOLDER / f"{name}.yaml").get("output_dir") for name in RECIPES if "tiny" not in name]
    assert len(set(folders)) == len(folders)


def test_the_command_line_wins_over_the_recipe_and_the_recipe_over_what_it_extends(parse, tmp_path):
    (tmp_path / "base.yaml").write_text("learning_rate: 0.1\nweight_decay: 0.2\nlora_r: 3\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nweight_decay: 0.3\nlora_r: 4\n")
    _, _, config = parse(tmp_path / "mine.yaml", "--lora_r", "5")
    assert (config.learning_rate, config.weight_decay, config.lora_r) == (0.1, 0.3, 5)


@pytest.mark.parametrize(
    ("asked", "gpu", "native", "found"),
    [
        ({"bf16": True, "tf32": True}, False, True, {"bf16": True}),
        ({"bf16": True, "tf32": True}, False, False, {"bf16": False}),
        ({"fp16": True}, False, True, {}),
        ({"bf16": False}, False, True, {"bf16": False}),
        ({"bf16": True, "tf32": True}, True, True, {"bf16": True, "tf32": True}),
    ],
)
def test_a_recipes_precision_becomes_one_that_the_machine_has(monkeypatch, asked, gpu, native, found):
    monkeypatch.setattr(trainer.device, "has_gpu", lambda: gpu)
    monkeypatch.setattr(trainer.device, "has_bfloat16", lambda: native)
    assert trainer.device.fit_to_machine(asked) == found


@pytest.mark.parametrize("native", [True, False])
def test_without_a_gpu_a_run_uses_the_cpu_in_a_precision_that_it_has_unless_told_otherwise(parse, monkeypatch, native):
    monkeypatch.setattr(trainer.device, "has_gpu", lambda: False)
    monkeypatch.setattr(trainer.device, "has_bfloat16", lambda: native)
    recipe = FOLDER / "pretrain_qwen2_0.5b.yaml"
    assert [
        (config.use_cpu, config.bf16) for _, _, config in (parse(recipe), parse(recipe, "--bf16", str(not native)))
    ] == [
        (True, native),
        (True, not native),
    ]
    config = LangBridgeSFTConfig("unused")
    assert (config.use_cpu, config.bf16) == (True, native)
    assert GroundingConfig("unused").use_cpu
    assert trainer.device.describe_device(config) == (
        f"Computes on the CPU in {'bfloat16 beside float32' if native else 'float32'}, as there is no GPU here."
    )


@pytest.mark.parametrize("form", [["--config", "{}"], ["--config={}"]])
def test_the_recipe_is_named_in_either_form(tmp_path, form):
    (tmp_path / "mine.yaml").write_text("learning_rate: 0.5")
    arguments = [part.format(tmp_path / "mine.yaml") for part in form]
    config, given = RecipeParser((LangBridgeSFTConfig,)).parse([*arguments, "--output-dir", "unused", "--seed=3"])
    assert (config.learning_rate, config.seed) == (0.5, 3)
    assert given == {"output_dir", "seed"}
