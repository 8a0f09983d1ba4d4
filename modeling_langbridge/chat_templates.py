# SPDX-License-Identifier: Apache-2.0
"""A language model's chat template, extended: it takes images, begins as the tokenizer begins text, marks answers."""

import json
from collections.abc import Callable
from functools import partial

from transformers import PreTrainedTokenizerBase


# Converts content, strings and blocks alike, into the plain strings that a language model's own template expects.
# Texts keep their blanks. Where two parts have none between them, an image gets a line break and a text a space.
# Answers are trimmed, as training teaches them.
FLATTEN_CONTENT = """\
{%- macro gap(left, right) -%}
    {%- if left and right and left == left.rstrip() and right == right.lstrip() -%}
        {{- '\\n' if left.endswith('<image>') or right == '<image>' else ' ' -}}
    {%- endif -%}
{%- endmacro -%}
{%- set flat = namespace(messages=[]) -%}
{%- for message in messages -%}
    {%- set flat.content = message.content -%}
    {%- if message.content is not none -%}
        {%- set flat.content = '' -%}
        {%- set is_text = message.content is string -%}
        {%- for block in ([{'type': 'text', 'text': message.content}] if is_text else message.content) -%}
            {%- if block.type == 'image' or block.type == 'image_url' -%}
                {%- set pieces = ['', ''] -%}
            {%- elif block.type == 'text' -%}
                {%- set pieces = block.text.split('<image>') -%}
            {%- else -%}
                {{- raise_exception('LangBridge reads text and images, not ' ~ block.type ~ '.') -}}
            {%- endif -%}
            {%- for piece in pieces -%}
                {%- if not loop.first -%}
                    {%- set flat.content = flat.content + gap(flat.content, '<image>') + '<image>' -%}
                {%- endif -%}
                {%- set flat.content = flat.content + gap(flat.content, piece) + piece -%}
            {%- endfor -%}
        {%- endfor -%}
        {%- if message.role == 'assistant' -%}{%- set flat.content = flat.content | trim -%}{%- endif -%}
    {%- endif -%}
    {%- set flat.messages = flat.messages + [dict(message, content=flat.content)] -%}
{%- endfor -%}
{%- set messages = flat.messages -%}
"""

# For tokenizers without a chat template.
PLAIN_TEMPLATE = """\
{%- for message in messages -%}
    {%- if not loop.first -%}{{- '\\n' -}}{%- endif -%}
    {{- message.role | upper + ':' -}}
    {%- if message.role == 'assistant' -%}
        {%- generation -%}{{- ' ' + message.content + eos_token -}}{%- endgeneration -%}
    {%- else -%}
        {{- ' ' + message.content -}}
    {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '\\nASSISTANT:' -}}{%- endif -%}
"""

# Puts what the assistant writes into `generation` blocks, by which transformers and TRL tell targets (as in
# `assistant_only_loss`): the answer, the end-of-turn token behind it, and what stands between the generation prompt
# and the answer. Where they are is seen from the same conversation with a stand-in for every answer. A conversation
# whose answers the language model's template changes is written without blocks.
MARK_ANSWERS = """\
{%- set marks = namespace(answers=[], hollow=[], joined='', start=0, found=true) -%}
{%- for message in messages -%}
    {%- if message.role == 'assistant' and message.content is string -%}
        {%- set marks.answers = marks.answers + [message.content] -%}
        {%- set marks.hollow = marks.hollow + [dict(message, content=STAND_IN)] -%}
    {%- else -%}
        {%- set marks.hollow = marks.hollow + [message] -%}
    {%- endif -%}
{%- endfor -%}
{%- set whole = write(messages) | string -%}
{%- set frame = (write(marks.hollow) | string).split(STAND_IN) -%}
{%- if frame | length == marks.answers | length + 1 -%}
    {%- set marks.joined = frame[0] -%}
    {%- for answer in marks.answers -%}
        {%- set marks.joined = marks.joined + answer + frame[loop.index] -%}
        {%- set marks.found = marks.found and frame[loop.index].lstrip().startswith(END_OF_TURN) -%}
    {%- endfor -%}
{%- endif -%}
{%- if marks.joined != whole or not marks.found or not marks.answers -%}
    {{- whole -}}
{%- else -%}
    {%- for answer in marks.answers -%}
        {%- set before = frame[loop.index0][marks.start:] -%}
        {%- set after = frame[loop.index] -%}
        {%- set marks.start = after.find(END_OF_TURN) + END_OF_TURN | length -%}
        {%- if PROMPT_END and PROMPT_END in before -%}
            {%- set own = before.rpartition(PROMPT_END)[2] | length -%}
        {%- else -%}
            {%- set own = before | length - before.rstrip(' ') | length -%}
        {%- endif -%}
        {{- before[:before | length - own] -}}
        {%- generation -%}
            {{- before[before | length - own:] + answer + after[:marks.start] -}}
        {%- endgeneration -%}
    {%- endfor -%}
    {{- frame[-1][marks.start:] -}}
{%- endif -%}
"""

# Stands for an answer while a template is rendered: private-use characters, which no text has in this order.
STAND_IN = "\ue000\uf8ff\ue000"


def add_missing_tokens(tokenizer: PreTrainedTokenizerBase):
    """Adds to a tokenizer, in place, an image token, and a pad token and a chat template where it has none."""
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    if tokenizer.pad_token is None:
        # Not the end-of-turn token: a model trained with it as padding never learns to stop.
        tokenizer.add_special_tokens({"pad_token": "<pad>"})
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    if isinstance(tokenizer.chat_template, dict):
        tokenizer.chat_template = {
            name: complete_template(tokenizer, template) for name, template in tokenizer.chat_template.items()
        }
    else:
        tokenizer.chat_template = complete_template(tokenizer, tokenizer.chat_template)


def complete_template(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """Extends a chat template: it takes `{"type": "image"}` blocks, begins as the tokenizer begins text, and marks
    answers."""
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}
    try:
        rendered = tokenizer.apply_chat_template([message], chat_template=template, tokenize=False)
    except Exception:  # a template may raise anything; it then expects strings
        rendered = ""
    if rendered.count("<image>") != 1:
        flattening = FLATTEN_CONTENT + template
        try:
            rendered = tokenizer.apply_chat_template([message], chat_template=flattening, tokenize=False)
        except Exception:  # training reports it
            return flattening
        template = FLATTEN_CONTENT + mark_answers(tokenizer, template)
    if adds_bos(tokenizer) and not begins_with_bos(tokenizer, rendered):
        # Some ways to tokenize a rendered text add the token and some do not: the template makes them all alike.
        template = "{{- bos_token }}" + template
    return template


def mark_answers(tokenizer: PreTrainedTokenizerBase, template: str) -> str:
    """A chat template of string contents with its answers in `generation` blocks; as it is where it has blocks of its
    own, ends no turn, or would be written otherwise."""
    try:
        end_of_turn = find_end_of_turn(tokenizer, FLATTEN_CONTENT + template)
    except Exception:  # as of a tokenizer without an end-of-text token, whose template writes one; training reports it
        return template
    if end_of_turn is None or "endgeneration" in template:
        return template
    strings = {
        "STAND_IN": STAND_IN,
        "END_OF_TURN": end_of_turn,
        "PROMPT_END": find_prompt_end(
            partial(tokenizer.apply_chat_template, chat_template=FLATTEN_CONTENT + template, tokenize=False)
        ),
    }
    names = "".join(f"{{%- set {name} = {json.dumps(string)} -%}}" for name, string in strings.items())
    marked = f"{names}{{%- macro write(messages) %}}{template}{{% endmacro -%}}{MARK_ANSWERS}"
    conversation = [{"role": role, "content": f"the {role}"} for role in ("user", "assistant") * 2]
    for add_generation_prompt in (False, True):
        before, after = (
            tokenizer.apply_chat_template(
                conversation, chat_template=one, tokenize=False, add_generation_prompt=add_generation_prompt
            )
            for one in (template, marked)
        )
        if before != after:
            return template
    return marked


def find_prompt_end(apply_template: Callable[..., str]) -> str:
    """What a prompt ends with behind its question; empty where the template writes no generation prompt."""
    question = [{"role": "user", "content": [{"type": "text", "text": STAND_IN}]}]
    prompt = apply_template(question, add_generation_prompt=True)
    return "" if prompt == apply_template(question) else prompt.rpartition(STAND_IN)[2]


def adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer puts its beginning-of-text token in front of a text by itself."""
    return tokenizer.bos_token_id is not None and tokenizer("a").input_ids[0] == tokenizer.bos_token_id


def begins_with_bos(tokenizer: PreTrainedTokenizerBase, text: str) -> bool:
    """Whether a text begins with the beginning-of-text token, so that the tokenizer must not add another."""
    return tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)


def find_end_of_turn(tokenizer: PreTrainedTokenizerBase, chat_template: str) -> str | None:
    """The token that a chat template writes behind an answer, such as `<|im_end|>`; `None` where it writes none."""
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "content": [{"type": "text", "text": STAND_IN}]},
    ]
    text = tokenizer.apply_chat_template(messages, chat_template=chat_template, tokenize=False)
    behind = text.rpartition(STAND_IN)[2].lstrip()
    tokens = sorted(map(str, tokenizer.added_tokens_decoder.values()), key=len, reverse=True)
    # Phi's tokenizer has tokens of spaces alone.
    return next((token for token in tokens if token.strip() and behind.startswith(token)), None)
