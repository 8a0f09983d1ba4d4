# SPDX-License-Identifier: Apache-2.0
"""Captioning by greedy decoding, the MLP baseline that is captioned with too, and the picture of the captions."""

import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.flickr8k.caption_report import save_caption_picture, score_table
from experiments.mlp_baseline import build_mlp_baseline, freeze_all_but_mlp
from trainer.data.captioned_photos import CaptionedPhoto
from trainer.evaluation.captioning import ask, complete_prompts


@pytest.fixture
def photos(tmp_path):
    generator = torch.Generator().manual_seed(0)
    photos = []
    for index in range(3):
        pixels = torch.randint(0, 256, (32, 32, 3), generator=generator, dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        photos.append(CaptionedPhoto(f"{index}.png", str(tmp_path / f"{index}.png"), [f"Noise number {index}."]))
    return photos


@pytest.fixture
def baseline(model):
    return build_mlp_baseline(model)


def test_answers_belong_to_their_images_whatever_the_batch(model, processor, photos):
    images = [photo.image for photo in photos]
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(10)  # fresh weights are so small that all photos look alike
    together = ask(model, processor, images, "what?", batch_size=2, max_new_tokens=6)
    alone = ask(model, processor, images[::-1], "what?", batch_size=1, max_new_tokens=6)
    assert together == alone[::-1] and len(set(together)) > 1


def test_prompts_of_different_length_are_completed_as_each_alone(text):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(text).eval(), AutoTokenizer.from_pretrained(text)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    prompts = ["a dog", "a large brown dog runs over the", "\n"]
    together = complete_prompts(model, tokenizer, prompts, max_new_tokens=6)
    assert together == [complete_prompts(model, tokenizer, [prompt], max_new_tokens=6)[0] for prompt in prompts]


def test_baseline_reads_the_photo_and_leaves_the_language_model_as_it_was(baseline, text, processor, photos):
    language_model = AutoModelForCausalLM.from_pretrained(text).eval()
    input_ids = torch.arange(5, 15)[None]
    ours, theirs = baseline(input_ids=input_ids).logits, language_model(input_ids=input_ids).logits
    torch.testing.assert_close(ours[..., : theirs.shape[-1]], theirs)
    assert len(ask(baseline, processor, [photo.image for photo in photos], "", max_new_tokens=4)) == 3


def test_baseline_trains_its_mlp_only_and_survives_saving(baseline, tmp_path):
    freeze_all_but_mlp(baseline)
    trained = [name for name, parameter in baseline.named_parameters() if parameter.requires_grad]
    assert trained and all(".multi_modal_projector." in name for name in trained)
    baseline.save_pretrained(tmp_path)
    loaded = type(baseline).from_pretrained(tmp_path).state_dict()
    assert all(tensor.equal(loaded[name]) for name, tensor in baseline.state_dict().items())


def test_table_has_a_row_per_system():
    table = score_table({"blind": {"CIDEr": 0.0741, "BLEU-4": 0.01}, "ours": {"CIDEr": 0.3, "BLEU-4": 0.1}})
    assert table.splitlines()[0] == "| | CIDEr | BLEU-4 |"
    assert table.splitlines()[2:] == ["| blind | 0.074 | 0.010 |", "| ours | 0.300 | 0.100 |"]


def test_picture_is_written_for_any_number_of_photos(photos, tmp_path):
    captions = {"blind": dict.fromkeys(["0.png", "1.png", "2.png"], "a dog")}
    for count in (1, 3):
        save_caption_picture(photos[:count], captions, tmp_path / "captions.png")
        with Image.open(tmp_path / "captions.png") as picture:
            assert picture.width > 300 * count
