# SPDX-License-Identifier: Apache-2.0
"""
What a stranger does with a saved checkpoint: loads it, asks it about a photo, and trains it for three steps.

    python -I use_checkpoint.py CHECKPOINT PHOTO RESULT

The Python of each environment runs this file by its path. It imports transformers alone: where the project can be
imported, its classes are used instead of the checkpoint's own code. RESULT is a JSON file of what each step gave, up
to the first that failed, with a traceback.
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments, pipeline


QUESTIONS = ["what is in the picture?", "is there a dog on the grass?"]
NEW_TOKENS = 12
TRAINING_STEPS = 3


class Checkpoint:
    def __init__(self, folder: str, photo: str):
        self.folder, self.photo = folder, photo

    def ask(self, question: str) -> list[dict]:
        return [
            {
                "role": "user",
                "content": [{"type": "image", "path": self.photo}, {"type": "text", "text": question}],
            }
        ]

    def loads(self) -> str:
        if importlib.util.find_spec("modeling_langbridge") is not None:
            raise RuntimeError("the project can be imported here: use a checkout, installed with `pip install -e`")
        self.model = AutoModelForImageTextToText.from_pretrained(self.folder, trust_remote_code=True)
        self.processor = AutoProcessor.from_pretrained(self.folder, trust_remote_code=True)
        return type(self.model).__name__

    def logits(self) -> list[list[float]]:
        """Those after two questions of different lengths, about the same photo, in one batch."""
        self.inputs = self.processor.apply_chat_template(
            [self.ask(question) for question in QUESTIONS],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        with torch.no_grad():
            return self.model(**self.inputs).logits[:, -1].tolist()

    def tokens(self) -> list:
        """Those that `generate` adds, and the answer that the pipeline gives."""
        settings = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
        generated = self.model.generate(**self.inputs, **settings)[:, self.inputs["input_ids"].shape[1] :]
        pipe = pipeline("image-text-to-text", model=self.folder, trust_remote_code=True)
        answer = pipe(text=self.ask(QUESTIONS[0]), **settings)
        return [*generated.tolist(), answer[0]["generated_text"][-1]["content"]]

    def losses(self) -> list[float]:
        """Those of steps of transformers' Trainer, in which every weight learns. TRL fits few versions at a time."""
        labels = self.inputs["input_ids"].clone()
        labels[(labels == self.processor.image_token_id) | (self.inputs["attention_mask"] == 0)] = -100
        batch = {**self.inputs, "labels": labels}
        with tempfile.TemporaryDirectory() as output_dir:
            arguments = TrainingArguments(
                output_dir=output_dir,
                max_steps=TRAINING_STEPS,
                per_device_train_batch_size=len(labels),
                learning_rate=1e-2,
                optim="adamw_torch",
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                remove_unused_columns=False,
                disable_tqdm=True,
            )
            rows = [{"row": index} for index in range(len(labels) * TRAINING_STEPS)]
            trainer = Trainer(self.model, arguments, data_collator=lambda rows: dict(batch), train_dataset=rows)
            trainer.train()
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    folder, photo, result = sys.argv[1:]
    torch.manual_seed(0)
    checkpoint = Checkpoint(folder, photo)
    found = {}
    try:
        for step in (checkpoint.loads, checkpoint.logits, checkpoint.tokens, checkpoint.losses):
            found[step.__name__] = step()
    finally:
        Path(result).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
