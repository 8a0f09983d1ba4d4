# SPDX-License-Identifier: Apache-2.0
"""Semantic arithmetic: photos and words are added and subtracted, and the sum's words, photos and caption follow."""

import json
import sys
from pathlib import Path

import pytest
import torch
from in_process import run_script_here
from paths import SCRIPTS
from tiny_parts import SENTENCES, ask, make_image
from tiny_training import load_script
from tokenizers.processors import TemplateProcessing
from torch.nn import functional as F

from modeling_langbridge import LangBridgeForConditionalGeneration, LangBridgeProcessor, SharedVocabulary
from trainer.data.caption_words import CaptionWords
from trainer.evaluation.semantic_arithmetic import (
    add_tokens,
    add_words,
    caption_tokens,
    embed_text,
    read_tokens,
    read_words,
    text_distribution,
)
from trainer.evaluation.word_scores import pool_photos, reading_words, visual_tokens


SCRIPT = SCRIPTS / "arithmetic.py"
COLOURS = ("red", "blue", "green", "yellow")


@pytest.fixture
def gated(vision, text, processor) -> LangBridgeForConditionalGeneration:
    """A model with random coefficients that are distributions, far from even, over words of its tokenizer."""
    vocabulary = SharedVocabulary.build([processor.tokenizer], SENTENCES, 60)
    torch.manual_seed(0)
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, vocabulary, processor, projector_hidden_size=40, coefficient_activation="gated_softmax"
    )
    head = model.model.vocabulary_head
    torch.nn.init.normal_(model.model.multi_modal_projector.linear_1.weight, std=0.5)
    torch.nn.init.normal_(model.model.multi_modal_projector.linear_2.weight, std=0.5)
    torch.nn.init.normal_(head.weight, std=0.5)
    for parameter in model.model.language_model.layers.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=0.5)  # a language model that minds what it is told
    return model


@pytest.fixture
def photos(tmp_path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for colour in COLOURS:
        make_image(colour).save(folder / f"{colour}.png")
    return folder


@pytest.fixture
def checkpoint(gated, processor, tmp_path) -> Path:
    gated.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def script(monkeypatch):
    """The script's main, in this process, with a command line."""
    module = load_script("arithmetic")

    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["arithmetic.py", *map(str, arguments)])
        module.main()

    return run


def usual_caption(model, processor: LangBridgeProcessor, image, question: str) -> str:
    inputs = processor.apply_chat_template(
        ask(image, question),
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    output = model.generate(**inputs, do_sample=False, max_new_tokens=30)
    answer = processor.tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return " ".join(answer.split())


def test_a_photo_taken_away_and_another_put_in_its_place_is_the_other():
    a, b = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(add_tokens([(1, a), (1, b), (-1, a)]), b, atol=1e-6)
    assert torch.equal(add_tokens([(1, a)]), a)
    assert torch.allclose(add_tokens([(1, a), (1, b)]), (a + b) / 2)
    assert torch.allclose(add_tokens([(1, a), (-1, b)]), a - b)


def test_a_text_has_half_the_length_of_each_visual_token():
    a, b = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0))
    for length in (0.01, 100):
        difference = 1.5 * add_tokens([(1, a)], [(1, length * b[0])]) - a  # (tokens, d)
        assert torch.allclose(difference.norm(dim=-1), a.norm(dim=-1) / 2, atol=1e-5)
        assert torch.allclose(F.normalize(difference, dim=-1), F.normalize(b[:1], dim=-1).expand(5, 8), atol=1e-5)
    assert torch.allclose(add_tokens([(1, a)], [(1, b[0]), (-1, b[0])]), a, atol=1e-5)


def test_words_below_nothing_are_cut_off_and_the_rest_sums_to_one():
    a, b = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.1, 0.4, 0.5])
    assert torch.allclose(add_words([(1, a), (-1, b)]), torch.tensor([1.0, 0.0, 0.0]))
    assert torch.allclose(add_words([(1, a), (1, b)]), torch.tensor([0.4, 0.3, 0.3]))
    assert torch.allclose(add_words([(1, a), (1, b), (-1, a)]), b)


@pytest.mark.parametrize("add", [add_tokens, add_words])
def test_terms_that_cancel_are_an_error(add):
    one, other = torch.rand(2, 5, 8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="Nothing is left"):
        add([(1, one), (1, other), (-1, one), (-1, other)])


@pytest.mark.parametrize("question", ["what is in the picture?", ""])
def test_visual_tokens_in_a_photos_place_are_captioned_as_the_photo(gated, processor, question):
    captions = set()
    for colour in COLOURS:
        pixels = processor.image_processor([make_image(colour)], return_tensors="pt")
        with torch.no_grad():
            tokens = visual_tokens(gated, pixels)[0]
        captions.add(caption_tokens(gated, processor, tokens, question))
        assert caption_tokens(gated, processor, tokens, question) == usual_caption(
            gated, processor, make_image(colour), question
        )
        assert caption_tokens(gated, processor, tokens[:3], question)  # any number of them
    assert len(captions) > 1


def test_a_tokenizer_that_begins_every_text_adds_nothing_to_the_prompt(gated, processor):
    tokenizer, begin = processor.tokenizer, ("<|endoftext|>", processor.tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"{begin[0]} $A", special_tokens=[begin])
    assert tokenizer("a")["input_ids"][0] == begin[1]
    pixels = processor.image_processor([make_image()], return_tensors="pt")
    with torch.no_grad():
        caption = caption_tokens(gated, processor, visual_tokens(gated, pixels)[0], "what is it?")
    assert caption == usual_caption(gated, processor, make_image(), "what is it?")


def test_a_text_is_the_mean_of_its_words_embeddings(model, processor):
    tokenizer = processor.tokenizer
    ids = [tokenizer.convert_tokens_to_ids(token) for token in ("Ġred", "Ġball")]
    embedding = model.get_input_embeddings().weight
    assert torch.allclose(embed_text(model, tokenizer, "red"), embedding[ids[0]])
    assert torch.allclose(embed_text(model, tokenizer, "red ball"), embedding[ids].mean(0))
    with pytest.raises(ValueError, match="is empty"):
        embed_text(model, tokenizer, " ")


def test_a_text_as_words_is_those_that_the_adapter_has():
    words = CaptionWords(SharedVocabulary([" a", " red", " ball", "red"]))
    assert text_distribution(words, "Red ball zebra").tolist() == [0, 0.5, 0.5, 0]
    with pytest.raises(ValueError, match="no word of 'zebra'"):
        text_distribution(words, "zebra")


def test_a_sum_is_read_as_its_photo_and_moves_towards_a_text(gated, processor):
    vocabulary, embeddings = reading_words(gated, processor.tokenizer)
    red, blue = make_image("red"), make_image("blue")
    pooled = pool_photos(gated.model, processor.image_processor, [red])[0]  # (V,)
    water = vocabulary.surfaces.index(" water")
    for read, what in ((read_tokens, embeddings), (read_words, vocabulary)):
        alone, place, _ = read(gated, processor, what, [(1, red)])
        other, other_place, tokens = read(gated, processor, what, [(1, red), (-1, red), (1, blue)])
        expected, expected_place, expected_tokens = read(gated, processor, what, [(1, blue)])
        assert torch.allclose(other, expected, atol=1e-5) and torch.allclose(other_place, expected_place, atol=1e-5)
        assert torch.allclose(tokens, expected_tokens, atol=1e-5)
        assert not torch.allclose(place, expected_place, atol=1e-3)
        wet, _, _ = read(gated, processor, what, [(1, red)], [(1, "water")])
        dry, _, _ = read(gated, processor, what, [(1, red)], [(-1, "water")])
        assert wet[water] > alone[water] > dry[water]
        assert (wet - alone).argmax() == water
    assert torch.allclose(read_words(gated, processor, vocabulary, [(1, red)])[0], pooled)


def test_a_caption_on_words_is_made_of_the_strongest(gated, processor):
    vocabulary, embeddings = reading_words(gated, processor.tokenizer)
    strengths, _, tokens = read_words(gated, processor, vocabulary, [(1, make_image("red"))])
    assert torch.equal(tokens, embeddings[strengths.argsort(descending=True)[:10]])


def test_the_script_shows_words_photos_and_caption(checkpoint, photos, gated, processor, tmp_path):
    command = ["--model", checkpoint, "--plus", photos / "red.png", "--plus-text", "water", "water"]
    command += ["--plus_text", "water", "--photos", photos, "--output", tmp_path / "out.json"]
    result = run_script_here(SCRIPT, *command)
    assert result.returncode == 0, result.stderr[-3000:]
    alone, wet = json.loads((tmp_path / "out.json").read_text())
    assert (alone["sum"], wet["sum"]) == ("red.png", 'red.png + "water" + "water" + "water"')
    assert next(iter(alone["photos"])) == "red.png" and alone["photos"]["red.png"] == pytest.approx(1, abs=1e-4)
    assert set(alone["photos"]) == {f"{colour}.png" for colour in COLOURS}
    assert list(alone["photos"].values()) == sorted(alone["photos"].values(), reverse=True)
    assert alone["caption"] == usual_caption(gated, processor, make_image("red"), "Describe the image.")
    assert next(iter(wet["words"])) == next(iter(wet["gained"])) == " water" != next(iter(alone["words"]))
    assert not alone["gained"]
    assert '+ "water"\n  caption' in result.stdout and "water" in result.stdout.split("words")[-1]


def test_on_words_the_script_takes_one_photo_from_another(script, checkpoint, photos, tmp_path):
    a, b = photos / "red.png", photos / "blue.png"
    script(
        *("--model", checkpoint, "--plus", a, b, "--minus", a, "--on", "words"),
        *("--photos", photos, "--output", tmp_path / "out.json"),
    )
    script("--model", checkpoint, "--plus", b, "--on", "words", "--output", tmp_path / "other.json")
    _, result = json.loads((tmp_path / "out.json").read_text())
    (other,) = json.loads((tmp_path / "other.json").read_text())
    assert result["sum"] == "red.png + blue.png - red.png"
    assert result["words"] == pytest.approx(other["words"], abs=1e-5) and result["caption"] == other["caption"]
    assert next(iter(result["photos"])) == "blue.png"


def test_a_model_without_words_adds_on_tokens_alone(script, vision, text, processor, photos, tmp_path, capsys):
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(vision, text, None, processor, "mlp")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    SharedVocabulary.build([processor.tokenizer], SENTENCES, 30).save(tmp_path / "words.json")
    command = ["--model", tmp_path / "model", "--plus", photos / "red.png", "--plus_text", "water"]
    script(*command, "--vocabulary", tmp_path / "words.json")
    assert "words    water " in capsys.readouterr().out
    with pytest.raises(ValueError, match="use --on tokens"):
        script(*command, "--vocabulary", tmp_path / "words.json", "--on", "words")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--minus", "none.png"], "the image none.png does not exist"),
        (["--minus-text", "zebra", "--on", "words"], "no word of 'zebra'"),
        (["--photos", "nowhere"], "--photos nowhere must be a folder with images"),
        (["--output", str(SCRIPT)], "arithmetic.py exists"),
        (["--vocab_size", "5"], "words of its own"),
        (["--model", "nowhere"], "nowhere must be the folder or Hub id of a LangBridge checkpoint"),
    ],
)
def test_what_cannot_work_is_said_in_a_sentence(script, checkpoint, photos, options, message):
    with pytest.raises(ValueError, match=message):
        script("--model", checkpoint, "--plus", photos / "red.png", *options)
