# SPDX-License-Identifier: Apache-2.0
"""Conversations as token ids, with the assistant's answers as the only targets, whatever the chat template."""

import logging
import os
import re
from itertools import pairwise
from typing import Any

from PIL import Image
from transformers import ProcessorMixin

from modeling_langbridge.chat_templates import STAND_IN, begins_with_bos, find_end_of_turn, find_prompt_end

from .faults import SampleError
from .images import image_size
from .samples import read_sample, text_of


logger = logging.getLogger(__name__)

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
    place in the text is known without asking anything of the template. Its targets are the answer's tokens, the
    end-of-turn token behind them, and what the template writes between the generation prompt and the answer: a blank,
    or Qwen 3's empty thought. Inference ends its prompt before these, so that they are the model's own to write.
    Questions, headers, image placeholders and padding are -100.

    At its start the encoder compares the tokens before each answer of an example with those that inference makes, and
    warns where they differ.

    Args:
        processor (`ProcessorMixin`):
            The model's processor.
        plain_captions (`bool`, *optional*, defaults to `False`):
            Leave the question out: image, caption, end of text (LLaVA's "plain" form of the pretraining stage).

    Raises:
        [`SampleError`]: the chat template puts no end-of-turn token behind an answer, or rewrites it; or a text holds
            a special token of the tokenizer, such as `<|im_end|>`.
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
            self.chat_template = PLAIN_CAPTIONS
        added = [token for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        texts = sorted((str(token) for token in added if str(token).strip()), key=len, reverse=True)
        self.special_tokens = re.compile("|".join(map(re.escape, texts)))
        self.prompt_end = find_prompt_end(self.apply_template)
        end_of_turn = find_end_of_turn(self.tokenizer, self.chat_template)
        if end_of_turn is None:
            raise SampleError(
                "template",
                "the chat template puts no end-of-turn token behind an answer, so the model would not learn to stop; "
                "give the processor another `chat_template`",
            )
        # The same in every turn: a template that ends only the last has the next turn's beginning in its place.
        self.end_of_turn = re.compile(r"\s*" + re.escape(end_of_turn))
        self.render(make_example()[:2])  # refuses at once a template that hides the answers
        self.warn_of_other_prompts()

    def encode(self, row: dict[str, Any]) -> dict[str, Any]:
        """
        Encodes a row of any form that [`~trainer.data.samples.read_sample`] knows.

        Returns:
            The sample, with `input_ids` and `labels`, lists of equal length, and `num_image_tokens`, how many of them
            each image has.

        Raises:
            [`SampleError`]: the sample is faulty, or the chat template refuses it.
        """
        sample = read_sample(row)
        for message in sample["messages"]:
            if special := self.special_tokens.search(text_of(message)):
                # The tokenizer would make the token itself of it, which begins or ends turns.
                raise SampleError(
                    "special token", f"{special[0]} in a text is a special token of the tokenizer: write it otherwise"
                )
        text, spans = self.render(sample["messages"], sample["answers_from"])
        tokens = self.tokenize(text, [start for start, _ in spans])
        image_token_id = self.processor.image_token_id
        num_placeholders = sum(token_id == image_token_id for token_id, _, _ in tokens)
        if num_placeholders != len(sample["images"]):
            raise SampleError(
                "placeholder mismatch",
                f"the chat template writes {num_placeholders} image placeholders for {len(sample['images'])} images",
            )
        num_image_tokens = self.count_image_tokens(sample["images"])
        input_ids, labels, counts = [], [], iter(num_image_tokens)
        for token_id, start, end in tokens:
            if token_id == image_token_id:
                count = next(counts)
                input_ids += [token_id] * count
                labels += [-100] * count
                continue
            is_target = any(start < span_end and end > span_start for span_start, span_end in spans)
            input_ids.append(token_id)
            labels.append(token_id if is_target else -100)
        return {**sample, "input_ids": input_ids, "labels": labels, "num_image_tokens": num_image_tokens}

    def length(self, row: dict[str, Any]) -> int:
        """Tokens of the whole conversation, those of its images counted."""
        return len(self.encode(row)["input_ids"])

    def count_image_tokens(self, images: list[Any]) -> list[int]:
        """The visual tokens of each image; where they are tiles, by its size."""
        if self.num_image_tokens is not None:
            return [self.num_image_tokens] * len(images)
        if not images:
            return []
        return self.processor._get_num_multimodal_tokens(list(map(image_size, images))).num_image_tokens

    def advise(self, num_image_tokens: int) -> str:
        """What makes a sample of tiles shorter, as the end of a sentence; empty where images have no tiles."""
        if self.num_image_tokens is not None or not num_image_tokens:
            return ""
        return (
            f"; {num_image_tokens} of them are its images', which smaller resolutions in `image_grid_pinpoints` or "
            "`words_per_image` make fewer"
        )

    def render(self, messages: list[dict], answers_from: int = 0) -> tuple[str, list[tuple[int, int]]]:
        """The conversation as text, and where in it each answer to be trained on begins and ends, in characters."""
        answers, hollow = [], []
        for message in messages:
            if message["role"] == "assistant":
                answers.append(text_of(message))
                message = {**message, "content": [{"type": "text", "text": STAND_IN}]}
            hollow.append(message)
        frame = self.apply_template(hollow).split(STAND_IN)
        text = self.apply_template(messages)
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
            spans.append((position - self.num_own(before), position + len(answer) + end.end()))
            position += len(answer) + len(after)
        if text != frame[0] + "".join(answer + after for answer, after in zip(answers, frame[1:], strict=True)):
            raise SampleError("template", "the chat template changes the answers, so that they cannot be told apart")
        num_given = sum(message["role"] == "assistant" for message in messages[:answers_from])
        return text, spans[num_given:]

    def apply_template(self, messages: list[dict], **options: Any) -> str:
        try:
            return self.tokenizer.apply_chat_template(
                messages, chat_template=self.chat_template, tokenize=False, **options
            )
        except Exception as error:  # a template may fail in as many ways as there are templates
            raise SampleError("template", f"the chat template refuses the conversation: {error}") from error

    def num_own(self, before: str) -> int:
        """How many characters in front of an answer are the model's own to write, since a prompt ends before them."""
        if self.prompt_end and self.prompt_end in before:
            return len(before.rpartition(self.prompt_end)[2])
        # Without a generation prompt, a header is not the model's to write, but a space is.
        return len(before) - len(before.rstrip(" "))

    def tokenize(self, text: str, starts: list[int]) -> list[tuple[int, int, int]]:
        """
        Tokens with the characters where they begin and end.

        The text is cut where a token would lie across the start of an answer, since the prompt ends there: Qwen 3.5's
        ends with "<think>\\n", and "\\n\\n" is one token.
        """
        adds_special_tokens = not begins_with_bos(self.tokenizer, text)
        tokens = self.tokenize_piece(text, 0, adds_special_tokens)
        cuts = [cut for cut in starts if any(start < cut < end for _, start, end in tokens)]
        if cuts:
            tokens = []
            for start, end in pairwise([0, *cuts, len(text)]):
                tokens += self.tokenize_piece(text[start:end], start, adds_special_tokens and start == 0)
        return tokens

    def tokenize_piece(self, text: str, position: int, add_special_tokens: bool) -> list[tuple[int, int, int]]:
        encoding = self.tokenizer(
            text, add_special_tokens=add_special_tokens, return_offsets_mapping=True, verbose=False
        )
        offsets = encoding["offset_mapping"]
        return [
            (token_id, position + start, position + end)
            for token_id, (start, end) in zip(encoding["input_ids"], offsets, strict=True)
        ]

    def warn_of_other_prompts(self) -> None:
        """Compares what an example's answers are taught behind with what inference asks for them behind."""
        messages = make_example()
        for conversation in (messages[:2], messages):
            try:
                encoded = self.encode({"messages": conversation})
            except SampleError:  # such samples are refused when they come, and a file may have none of them
                return
            labels = encoded["labels"]
            starts = [i for i, label in enumerate(labels) if label != -100 and labels[i - 1] == -100]
            for number, start in enumerate(starts, 1):
                taught = encoded["input_ids"][:start]
                asked = self.processor.apply_chat_template(
                    conversation[: 2 * number - 1],
                    chat_template=self.chat_template,
                    add_generation_prompt=True,
                    tokenize=True,
                    return_dict=True,
                )["input_ids"][0]
                if taught != asked:
                    same = len(os.path.commonprefix([taught, asked]))
                    seen = slice(max(0, same - 3), same + 12)
                    logger.warning(
                        "Answer %d of a conversation is taught behind %r, but inference asks for it behind %r: give "
                        "the processor a `chat_template` that writes the same before an answer and in its prompt.",
                        number,
                        self.tokenizer.decode(taught[seen]),
                        self.tokenizer.decode(asked[seen]),
                    )
                    return


def make_example() -> list[dict]:
    """Two questions, one with an image and several texts, and their answers."""
    texts = [[{"type": "text", "text": text}] for text in ("What", "is it?", "a dog", "Where?", "here")]
    image = {"type": "image", "image": Image.new("RGB", (64, 64))}
    contents = [[image, *texts[0], *texts[1]], *texts[2:]]
    return [{"role": ("user", "assistant")[turn % 2], "content": content} for turn, content in enumerate(contents)]
