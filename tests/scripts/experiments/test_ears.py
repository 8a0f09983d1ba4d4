# SPDX-License-Identifier: Apache-2.0
"""The ears from spoken sentences to tables, at tiny sizes: every stage, resuming, and what is refused."""

import json
import shutil

import pytest
import torch
from demo_parts import save_demo_parts
from little_text import link_with_little_text
from transformers import AutoTokenizer, WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from experiments.ears.adapter import compose, join
from experiments.ears.ctc import HeardWord
from experiments.ears.forms import FORMS, embed_words, mix_steps, mix_words
from experiments.ears.listening import Heard
from experiments.ears.measures import OF_OTHERS
from experiments.ears.running import run_ears
from experiments.ears.speech import check_espeak
from experiments.ears.world import QUICK, EarsWorld
from experiments.small_language_model import train_tokenizer
from modeling_langbridge import LangBridgeAdapter, SharedVocabulary
from modeling_langbridge.utils.files import read_json


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A folder of tiny random parts: `whisper_tiny_en`, and language models of two families."""
    folder = tmp_path_factory.mktemp("parts")
    save_demo_parts(folder)
    tokenizer = train_tokenizer(["a dog runs"], 300, "byte_level")
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=len(tokenizer),
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        max_target_positions=20,
        decoder_start_token_id=2,
        bos_token_id=2,
        eos_token_id=2,
        pad_token_id=2,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    whisper = WhisperForConditionalGeneration(config)
    whisper.generation_config.max_length = 5
    whisper.save_pretrained(folder / "whisper_tiny_en")
    WhisperFeatureExtractor().save_pretrained(folder / "whisper_tiny_en")
    tokenizer.save_pretrained(folder / "whisper_tiny_en")
    return folder


@torch.no_grad()
def test_what_is_heard_is_made_of_the_language_models_own_embeddings(parts):
    vocabulary = SharedVocabulary([" dog", " man", " girl"])
    torch.manual_seed(0)
    model, processor = compose(6, vocabulary, projector_hidden_size=8)
    for parameter in model.model.vocabulary_head.parameters():
        parameter.normal_()  # coefficients that differ
    adapter = LangBridgeAdapter.from_model(model, processor.tokenizer)
    joined = join(adapter, parts / "gemma3")
    tokenizer = AutoTokenizer.from_pretrained(parts / "gemma3")
    rows = joined[0].get_input_embeddings()(torch.tensor(vocabulary.token_ids(tokenizer)))  # Gemma scales them
    states = model.model.multi_modal_projector(5 * torch.randn(4, 6))
    heard = Heard([HeardWord(2, 0, 1), HeardWord(0, 2, 4)], states)
    torch.testing.assert_close(embed_words(joined, heard), rows[[2, 0]])
    coefficients = model.model.vocabulary_head(states)
    torch.testing.assert_close(mix_steps(joined, heard), coefficients @ rows)
    mixed = mix_words(joined, heard)
    share = coefficients[2:].sum(0) / coefficients[2:].sum()
    torch.testing.assert_close(mixed[1], share @ rows)
    assert embed_words(joined, Heard([], states)).shape == mix_words(joined, Heard([], states)).shape == (0, 32)


def test_without_espeak_nothing_is_begun(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(FileNotFoundError, match="apt-get install espeak-ng"):
        check_espeak()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="there is no espeak-ng")
def test_all_stages_lead_to_tables_and_a_second_run_repeats_none(data, parts, tmp_path):
    (tmp_path / "data").mkdir()
    names = ("smollm2", "gemma3")
    world = EarsWorld(
        data=link_with_little_text(data, tmp_path / "data"),
        output_dir=tmp_path / "output",
        sizes=QUICK,
        encoder=parts / "whisper_tiny_en",
        language_models={name: parts / name for name in names},
    )
    text = run_ears(world)
    results = json.loads((world.output_dir / "results.json").read_text())
    assert all(label in text for label in FORMS.values())
    for name in names:
        rows = results["language_models"][name]
        assert rows.keys() == {*(FORMS if name == "smollm2" else OF_OTHERS), "another"}
        assert rows["text"]["gain, share of text's"][0] == 1 and ("CIDEr" in rows["text"]) == (name == "smollm2")
        assert rows["nothing"]["gain"][0] == 0
    assert results["word_errors"]["**new voices, new sentences**"][0] == QUICK.test_sentences
    assert (world.output_dir / "ears.png").stat().st_size > 3_000
    adapter = LangBridgeAdapter.from_pretrained(world.output_dir / "trained" / "adapter")
    assert len(adapter.vocabulary) == QUICK.shared_words

    marks = {path: path.stat().st_mtime_ns for path in world.output_dir.glob("*/seconds.json")}
    assert len(marks) == len(results["seconds"])
    assert run_ears(world) == text
    assert {path: path.stat().st_mtime_ns for path in world.output_dir.glob("*/seconds.json")} == marks
    assert read_json(world.output_dir / "settings.json")["sizes"]["steps"] == QUICK.steps
