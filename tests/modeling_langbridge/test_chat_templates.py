# SPDX-License-Identifier: Apache-2.0
"""Extended chat templates mark what the assistant writes, so that other trainers find the targets of ours."""

import pytest
import torch
from datasets import Dataset
from tiny_parts import make_image
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from modeling_langbridge import LangBridgeProcessor
from modeling_langbridge.chat_templates import complete_template
from trainer.data.conversations import ConversationEncoder


TOKENIZERS = ["gpt2", "llama2", "llama3", "mistral", "phi2", "qwen2", "smollm"]


def talk(*texts: str, image: bool = True) -> list[dict]:
    """A conversation; its first question shows an image."""
    messages = [
        {"role": ("user", "assistant")[turn % 2], "content": [{"type": "text", "text": text}]}
        for turn, text in enumerate(texts)
    ]
    if image:
        messages[0]["content"].insert(0, {"type": "image", "image": make_image()})
    return messages


CONVERSATIONS = {
    "one turn": talk("What is it?", "a dog"),
    "two turns": talk("What is it?", "a dog", "Where?", "on the grass"),
    "an answer that the headers contain": talk("assistant", "a", "user", "s"),
    "an answer that the question contains": talk("yes or no, user?", "yes", "yes?", "yes"),
    "blanks around": talk(" What? ", " a dog \n", "Where?", "\there"),
    "many lines": talk("What?", "a\n\ndog\n", "Where?", "here"),
    "text alone": talk("What is it?", "a dog", image=False),
}


@pytest.fixture(params=TOKENIZERS, scope="module")
def real_processor(request, vision, data) -> LangBridgeProcessor:
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizers" / request.param)
    return LangBridgeProcessor.from_vision_text_pretrained(vision, "", tokenizer=tokenizer)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_marked_tokens_are_the_targets_of_our_trainer(real_processor, name):
    messages = CONVERSATIONS[name]
    encoded = ConversationEncoder(real_processor).encode({"messages": messages})
    marked = real_processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert marked["input_ids"][0] == encoded["input_ids"]
    targets = [int(label != -100) for label in encoded["labels"]]
    assert marked["assistant_masks"][0] == targets
    assert 0 < sum(targets) < len(targets)


UPPER = (
    "{% for message in messages %}{{ message.role + ':' + message.content | upper + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:' }}{% endif %}"
)
ENDLESS = "{% for message in messages %}{{ message.role + ':' + message.content + '\n' }}{% endfor %}"


def test_a_template_that_ends_no_turn_stays_as_it_is(processor):
    assert complete_template(processor.tokenizer, ENDLESS).endswith(ENDLESS)


def test_an_answer_that_the_template_changes_is_written_without_marks(processor):
    template = UPPER.replace("upper", "replace('cat', 'dog')")
    completed = complete_template(processor.tokenizer, template)

    def mark(answer: str) -> tuple[list[int], list[int]]:
        options = {"chat_template": completed, "tokenize": True, "return_dict": True}
        messages = talk("What?", answer, image=False)
        marked = processor.tokenizer.apply_chat_template(messages, return_assistant_tokens_mask=True, **options)
        return marked["input_ids"], marked["assistant_masks"]

    (dog, dog_marks), (cat, cat_marks) = mark("a dog"), mark("a cat")
    assert dog == cat
    assert any(dog_marks)
    assert not any(cat_marks)


def test_a_template_with_marks_of_its_own_keeps_them(processor):
    own = (
        "{% for message in messages %}{{ message.role }}{% if message.role == 'assistant' %}"
        "{% generation %}{{ message.content + eos_token }}{% endgeneration %}{% else %}{{ message.content }}"
        "{% endif %}{% endfor %}"
    )
    completed = complete_template(processor.tokenizer, own)
    assert completed.endswith(own)


def with_place(messages: list[dict]) -> list[dict]:
    """Messages whose image is in a column of its own."""
    messages[0]["content"].insert(0, {"type": "image", "text": None})
    return messages


def test_trls_trainer_learns_answers_alone_from_messages(model, processor, tmp_path):
    rows = [
        {
            "messages": with_place(talk("What is in the picture?", f"a {colour} ball", image=False)),
            "images": [make_image()],
        }
        for colour in ("red", "blue")
    ]
    options = SFTConfig(
        output_dir=str(tmp_path),
        assistant_only_loss=True,
        max_length=None,
        report_to="none",
        per_device_train_batch_size=2,
        use_cpu=True,
        bf16=False,
    )
    trainer = SFTTrainer(model, options, processing_class=processor, train_dataset=Dataset.from_list(rows))
    batch = next(iter(trainer.get_train_dataloader()))
    taught = [
        processor.tokenizer.decode(ids[labels != -100])
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)
    ]
    eos = processor.tokenizer.eos_token
    assert sorted(text.strip() for text in taught) == [f"a blue ball{eos}", f"a red ball{eos}"]
    assert torch.isfinite(trainer.compute_loss(trainer.model, dict(batch)))
