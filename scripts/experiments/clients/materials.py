# SPDX-License-Identifier: Apache-2.0
"""The tiny checkpoint with Qwen 2's chat template, and rows about photos in each form that the programs read."""

import json
from pathlib import Path

import torch
import yaml
from datasets import Dataset, Features, Image, List, Value
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.versions.checkpoint import NUM_WORDS, save_checkpoint
from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor
from modeling_langbridge.utils.files import atomic_folder


TURNS = ("<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message.role != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}"
    "{% endif %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
NUM_ROWS = 8
QUESTION = "what is in the picture?"
CHAT = List({"role": Value("string"), "content": Value("string")})
REWARD = "def length(completions, **_):\n    return [float(len(turns[0]['content'])) for turns in completions]\n"
FACTORY = {
    "model_name_or_path": "model",
    "trust_remote_code": True,
    "stage": "sft",
    "do_train": True,
    "finetuning_type": "full",
    "freeze_vision_tower": True,
    "freeze_multi_modal_projector": False,
    "template": "langbridge",
    "dataset_dir": ".",
    "dataset": "photos",
    "output_dir": "llama_factory",
    "per_device_train_batch_size": 2,
    "max_steps": 2,
    "learning_rate": 1e-2,
    "report_to": "none",
    "use_cpu": True,
}
FACTORY_DATA = {
    "file_name": "chats.json",
    "formatting": "sharegpt",
    "columns": {"messages": "messages", "images": "images"},
    "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"},
}


def save_materials(folder: Path) -> None:
    """Saves `model`, the rows, a reward and LLaMA-Factory's configuration in a new folder."""
    with atomic_folder(folder) as unfinished:
        save_checkpoint(unfinished / "parts")
        save_chat_model(unfinished / "parts", unfinished / "model")
        photo = str(folder.absolute() / "parts" / "photo.png")
        chat = [turn("user", f"<image>\n{QUESTION}"), turn("assistant", "a red ball")]
        (unfinished / "chats.json").write_text(json.dumps([{"messages": chat, "images": [photo]}] * NUM_ROWS))
        (unfinished / "dataset_info.json").write_text(json.dumps({"photos": FACTORY_DATA}))
        (unfinished / "llama_factory.yaml").write_text(yaml.safe_dump(FACTORY))
        question, answer = [turn("user", QUESTION)], [turn("assistant", "a red ball")]
        other = [turn("assistant", "a brown dog")]
        photos = [{"bytes": (unfinished / "parts" / "photo.png").read_bytes(), "path": None}]
        save_rows(unfinished / "messages", photos, messages=question + answer)
        save_rows(unfinished / "prompts_and_answers", photos, prompt=question, completion=answer)
        save_rows(unfinished / "preferences", photos, prompt=question, chosen=answer, rejected=other)
        save_rows(unfinished / "prompts", photos, prompt=question)
        (unfinished / "rewards.py").write_text(REWARD)


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def save_rows(folder: Path, photos: list[dict], **chats: list[dict[str, str]]) -> None:
    """Saves equal rows as `load_dataset(folder)` finds them."""
    folder.mkdir()
    features = Features({"images": List(Image()), **dict.fromkeys(chats, CHAT)})
    rows = [{"images": photos, **chats}] * NUM_ROWS
    Dataset.from_list(rows, features=features).to_parquet(folder / "train.parquet")


def save_chat_model(parts: Path, folder: Path) -> None:
    """A LangBridge of the tower and the language model in `parts`, whose turns end as Qwen's do."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(parts / "language_model")
    language_model = AutoModelForCausalLM.from_pretrained(parts / "language_model")
    tokenizer.add_special_tokens({"additional_special_tokens": list(TURNS)})
    tokenizer.eos_token, tokenizer.chat_template = TURNS[1], CHAT_TEMPLATE
    language_model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for config in (language_model.config, language_model.generation_config):
        config.eos_token_id = tokenizer.eos_token_id
    for part in (tokenizer, language_model):
        part.save_pretrained(parts / "chat_model")
    tower, text = str(parts / "tower"), str(parts / "chat_model")
    processor = LangBridgeProcessor.from_vision_text_pretrained(tower, text)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        tower, text, list(range(100, 100 + NUM_WORDS)), processor, projector_hidden_size=64
    )
    for part in (model, processor):
        part.save_pretrained(folder)
