# SPDX-License-Identifier: Apache-2.0
"""Loads a LangBridge by its Hub id, and streams its answers about a photo."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TextIteratorStreamer,
)


MAX_NEW_TOKENS = 128
NOT_FINITE = "The model computes values that are not finite: its weights are broken, or its precision is too low."


def load_model(name: str, revision: str | None = None) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Loads a model, onto the GPU where there is one, and its processor.

    Args:
        name (`str`): Hub id or folder.
        revision (`str`, *optional*): Commit, tag or branch on the Hub.

    Raises:
        `ValueError`: the name is empty, or does not name a LangBridge model.
    """
    if not name:
        raise ValueError("Set the variable MODEL_ID to the Hub id of a LangBridge model.")
    where = {"revision": revision, "trust_remote_code": True}
    try:
        if "text_config" not in PreTrainedConfig.get_config_dict(name, revision=revision)[0]:
            raise ValueError("its config.json has no `text_config`")  # transformers would make up a model of 7B
        model_type = AutoConfig.from_pretrained(name, **where).model_type
        if model_type != "langbridge":
            raise ValueError(f"its model_type is {model_type}")
        processor = AutoProcessor.from_pretrained(name, **where)
        model, loaded = AutoModelForImageTextToText.from_pretrained(name, output_loading_info=True, **where)
        if missing := sorted(loaded["missing_keys"]):  # transformers has made them up
            raise ValueError(f"it lacks {len(missing)} weights, such as `{missing[0]}`")
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".:")
        raise ValueError(f"MODEL_ID must be the Hub id of a LangBridge model, not {name} ({reason}).") from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), processor


class RefuseNonFinite(LogitsProcessor):
    """Stops where the model computes NaN or infinity, of which it would write nonsense."""

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not (scores < torch.inf).all():  # -inf is a suppressed token
            raise FloatingPointError(NOT_FINITE)
        return scores  # (batch, tokens of the tokenizer)


def spell_out(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Puts a space into the special tokens in a text, such as an image token, so that they are read as text."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    for token in sorted(special, key=len, reverse=True):
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def stream_answer(model: PreTrainedModel, processor: ProcessorMixin, photo: Image.Image, prompt: str) -> Iterator[str]:
    """Yields the text that the model generates for a photo and a prompt, each time all of it so far.

    Raises:
        `FloatingPointError`: the model computes NaN or infinity.
    """
    content = [{"type": "image", "image": photo}, {"type": "text", "text": spell_out(processor.tokenizer, prompt)}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    ).to(model.device, dtype=model.dtype)
    streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
    text = ""
    with ThreadPoolExecutor(1) as executor:
        writing = executor.submit(
            model.generate,
            **inputs,
            streamer=streamer,
            do_sample=False,
            max_new_tokens=MAX_NEW_TOKENS,
            logits_processor=LogitsProcessorList([RefuseNonFinite()]),
        )
        writing.add_done_callback(lambda _: streamer.end())  # `generate` does not end the stream where it fails
        for piece in streamer:
            text += piece
            yield text.strip()
        writing.result()
    yield text.strip() or "(The model wrote nothing.)"
