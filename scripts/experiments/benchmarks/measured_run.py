# SPDX-License-Identifier: Apache-2.0
"""A few real training steps in a process of their own: memory, tokens a second, and what is multiplied in which dtype.

Run by `measure`, with the options of train.py.
"""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any


UNCOUNTED_STEPS = 2  # the first ones, which fill caches
SCRIPTS = Path(__file__).resolve().parents[2]


def measure(options: dict[str, Any], plain: bool = False) -> dict[str, Any]:
    """
    Trains for `max_steps`, four at least, in a fresh process, and gives what it measured.

    Args:
        options (`dict`): of train.py, by name.
        plain (`bool`, *optional*, defaults to `False`): by transformers' own Trainer, which computes all logits.

    Returns:
        `dict` with `memory` (bytes at the peak, beyond what the process held before it made the model),
        `seconds` a step (the median), `tokens` a second, padding left out, and `multiply_adds` of the last step by
        dtype.
    """
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "experiments.benchmarks.measured_run", *(["--plain"] if plain else []), *words]
    paths = [str(SCRIPTS), str(SCRIPTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        # A tensor that goes is given back to the system at once, so that the resident memory is what is in use.
        "MALLOC_MMAP_THRESHOLD_": "1048576",
        "MALLOC_TRIM_THRESHOLD_": "1048576",
    }
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise ValueError(f"The training with {' '.join(words)} failed: {result.stderr.strip()[-2000:]}")
    return json.loads(result.stdout.splitlines()[-1])


def run(arguments: list[str]) -> dict[str, Any]:
    import statistics

    import torch
    from transformers import Trainer, TrainerCallback, set_seed

    from trainer import LangBridgeSFTConfig, LangBridgeSFTTrainer, load_training_data
    from trainer.data.collator import ConversationCollator
    from trainer.data.conversations import ConversationEncoder
    from trainer.model_loading import ModelArguments, load_model
    from trainer.parts import keep_trained_in_float32, prepare_parts
    from trainer.planning.counted_products import CountedProducts
    from trainer.recipes import RecipeParser
    from train import DataArguments

    plain = "--plain" in arguments
    arguments = [argument for argument in arguments if argument != "--plain"]
    model_arguments, data, config, _ = RecipeParser((ModelArguments, DataArguments, LangBridgeSFTConfig)).parse(arguments)
    torch.ones(64, 64) @ torch.ones(64, 64)
    before = resident()
    set_seed(0)
    needs_folder = model_arguments.load_in_4bit or "lora" in config.modes().values()
    model, processor = load_model(model_arguments, Path(config.output_dir, "base"), needs_folder)
    seconds, tokens, products = [], [], CountedProducts()

    class Steps(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            self.counts = state.global_step == args.max_steps - 1
            if self.counts:
                products.__enter__()
            wait_for_gpu()
            self.began = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            wait_for_gpu()
            if self.counts:
                products.__exit__(None, None, None)
            elif state.global_step > UNCOUNTED_STEPS:
                seconds.append(time.perf_counter() - self.began)
            else:
                tokens.clear()

    class Counted:
        def compute_loss(self, model, inputs, *args, **kwargs):
            packed = inputs.get("num_tokens")
            tokens.append(int(inputs["attention_mask"].sum() if packed is None else packed))
            return super().compute_loss(model, inputs, *args, **kwargs)

    dataset = load_training_data(data.dataset, **data.image_options())
    if plain:
        encoder = ConversationEncoder(processor, config.plain_captions)
        collator = ConversationCollator(encoder)
        config.remove_unused_columns = False
        prepare_parts(model, config)
        keep_trained_in_float32(model)
        kind = type("Plain", (Counted, Trainer), {})
        trainer = kind(
            model,
            config,
            data_collator=lambda rows: {k: v for k, v in collator(rows).items() if k != "sample_ids"},
            train_dataset=dataset,
        )
    else:
        kind = type("Ours", (Counted, LangBridgeSFTTrainer), {})
        trainer = kind(model, config, processing_class=processor, train_dataset=dataset)
    trainer.add_callback(Steps())
    forget_peak()
    trainer.train()
    last = config.gradient_accumulation_steps  # the batches of the step whose products were counted
    return {
        "memory": peak() - before,
        "seconds": statistics.median(seconds),
        "tokens": sum(tokens[:-last]) / sum(seconds),
        "multiply_adds": {str(dtype).removeprefix("torch."): n for dtype, n in products.multiply_adds.items()},
    }


def on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def wait_for_gpu() -> None:
    import torch

    if on_gpu():
        torch.cuda.synchronize()


def resident() -> int:
    """The bytes that this process holds: of the GPU where there is one."""
    if on_gpu():
        return 0  # torch's own count begins with the first tensor
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize()


def forget_peak() -> None:
    """The peak is counted from here on."""
    if on_gpu():
        import torch

        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak() -> int:
    """The most bytes that were held since."""
    if on_gpu():
        import torch

        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


if __name__ == "__main__":
    print(json.dumps(run(sys.argv[1:])))
