# SPDX-License-Identifier: Apache-2.0
"""The presets of scripts/accelerate, read by accelerate's own launcher and made into the plugins that they name."""

import os

import pytest
from accelerate import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType, prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from paths import SCRIPTS
from torch.distributed.fsdp import CPUOffloadPolicy, StateDictType
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy
from transformers import TrainingArguments


FOLDER = SCRIPTS / "accelerate"
PRESETS = {
    "ddp": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP,
    "zero2": DistributedType.DEEPSPEED,
    "zero3": DistributedType.DEEPSPEED,
}
# What transformers' Trainer fills in from its arguments.
FILLED = {"train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"}


@pytest.fixture
def launch(monkeypatch):
    """Does what `accelerate launch` does with a preset, up to the environment that the processes would start in."""

    def launch(name: str) -> None:
        command = ["--config_file", str(FOLDER / f"{name}.yaml"), "--main_process_port", "0", "scripts/train.py"]
        arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(command))
        if arguments.use_deepspeed:
            arguments.deepspeed_fields_from_accelerate_config = ""
            _, environment = prepare_deepspeed_cmd_env(arguments)
        else:
            environment = prepare_multi_gpu_env(arguments)
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)

    for variable in [variable for variable in os.environ if variable.startswith(("ACCELERATE_", "FSDP_"))]:
        monkeypatch.delenv(variable)
    return launch


def deepspeed_plugin() -> DeepSpeedPlugin:
    """The plugin that a launched process makes of its environment."""
    plugin = DeepSpeedPlugin()
    plugin.set_mixed_precision(os.environ["ACCELERATE_MIXED_PRECISION"])
    return plugin


def find_auto(config: dict) -> set[str]:
    """The names that still wait for a value, at any depth."""
    inner = [find_auto(value) for value in config.values() if isinstance(value, dict)]
    return {name for name, value in config.items() if value == "auto"}.union(*inner)


def test_every_preset_is_tested_here():
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_of_the_kind_its_name_says(name):
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert config.distributed_type == PRESETS[name]
    assert (config.num_machines, config.num_processes) == (1, 8)


@pytest.mark.parametrize("name", PRESETS)
def test_every_setting_is_one_that_the_launcher_knows(name):
    # Unknown names at the top are an error of accelerate's own; in a section it passes them over in silence.
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    known = vars(launch_command_parser().parse_args(["scripts/train.py"]))
    assert {*config.deepspeed_config, *config.fsdp_config} <= set(known)


@pytest.mark.parametrize("name", PRESETS)
def test_the_comment_on_top_shows_how_to_launch_this_very_preset(name):
    what, command = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[:2]
    assert what.startswith("# ")
    assert f"accelerate launch --config_file scripts/accelerate/{name}.yaml --num_processes 8 " in command


@pytest.mark.parametrize("name", PRESETS)
def test_precision_is_left_to_the_training(launch, name):
    launch(name)
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "no"


def test_ddp_shards_nothing(launch):
    launch("ddp")
    assert not {"ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"} & set(os.environ)


def test_fsdp2_shards_layer_by_layer_and_saves_whole_files(launch):
    launch("fsdp2")
    assert os.environ["ACCELERATE_USE_FSDP"] == "true"
    plugin = FullyShardedDataParallelPlugin()
    assert plugin.fsdp_version == 2 and plugin.reshard_after_forward is True
    assert plugin.auto_wrap_policy is transformer_auto_wrap_policy
    assert plugin.state_dict_type == StateDictType.FULL_STATE_DICT
    assert not plugin.cpu_ram_efficient_loading and not plugin.activation_checkpointing
    assert not isinstance(plugin.cpu_offload, CPUOffloadPolicy)


@pytest.mark.parametrize(("name", "stage"), [("zero2", 2), ("zero3", 3)])
def test_deepspeed_shards_as_the_name_says_and_offloads_nothing(launch, name, stage):
    launch(name)
    assert os.environ["ACCELERATE_USE_DEEPSPEED"] == "true"
    config = deepspeed_plugin().hf_ds_config
    assert config.get_value("zero_optimization.stage") == stage
    assert not config.is_offload()


def test_zero3_saves_the_whole_model_and_lets_it_be_loaded_whole(launch):
    launch("zero3")
    plugin = deepspeed_plugin()
    assert plugin.hf_ds_config.is_true("zero_optimization.stage3_gather_16bit_weights_on_model_save")
    # A model made of two parts is put together from whole weights.
    assert not plugin.is_zero3_init_enabled()


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_the_training_says_everything_that_deepspeed_still_waits_for(launch, name):
    launch(name)
    plugin = deepspeed_plugin()
    assert find_auto(plugin.deepspeed_config) == FILLED
    plugin.deepspeed_config_process(must_match=False, **dict.fromkeys(FILLED, 3))
    assert not find_auto(plugin.deepspeed_config)


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_precision_batch_accumulation_and_clipping_are_those_of_the_training(launch, name, tmp_path, monkeypatch):
    pytest.importorskip("deepspeed", reason="deepspeed is not installed")
    from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig

    arguments = TrainingArguments(
        tmp_path,
        per_device_train_batch_size=3,
        gradient_accumulation_steps=5,
        max_grad_norm=0.7,
        bf16=True,
        use_cpu=True,
    )
    launch(name)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")  # as TrainingArguments sets it in a launched process
    config = HfTrainerDeepSpeedConfig(deepspeed_plugin().deepspeed_config)
    config.trainer_config_process(arguments)
    assert not config.mismatches and not find_auto(config.config)
    values = {name: config.get_value(name) for name in FILLED}
    assert values == {
        "train_batch_size": 15,
        "train_micro_batch_size_per_gpu": 3,
        "gradient_accumulation_steps": 5,
        "gradient_clipping": 0.7,
    }
