# SPDX-License-Identifier: Apache-2.0
"""transformers' pipeline gives a batch the answers that it gives each question alone."""

import pytest
import torch
from tiny_parts import ask, make_image, save_language_model
from transformers import AutoTokenizer, pipeline

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor


# Of three kinds: byte-level, SentencePiece, and byte-level with a chat template of its own.
TOKENIZERS = {"gpt2": "gpt2", "llama2": "llama2", "smollm": "smollm"}
QUESTIONS = ["what?", "what is in the picture? " * 3, "a dog or a boat in the blue water?"]


@pytest.mark.parametrize(("name", "family"), TOKENIZERS.items())
def test_a_batch_of_a_pipeline_is_answered_as_each_question_alone(name, family, vision, data, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizers" / name)
    tokenizer.padding_side = "right"  # as most that are on the Hub
    text = save_language_model(family, tmp_path / "text", vocab_size=len(tokenizer) + 8)
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text, tokenizer=tokenizer)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor=processor, projector_hidden_size=40
    )
    for parameter in model.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.3)  # as small as fresh weights are, all pictures look alike
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")

    pipe = pipeline("image-text-to-text", model=str(tmp_path / "model"))
    chats = [ask(make_image(colour), question) for colour in ("red", "blue") for question in QUESTIONS]
    options = {"max_new_tokens": 4, "do_sample": False, "return_full_text": False}
    alone = [pipe(text=chat, **options)[0]["generated_text"] for chat in chats]
    batched = [answers[0]["generated_text"] for answers in pipe(text=chats, batch_size=4, **options)]
    assert batched == alone
    assert len(set(alone)) > 3
