# SPDX-License-Identifier: Apache-2.0
"""What visual tokens say at a stage of training is nearest in the language model's own embeddings, and is drawn."""

import pytest
import torch
from largest_tensor import LargestTensor
from tiny_parts import make_image, make_tokenizer
from wordy_models import compose

from modeling_langbridge import to_llava
from modeling_langbridge.reading import progress
from modeling_langbridge.reading.explaining import explain
from modeling_langbridge.reading.progress import choose_tokens, explain_stage, find_nearest
from modeling_langbridge.reading.progress_picture import choose_patches, draw_progress


@torch.no_grad()
def plain_cosines(model, processor, tokens) -> torch.Tensor:
    """Cosines (16, words) the plain way."""
    pixel_values = processor.image_processor(make_image(), return_tensors="pt")["pixel_values"]
    visual_tokens = model.get_image_features(pixel_values).pooler_output[0]
    embeddings = model.get_input_embeddings()(torch.tensor(list(tokens.values())))
    return torch.nn.functional.cosine_similarity(visual_tokens[:, None], embeddings, dim=-1)


def test_words_begin_with_a_space_and_have_letters_alone_and_all_tokens_are_words_first():
    tokenizer = make_tokenizer()
    words, everything = choose_tokens(tokenizer), choose_tokens(tokenizer, all_tokens=True)
    assert {"dog", "grass"} <= words.keys() and "?" not in words
    assert all(tokenizer.decode([token]) == f" {word}" for word, token in words.items())
    assert list(everything.items())[: len(words)] == list(words.items())
    assert everything.keys() > words.keys() and "?" in everything
    assert not set(everything.values()) & set(tokenizer.all_special_ids)


@pytest.mark.parametrize("adapter_type", ["langbridge", "mlp", "linear"])
def test_the_first_view_has_the_nearest_of_the_language_models_own_words(vision, text, adapter_type, monkeypatch):
    monkeypatch.setattr(progress, "TOKENS_AT_ONCE", 5)
    model, processor = compose(vision, text, adapter_type=adapter_type)
    tokens = choose_tokens(processor.tokenizer)
    explanation = explain_stage(model, processor, make_image(), tokens, top=2)
    expected, names, nearest = plain_cosines(model, processor, tokens), list(tokens), explanation.views[0]
    numbers, words = expected.topk(2)
    for place in range(16):
        ranked = zip(words[place].tolist(), numbers[place].tolist(), strict=True)
        patch = nearest.patches[place // 4][place % 4]
        assert patch == [(names[word], pytest.approx(number, abs=1e-5)) for word, number in ranked]
    for word, numbers in nearest.maps.items():
        torch.testing.assert_close(numbers.flatten(), expected[:, names.index(word)])
    firsts = [names[word] for word in words[:, 0].tolist()]
    assert dict(explanation.photo) == {word: firsts.count(word) / 16 for word, _ in explanation.photo}
    assert explanation.photo[0][1] == max(firsts.count(word) for word in firsts) / 16
    assert f"{len(tokens)} words" in nearest.about


def test_coefficients_are_the_second_view_of_an_adapter_made_of_words_and_the_only_one_of_words_per_image(
    vision, text
):
    model, processor = compose(vision, text, coefficient_activation="gated_softmax")
    tokens = choose_tokens(processor.tokenizer)
    stage, whole = (
        function(model, processor, make_image(), *more)
        for function, more in ((explain_stage, [tokens]), (explain, []))
    )
    assert stage.views[1].patches == whole.views[0].patches and [view.name for view in stage.views] == [
        "cosine",
        "coefficients",
    ]
    torch.testing.assert_close(stage.entropy, whole.entropy)
    words = compose(vision, text, coefficient_activation="softmax", words_per_image=3)
    assert [view.name for view in explain_stage(*words, make_image(), tokens).views] == ["coefficients"]


def test_a_stock_llava_says_what_the_mlp_that_it_is_made_of_says(vision, text):
    model, processor = compose(vision, text, adapter_type="mlp")
    llava, _ = to_llava(model, processor)
    tokens = choose_tokens(processor.tokenizer)
    ours, theirs = (explain_stage(one, processor, make_image(), tokens) for one in (model, llava))
    assert [[patch[0][0] for patch in row] for row in ours.patches] == [
        [patch[0][0] for patch in row] for row in theirs.patches
    ]


def test_no_more_than_a_few_tokens_cosines_are_made_at_once(vision, text, monkeypatch):
    monkeypatch.setattr(progress, "TOKENS_AT_ONCE", 20)
    model, processor = compose(vision, text, adapter_type="linear")
    tokens = choose_tokens(processor.tokenizer, all_tokens=True)
    with LargestTensor() as largest:
        find_nearest(model, torch.randn(100, 32), tokens, (10, 10), top=2)
    assert largest.numel == len(tokens) * 32  # the embeddings; all cosines are three times as many


def test_a_damaged_model_is_refused(vision, text):
    model, processor = compose(vision, text, adapter_type="linear")
    tokens = choose_tokens(processor.tokenizer)
    model.model.multi_modal_projector.linear_1.bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="not finite: its weights are damaged"):
        explain_stage(model, processor, make_image(), tokens)


def test_the_patches_of_the_picture_have_different_words_the_nearest_first(vision, text):
    model, processor = compose(vision, text)
    explanation = explain_stage(model, processor, make_image(), choose_tokens(processor.tokenizer))
    firsts = {
        (row, column): patch[0] for row, line in enumerate(explanation.patches) for column, patch in enumerate(line)
    }
    chosen = choose_patches(explanation, 2)
    words = [firsts[place][0] for place in chosen]
    assert len(set(words)) == 2 and max(firsts.values(), key=lambda first: first[1])[0] in words
    assert all(
        firsts[place][1] == max(n for word, n in firsts.values() if word == firsts[place][0]) for place in chosen
    )


def test_the_picture_has_every_stage_and_every_word_in_its_cell(vision, text):
    stages = {}
    for number, name in enumerate(("step 1", "step 2 $x$")):
        model, processor = compose(vision, text)
        torch.nn.init.normal_(model.model.vocabulary_head.weight, std=number + 1)
        tokens = choose_tokens(processor.tokenizer)
        stages[name] = explain_stage(model, processor, make_image(), tokens)
    figure = draw_progress({"photo.jpg": stages}, {"photo.jpg": [(0, 1), (3, 3)]})
    figure.canvas.draw()
    written = [(text.get_text(), text.get_position()[0]) for text in figure.axes[0].texts]
    texts = [text for text, _ in written]
    assert {"photo.jpg", *stages, "strongest coefficients"} <= set(texts)
    columns = [place for text, place in written if text in stages]
    for stage, column in zip(stages.values(), columns, strict=True):
        cells = [text for text, place in written if place == column and text not in stages]
        views = [view.patches[row][place][:3] for row, place in ((0, 1), (3, 3)) for view in stage.views]
        assert cells == [word for view in views for word, _ in view]
