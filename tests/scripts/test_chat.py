# SPDX-License-Identifier: Apache-2.0
"""Chatting in the shell: one question, a dialogue, the photo's words, and answers that appear as they are written."""

import io
import sys

import pytest
import torch
from in_process import run_script_here
from paths import SCRIPTS
from tiny_parts import ask as question_about
from tiny_parts import make_image
from transformers import TextStreamer
from wordy_models import compose

from modeling_langbridge.reading.patch_words import strongest_words
from modeling_langbridge.reading.questions import prepare_conversations
from trainer.evaluation.captioning import ask
from trainer.evaluation.decoding import Decoding


SCRIPT = SCRIPTS / "chat.py"


@pytest.fixture(scope="module")
def saved(vision, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    model, processor = compose(vision, text, coefficient_activation="softmax")
    for parameter in model.model.language_model.layers.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.5)  # a language model that minds what it is told
    for part in (model, processor):
        part.save_pretrained(folder / "model")
    make_image().save(folder / "photo.png")
    return model, processor, folder


def one_line(text: str) -> str:
    return " ".join(text.split())


def chat(saved, *arguments, lines: str = "", monkeypatch=None):
    if monkeypatch is not None:
        monkeypatch.setattr(sys, "stdin", io.StringIO(lines))
    options = ("--model", saved[2] / "model", "--max_new_tokens", 6)
    result = run_script_here(SCRIPT, *options, *arguments)
    assert result.returncode == 0, result.stderr
    return result


def test_one_question_gets_the_models_answer_and_nothing_else(saved):
    model, processor, folder = saved
    result = chat(saved, "--image", folder / "photo.png", "--question", "what is it?")
    (expected,) = ask(model, processor, [make_image()], "what is it?", max_new_tokens=6)
    assert one_line(result.stdout) == expected and "words:" not in result.stderr
    blind = one_line(chat(saved, "--question", "what is it?").stdout)
    assert blind and blind != expected


def test_the_answer_is_written_while_it_is_generated(saved, monkeypatch):
    pieces = []
    monkeypatch.setattr(TextStreamer, "on_finalized_text", lambda self, text, stream_end=False: pieces.append(text))
    chat(saved, "--image", saved[2] / "photo.png", "--question", "what is it?")
    assert len(pieces) > 3


def test_the_photos_words_are_shown_beside_the_answer(saved):
    model, processor, folder = saved
    result = chat(saved, "--image", folder / "photo.png", "--question", "what is it?", "--words")
    words = strongest_words(model, processor, make_image()).photo
    assert "words: " + ", ".join(f"{word} {share:.1%}" for word, share in words) in result.stderr
    assert result.stdout == chat(saved, "--image", folder / "photo.png", "--question", "what is it?").stdout


def test_a_dialogue_remembers_the_photo_and_what_was_said(saved, monkeypatch):
    model, processor, folder = saved
    lines = "what is it?\n\na <image>?\nand where?\n"
    result = chat(saved, "--image", folder / "photo.png", lines=lines, monkeypatch=monkeypatch)
    first, second = result.stdout.splitlines()
    assert "The question is empty" in result.stderr and "The question holds <image>" in result.stderr
    messages = [
        *question_about(make_image(), "what is it?"),
        {"role": "assistant", "content": [{"type": "text", "text": first.strip()}]},
        {"role": "user", "content": [{"type": "text", "text": "and where?"}]},
    ]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    output = model.generate(**inputs, do_sample=False, max_new_tokens=6)
    expected = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert one_line(second) == one_line(expected)


def test_an_answer_keeps_closer_to_the_photo_in_every_turn(saved, monkeypatch):
    model, processor, folder = saved
    photo = ("--image", folder / "photo.png")
    plain = chat(saved, *photo, "--question", "what is it?").stdout
    options = (*photo, "--guidance_scale", "3", "--word_bias", "2")
    dialogue = chat(saved, *options, lines="what is it?\nand where?\n", monkeypatch=monkeypatch)
    first, second = dialogue.stdout.splitlines()
    assert chat(saved, *options, "--question", "what is it?").stdout.strip() == first.strip() != plain.strip()
    messages = [
        *question_about(make_image(), "what is it?"),
        {"role": "assistant", "content": [{"type": "text", "text": first.strip()}]},
        {"role": "user", "content": [{"type": "text", "text": "and where?"}]},
    ]
    inputs = prepare_conversations(processor, [messages])
    decoded = Decoding(3.0, 2.0).generate_kwargs(model, processor, [messages], inputs)
    output = model.generate(**inputs, **decoded, do_sample=False, max_new_tokens=6)
    expected = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert one_line(second) == one_line(expected)
