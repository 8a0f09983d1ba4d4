# SPDX-License-Identifier: Apache-2.0
"""Two minutes of training that anyone can watch, on drawn scenes, and its checkpoint in the hands of transformers."""

import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset

from experiments.synthetic.scene_captions import scene_dataset
from experiments.synthetic.synthetic_world import PROMPT, Scene, make_scenes
from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
from trainer.muon import build_muon
from trainer.sft_trainer import LangBridgeSFTConfig, LangBridgeSFTTrainer


BATCH_SIZE = 8
LEARNING_RATE = 1e-2
POINTS = 12  # of the loss, at least
SHOWN = 4  # held-out scenes that are captioned at the end
# What a user of the checkpoint types; nothing of this project is imported.
LOAD = """
import json, sys
from transformers import pipeline

checkpoint, prompt, *pictures = sys.argv[1:]
pipe = pipeline("image-text-to-text", model=checkpoint, trust_remote_code=True)
contents = [[{"type": "image", "path": picture}, {"type": "text", "text": prompt}] for picture in pictures]
chats = [[{"role": "user", "content": content}] for content in contents]
answers = pipe(text=chats, return_full_text=False, generate_kwargs={"max_new_tokens": 24, "do_sample": False})
print(json.dumps([answer[0]["generated_text"].strip() for answer in answers]))
"""


def train_on_scenes(
    model: LangBridgeForConditionalGeneration, processor: LangBridgeProcessor, steps: int, held_out: int, folder: Path
) -> None:
    """
    Trains the adapter on captions of drawn scenes, through the frozen language model.

    Args:
        model, processor (`LangBridgeForConditionalGeneration`, `LangBridgeProcessor`): To be trained.
        steps (`int`): Of eight scenes.
        held_out (`int`): How many scenes are kept out of the training, with pairs of colour and shape that it lacks.
        folder (`Path`): Gets the checkpoint in `checkpoint`, the pictures of four held-out scenes, and `log.json`: the
            loss along the training, and that of the held-out captions before and after.
    """
    train, test = (
        make_scenes(number, (kind,), seed=0)
        for number, kind in ((steps * BATCH_SIZE, "train"), (held_out, "held_out"))
    )
    for number, scene in enumerate(test[:SHOWN]):
        scene.draw().save(folder / f"scene_{number}.png")
    arguments = LangBridgeSFTConfig(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=BATCH_SIZE,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        activation_checkpointing=False,  # TRL would trade time for memory
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        logging_steps=max(1, steps // POINTS),
        seed=0,
    )
    trainer = LangBridgeSFTTrainer(
        model=model,
        args=arguments,
        train_dataset=as_dataset(train),
        eval_dataset=as_dataset(test),
        processing_class=processor,
    )
    # Given now, when everything except the adapter is frozen.
    trainer.optimizer = build_muon(model, LEARNING_RATE)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    log = {
        "losses": [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry],
        "held_out": [before, trainer.evaluate()["eval_loss"]],
    }
    (folder / "log.json").write_text(json.dumps(log) + "\n", encoding="utf-8")
    model.save_pretrained(folder / "checkpoint")
    processor.save_pretrained(folder / "checkpoint")


def as_dataset(scenes: Sequence[Scene]) -> Dataset:
    rng = random.Random(0)
    return scene_dataset([scene.draw() for scene in scenes], [scene.caption(rng) for scene in scenes])


def caption_in_fresh_process(checkpoint: Path, pictures: Sequence[Path]) -> list[str]:
    """
    What transformers' pipeline writes of pictures in a process that knows nothing but the checkpoint.

    Raises:
        `ChildProcessError`: the process failed; it has said why.
    """
    command = [sys.executable, "-c", LOAD, str(checkpoint.resolve()), PROMPT, *map(str, pictures)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise ChildProcessError(f"{checkpoint} cannot be loaded by transformers' pipeline, see above.")
    return json.loads(result.stdout.splitlines()[-1])
