# SPDX-License-Identifier: Apache-2.0
"""The programs, what each needs beside this environment's packages, and what it is asked to do."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from experiments.versions.environments import make_shared_environment, pip


HERE = Path(__file__).resolve().parent
LANGUAGE_MODEL = "language model"
WITHOUT_TOWER = "head, language model, projector"
EVERYTHING = f"{WITHOUT_TOWER}, tower"
LORA = "--use_peft --lora_target_modules .*language_model.*_proj --learning_rate 1e-2"
ADAPTER_TOO = "--lora_modules_to_save multi_modal_projector vocabulary_head"
TRL_MODEL = "--model_name_or_path model --trust_remote_code"
TRL_TRAINING = "--max_steps 2 --per_device_train_batch_size 2 --use_cpu --bf16 False --report_to none"


@dataclass(frozen=True)
class Trial:
    """
    A command of a program, in the folder of the materials.

    Args:
        what (`str`): what the table says of it.
        command (`str`): what a user types after `python`.
        output (`str`): the folder that it leaves, or a pattern of it.
        learns (`str`): the parts that must differ from the checkpoint then; all others must not.
    """

    what: str
    command: str
    output: str
    learns: str


@dataclass(frozen=True)
class Program:
    """
    A program, by its distribution on the package index.

    Args:
        name (`str`): what people call it.
        distribution (`str`): what pip calls it.
        trials (`tuple[Trial, ...]`): what it is asked to do.
        packages (`tuple[str, ...]`): what an environment of its own has; without any, this environment serves.
        alone (`tuple[str, ...]`): what is installed there without what it asks for.
    """

    name: str
    distribution: str
    trials: tuple[Trial, ...]
    packages: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()


def trl(method: str, rows: str, output: str, learns: str, options: str = "") -> Trial:
    command = f"-m trl.scripts.{method} {TRL_MODEL} --dataset_name {rows} {options} {TRL_TRAINING}"
    what = f"`trl/scripts/{method}.py`, {rows.replace('_', ' ')}" + (f", `{options}`" if options else "")
    return Trial(what, f"{command} --output_dir {output}", output, learns)


def swift(tuner_type: str, learns: str, options: str = "") -> Trial:
    output = f"ms_swift_{tuner_type}"
    chosen = f"--tuner_type {tuner_type} {options}".strip()
    command = (
        f"-m swift.cli.sft --external_plugins {HERE / 'ms_swift.py'} --model model --use_hf true --dataset chats.json "
        f"{chosen} --torch_dtype float32 --learning_rate 1e-2 --max_steps 2 --per_device_train_batch_size 2 "
        f"--report_to none --output_dir {output}"
    )
    return Trial(f"`swift sft {chosen}`", command, f"{output}/*/checkpoint-2", learns)


PROGRAMS = (
    Program(
        "TRL",
        "trl",
        (
            trl("sft", "prompts_and_answers", "sft", EVERYTHING),
            trl("sft", "messages", "messages", EVERYTHING, "--assistant_only_loss"),
            trl("sft", "messages", "lora", LANGUAGE_MODEL, f"--assistant_only_loss {LORA}"),
            trl("sft", "messages", "adapter", WITHOUT_TOWER, f"{LORA} {ADAPTER_TOO}"),
            trl("sft", "messages", "four_bits", LANGUAGE_MODEL, f"--load_in_4bit {LORA}"),
            trl("dpo", "preferences", "dpo", LANGUAGE_MODEL, LORA),
            trl(
                "grpo",
                "prompts",
                "grpo",
                LANGUAGE_MODEL,
                f"{LORA} --reward_funcs rewards.length --num_generations 2 --max_completion_length 8",
            ),
        ),
    ),
    Program(
        "ms-swift",
        "ms-swift",
        (swift("full", WITHOUT_TOWER, "--freeze_aligner false"), swift("lora", LANGUAGE_MODEL)),
        packages=("ms-swift==4.6.0",),
    ),
    Program(
        "LLaMA-Factory",
        "llamafactory",
        (
            Trial(
                "`stage: sft`, `finetuning_type: full`",
                f"{HERE / 'llama_factory.py'} llama_factory.yaml",
                "llama_factory",
                WITHOUT_TOWER,
            ),
        ),
        # What it asks for but torchvision, whose ordinary wheel breaks transformers' images beside a torch for CPUs.
        packages=(
            *("transformers<=5.6.0", "accelerate<=1.11.0", "datasets<=4.0.0", "peft<=0.18.1", "trl<=0.24.0"),
            *("tyro<0.9.0", "gradio<=5.50.0", "torchdata<=0.11.0", "sentencepiece", "tiktoken", "modelscope"),
            *("einops", "fire", "hf-transfer", "omegaconf"),
        ),
        alone=("llamafactory==0.9.5", "torchaudio"),
    ),
)


def make_environment(program: Program, folder: Path) -> Path:
    """
    The Python of the program's own environment, which is made where it is not there yet, or was another.

    It finds torch and the other packages of the environment that runs this after its own.

    Raises:
        `OSError`: pip cannot install what it needs.
    """
    done, wanted = folder / "installed", "\n".join([*program.packages, *program.alone])
    if done.is_file() and done.read_text() == wanted:
        return folder / "bin" / "python"
    shutil.rmtree(folder, ignore_errors=True)
    python = make_shared_environment(folder)
    pip(str(python), "install", "--quiet", *program.packages)
    if program.alone:
        pip(str(python), "install", "--quiet", "--no-deps", *program.alone)
    # torchaudio's wheel is made for CUDA and fails to load without; it does with no library at all.
    for library in folder.glob("lib/python*/site-packages/torchaudio/lib/*.so"):
        library.unlink()
    done.write_text(wanted)
    return python
