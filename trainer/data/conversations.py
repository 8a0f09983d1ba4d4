# SPDX-License-Identifier: Apache-2.0
"""Conversations as token ids, with the assistant's answers as the only targets, whatever the chat template."""

import re
from typing import Any

from transformers import ProcessorMixin

from modeling_langbridge.processing_langbridge import STAND_IN, find_end_of_turn

from .samples import SampleError, read_sample, text_of


# LLaVA's "plain" form of the pretraining stage: the image, then its caption; the question is left out.
PLAIN_CAPTIONS = """\
{%- for message in messages -%}
    {%- for block in message.content -%}
        {%- if block.type == 'image' -%}{{- '<image>' -}}
        {%- elif message.role == 'assistant' -%}{{- block.text -}}
        {%- endif -%}
    {%- endfor -%}
    {%- if message.role == 'assistant' -%}{{- eos_token -}}{%- endif -%}
{%- endfor -%}
"""


class ConversationEncoder:
    """
    Turns a sample into token ids and labels.

    The conversation is rendered twice, once with its answers and once with a stand-in for each, so that every answer's
    place in the text is known without asking anything of the template. Its targets are the answer's tokens and the
    end-of-turn token behind them; questions, headers, image placeholders and padding are -100.

    Args:
        processor (`ProcessorMixin`):
            The model's processor.
        plain_captions (`bool`, *optional*, defaults to `False`):
            Leave the question out: image, caption, end of text (LLaVA's "plain" form of the pretraining stage).

    Raises:
        [`SampleError`]: the chat template puts no end-of-turn token behind an answer, or rewrites it.
        `ValueError`: the tokenizer is no fast one.
    """

    def __init__(self, processor: ProcessorMixin, plain_captions: bool = False):
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.num_image_tokens = processor.num_image_tokens
        if not self.tokenizer.is_fast:
            raise ValueError(
                f"{type(self.tokenizer).__name__} cannot tell where its tokens begin: use a fast tokenizer."
            )
        template = processor.chat_template
        self.chat_template = template["default"] if isinstance(template, dict) else template
        if plain_captions:
            bos = self.tokenizer.bos_token_id
            begins_with_bos = bos is not None and self.tokenizer("a").input_ids[0] == bos
            self.chat_template = ("{{- bos_token -}}\n" if begins_with_bos else "") + PLAIN_CAPTIONS
        end_of_turn = find_end_of_turn(self.tokenizer, self.chat_template)
        if end_of_turn is None:
            raise SampleError(
                "template",
                "the chat template puts no end-of-turn token behind an answer, so the model would not learn to stop; "
                "give the processor another `chat_template`",
            )
        # The same in every turn: a template that ends only the last has the next turn's beginning in its place.
        self.end_of_turn = re.compile(r"\s*" + re.escape(end_of_turn))

    def encode(self, row: dict[str, Any]) -> dict[str, Any]:
        """
        Encodes a row of any form that [`~trainer.data.samples.read_sample`] knows.

        Returns:
            The sample, with `input_ids` and `labels`, lists of equal length.

        Raises:
            [`SampleError`]: the sample is faulty, or the chat template refuses it.
        """
        sample = read_sample(row)
        text, spans = self.render(sample["messages"], sample["answers_from"])
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        image_token_id = self.processor.image_token_id
        num_placeholders = encoding["input_ids"].count(image_token_id)
        if num_placeholders != len(sample["images"]):
            raise SampleError(
                "placeholder mismatch",
                f"the chat template writes {num_placeholders} image placeholders for {len(sample['images'])} images",
            )
        input_ids, labels = [], []
        for token_id, (start, end) in zip(encoding["input_ids"], encoding["offset_mapping"], strict=True):
            if token_id == image_token_id:
                input_ids += [token_id] * self.num_image_tokens
                labels += [-100] * self.num_image_tokens
                continue
            is_target = any(start < span_end and end > span_start for span_start, span_end in spans)
            input_ids.append(token_id)
            labels.append(token_id if is_target else -100)
        return {**sample, "input_ids": input_ids, "labels": labels}

    def length(self, row: dict[str, Any]) -> int:
        """Tokens of the whole conversation, those of its images counted."""
        return len(self.encode(row)["input_ids"])

    def render(self, messages: list[dict], answers_from: int = 0) -> tuple[str, list[tuple[int, int]]]:
        """The conversation as text, and where in it each answer to be trained on begins and ends, in characters."""
        answers, hollow = [], []
        for message in messages:
            if message["role"] == "assistant":
                answers.append(text_of(message))
                message = {**message, "content": [{"type": "text", "text": STAND_IN}]}
            hollow.append(message)
        try:
            frame = self.apply_template(hollow).split(STAND_IN)
            text = self.apply_template(messages)
        except Exception as error:  # a template may fail in as many ways as there are templates
            raise SampleError("template", f"the chat template refuses the conversation: {error}") from error
        if len(frame) != len(answers) + 1:
            raise SampleError("template", "the chat template does not write each answer once")
        spans, position = [], len(frame[0])
        for answer, before, after in zip(answers, frame, frame[1:], strict=False):
            end = self.end_of_turn.match(after)
            if end is None:
                raise SampleError(
                    "template",
                    "the chat template puts no end-of-turn token behind an answer, so the model would not learn to "
                    "stop; give the processor another `chat_template`",
                )
            # A space in front of an answer is the model's own to write: generation prompts end without it.
            start = position - (len(before) - len(before.rstrip(" ")))
            spans.append((start, position + len(answer) + end.end()))
            position += len(answer) + len(after)
        if text != frame[0] + "".join(answer + after for answer, after in zip(answers, frame[1:], strict=True)):
            raise SampleError("template", "the chat template changes the answers, so that they cannot be told apart")
        num_given = sum(message["role"] == "assistant" for message in messages[:answers_from])
        return text, spans[num_given:]

    def apply_template(self, messages: list[dict]) -> str:
        return self.tokenizer.apply_chat_template(messages, chat_template=self.chat_template, tokenize=False)
