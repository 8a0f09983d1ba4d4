# SPDX-License-Identifier: Apache-2.0
"""Previews of a LangBridge in training: what is recorded and when, with no effect on it, and readable by a person."""

import json
import math
import re

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from peft import LoraConfig, get_peft_model
from PIL import Image
from tiny_parts import ask, make_image
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from transformers import DefaultFlowCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import CallbackHandler
from wordy_models import compose

from modeling_langbridge.reading.fonts import save_figure
from trainer.callbacks import photo_preview
from trainer.callbacks.photo_preview import PhotoPreviewCallback, word_closeness
from trainer.callbacks.preview_report import (
    draw_closeness,
    draw_photos,
    preview_table,
)


@pytest.fixture
def photos(tmp_path) -> list:
    make_image("red").save(tmp_path / "red.png")
    return [str(tmp_path / "red.png"), make_image("blue")]


def make_callback(processor, photos, steps, folder, **options) -> PhotoPreviewCallback:
    return PhotoPreviewCallback(processor, photos, steps, folder, **{"max_new_tokens": 4, **options})


def train(callback, model, folder, last_step: int, first_step: int = 0, **state_fields) -> None:
    """The events of a training, as the trainer tells them to its callbacks."""
    args = TrainingArguments(output_dir=str(folder), use_cpu=True, report_to="none")
    state = TrainerState(global_step=first_step, max_steps=last_step, **state_fields)
    handler = CallbackHandler([DefaultFlowCallback, callback], model, None, None, None)
    control = handler.on_train_begin(args, state, TrainerControl())
    for state.global_step in range(first_step + 1, last_step + 1):
        control = handler.on_step_end(args, state, control)
    handler.on_train_end(args, state, control)


def make_talkative(model) -> None:
    """Makes what the model says depend on the photo, which the small weights of a new one do not."""
    torch.manual_seed(1)
    for part in (model.model.multi_modal_projector, model.model.vocabulary_head, model.model.language_model):
        for parameter in part.parameters():
            if parameter.dim() == 2:
                parameter.data.normal_(std=0.5)


def recorded_steps(folder) -> list[str]:
    return sorted(path.name for path in (folder / "preview").glob("step-*.json"))


def read_record(folder, step: int) -> dict:
    return json.loads((folder / "preview" / f"step-{step:06d}.json").read_text(encoding="utf-8"))


def make_record(step: int, captions: list[str]) -> dict:
    photos = [
        {
            "name": f"{number}. photo",
            "caption": caption,
            "word_closeness": 0.25,
            "visual_token_length": 2.0,
            "words": {"dog": 5, "$5": 4, "a|b": 3},
        }
        for number, caption in enumerate(captions, 1)
    ]
    return {"step": step, "word_closeness": 0.25, "visual_token_length": 2.0, "photos": photos}


def test_the_closest_word_is_that_of_a_plain_loop():
    torch.manual_seed(0)
    visual_tokens, embeddings = torch.randn(7, 5), torch.randn(11, 5) * torch.rand(11, 1)
    cosine, nearest = word_closeness(visual_tokens, embeddings)
    for token in range(7):
        x = visual_tokens[token].tolist()
        cosines = [
            sum(a * b for a, b in zip(x, e, strict=True)) / (math.hypot(*x) * math.hypot(*e))
            for e in embeddings.tolist()
        ]
        assert nearest[token] == cosines.index(max(cosines))
        assert cosine[token].item() == pytest.approx(max(cosines), abs=1e-6)


def test_half_precision_is_compared_in_full_precision():
    torch.manual_seed(0)
    visual_tokens, embeddings = torch.randn(7, 64).bfloat16(), torch.randn(11, 64).bfloat16()
    cosine, _ = word_closeness(visual_tokens, embeddings)
    assert torch.equal(cosine, word_closeness(visual_tokens.float(), embeddings.float())[0])


def test_previews_are_made_first_every_n_steps_and_last_but_never_twice(model, processor, photos, tmp_path):
    train(make_callback(processor, photos, 2, tmp_path / "a"), model, tmp_path, last_step=5)
    assert recorded_steps(tmp_path / "a") == [f"step-{step:06d}.json" for step in (0, 2, 4, 5)]
    steps = []

    class Counting(PhotoPreviewCallback):
        def preview(self, model, state):
            steps.append(state.global_step)
            super().preview(model, state)

    train(
        Counting(processor, photos, 2, tmp_path / "b", max_new_tokens=4),
        model,
        tmp_path,
        last_step=4,
        is_world_process_zero=False,
    )
    assert steps == [0, 2, 4]


@pytest.mark.parametrize("training", [True, False])
def test_training_does_not_notice(model, processor, photos, tmp_path, training):
    model.requires_grad_(False)
    model.model.multi_modal_projector.requires_grad_(True)
    model.train(training)
    # A tower may draw random numbers though it is in eval mode, as those that mask patches do.
    model.model.vision_tower.register_forward_hook(draw)
    modes = {name: module.training for name, module in model.named_modules()}
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random_state = torch.get_rng_state()
    seen = []
    model.model.language_model.register_forward_hook(lambda module, *_: seen.append(module.training))
    callback = make_callback(processor, photos, 2, tmp_path)
    train(callback, model, tmp_path, last_step=2)
    assert seen and not any(seen)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert (modes["model.vision_tower"], modes["model.language_model"]) == (False, training)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def draw(*_) -> None:
    torch.rand(3)


def test_visual_tokens_that_are_words_are_recognised(model, processor, photos, tmp_path):
    head, place = model.model.vocabulary_head, 37
    head.weight.data.zero_()
    head.bias.data.zero_()[place] = 1.0
    head.token_ids.copy_(torch.arange(300, 360))  # whole words, not pieces of characters
    callback = make_callback(processor, photos, 2, tmp_path)
    train(callback, model, tmp_path, last_step=0)
    word = processor.tokenizer.decode([head.token_ids[place]]).strip()
    lengths = model.get_input_embeddings()(head.token_ids).norm(dim=-1)
    assert callback.latest["word_closeness"] == pytest.approx(1, abs=1e-5)
    assert callback.latest["visual_token_length"] == pytest.approx((lengths[place] / lengths.mean()).item(), rel=1e-4)
    record = read_record(tmp_path, 0)
    assert [photo["words"] for photo in record["photos"]] == [{word: 16}, {word: 16}]


def test_each_photo_has_its_own_words_and_the_overall_values_are_means(model, processor, photos, tmp_path):
    make_talkative(model)
    model.model.vocabulary_head.token_ids.copy_(torch.arange(300, 360))  # whole words, not pieces of characters
    callback = make_callback(processor, photos, 2, tmp_path)
    train(callback, model, tmp_path, last_step=0)
    record = read_record(tmp_path, 0)
    assert [photo["name"] for photo in record["photos"]] == ["1. red.png", "2. photo"]
    assert record["photos"][0]["words"] != record["photos"][1]["words"]
    for name in ("word_closeness", "visual_token_length"):
        one, other = (photo[name] for photo in record["photos"])
        assert one != other
        assert callback.latest[name] == record[name] == pytest.approx((one + other) / 2)


def test_captions_are_the_greedy_answers_to_the_question(model, processor, photos, tmp_path):
    make_talkative(model)
    model.generation_config.do_sample = True  # as chat models are saved
    callback = make_callback(processor, photos, 2, tmp_path, question="what is it?", max_new_tokens=30)
    train(callback, model.train(), tmp_path, last_step=0)
    captions = [photo["caption"] for photo in read_record(tmp_path, 0)["photos"]]
    answers = []
    for photo in (make_image("red"), make_image("blue")):
        inputs = processor.apply_chat_template(
            ask(photo, "what is it?"), add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
        )
        output = model.eval().generate(**inputs, do_sample=False, max_new_tokens=30, use_cache=False)
        answers.append(processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
    assert captions == [" ".join(answer.split()) for answer in answers]
    assert captions[0] != captions[1] and captions != answers


def test_a_resumed_training_goes_on_with_the_table(model, processor, photos, tmp_path):
    train(make_callback(processor, photos, 2, tmp_path), model, tmp_path, last_step=2)
    record = tmp_path / "preview" / "step-000002.json"
    record.write_text(record.read_text().replace('"caption": "', '"caption": "as first seen'))
    train(make_callback(processor, photos, 2, tmp_path), model, tmp_path, last_step=4, first_step=2)
    table = (tmp_path / "preview" / "preview.md").read_text(encoding="utf-8")
    for section in table.split("\n## ")[1:3]:
        assert re.findall(r"^\| (\d+) \|", section, re.MULTILINE) == ["0", "2", "4"]
    assert table.count("as first seen") == 2


def test_a_resumed_training_without_a_preview_before_is_previewed_at_once(model, processor, photos, tmp_path):
    train(make_callback(processor, photos, 10, tmp_path), model, tmp_path, last_step=5, first_step=3)
    assert recorded_steps(tmp_path) == ["step-000003.json", "step-000005.json"]


def test_another_trainings_records_are_not_mixed_with(model, processor, photos, tmp_path):
    callback = make_callback(processor, photos, 2, tmp_path)
    train(callback, model, tmp_path, last_step=0)
    train(callback, model, tmp_path, last_step=0)  # the same run, started again with a smaller batch
    before = read_record(tmp_path, 0)
    with pytest.raises(ValueError, match="preview holds another training's records"):
        train(make_callback(processor, photos[:1], 2, tmp_path), model, tmp_path, last_step=0)
    assert read_record(tmp_path, 0) == before


def test_processes_but_the_first_measure_and_do_not_write(model, processor, photos, tmp_path):
    callback = make_callback(processor, photos, 2, tmp_path)
    train(callback, model, tmp_path, last_step=2, is_world_process_zero=False)
    assert callback.latest.keys() == {"word_closeness", "visual_token_length"}
    assert not (tmp_path / "preview").exists()


def test_wrapped_models_are_previewed_with_their_lora(model, processor, photos, tmp_path):
    make_talkative(model)
    bare = make_callback(processor, photos, 2, tmp_path / "bare")
    train(bare, model, tmp_path, last_step=0)
    wrapped = get_peft_model(
        model,
        LoraConfig(
            target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)", modules_to_save=["vocabulary_head"]
        ),
    )
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=2.0)
    lora = make_callback(processor, photos, 2, tmp_path / "lora")
    train(lora, torch.nn.DataParallel(wrapped), tmp_path, last_step=0)
    assert lora.latest == pytest.approx(bare.latest, rel=1e-4)
    captions = [[photo["caption"] for photo in read_record(tmp_path / name, 0)["photos"]] for name in ("bare", "lora")]
    assert captions[0] != captions[1]


def test_a_sharded_model_is_previewed_as_a_whole_one_is(model, processor, photos, tmp_path):
    whole = make_callback(processor, photos, 2, tmp_path / "whole")
    train(whole, model, tmp_path, last_step=0)
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for layer in model.model.language_model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        register_fsdp_forward_method(model, "generate")  # as transformers' trainer does
        sharded = make_callback(processor, photos, 2, tmp_path / "sharded")
        train(sharded, model, tmp_path, last_step=0)
        assert all(isinstance(parameter, DTensor) for parameter in model.parameters())
    finally:
        torch.distributed.destroy_process_group()
    assert read_record(tmp_path / "sharded", 0) == read_record(tmp_path / "whole", 0)


def test_photos_that_cannot_be_read_are_named(processor, tmp_path):
    for name, content in [("absent.png", None), ("text.png", b"no picture")]:
        if content:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} cannot be read"):
            make_callback(processor, [str(tmp_path / name)], 2, tmp_path)
    with pytest.raises(ValueError, match="`steps` is 0"):
        make_callback(processor, [make_image()], 0, tmp_path)
    with pytest.raises(ValueError, match="`photos` is empty"):
        make_callback(processor, [], 2, tmp_path)


def test_captions_cannot_break_the_table():
    record = make_record(7, ["a dog | a <b>cat</b> for $5\nand $6 *now* `x", "plain"])
    table = preview_table([make_record(5, ["a", "b"]), record])
    for row in re.findall(r"^\| [57] .*$", table, re.MULTILINE)[2:]:
        assert len(re.findall(r"(?<!\\)\|", row)) == 6
    assert r"a dog \| a \<b\>cat\</b\> for \$5 and \$6 \*now\* \`x" in table
    assert r"dog 5, \$5 4, a\|b 3" in table


def test_photos_of_any_shape_lie_beside_their_captions(tmp_path):
    figure = draw_photos(make_record(100, ["a dog for $x^{ or $5", ""]), [Image.new("RGB", (48, 32))] * 2)
    assert "a dog for $x^{ or $5" in figure.axes[0].get_xlabel() and "an empty caption" in figure.axes[1].get_xlabel()
    save_figure(figure, tmp_path / "photos.png")
    with Image.open(tmp_path / "photos.png") as image:
        assert image.width > image.height > 300


@pytest.mark.parametrize(("largest", "written"), [(4, True), (3, False)])
def test_words_are_written_on_the_patches_of_small_grids(monkeypatch, model, processor, tmp_path, largest, written):
    monkeypatch.setattr(photo_preview, "LARGEST_GRID", largest)
    callback = make_callback(processor, [make_image("red")], 2, tmp_path)
    drawn = []
    monkeypatch.setattr(photo_preview, "draw_photos", lambda record, pictures: drawn.append(pictures) or Figure())
    train(callback, model, tmp_path, last_step=0)
    assert (drawn == [[callback.views[0]]]) != written


def test_words_handed_over_for_the_whole_photo_lie_on_no_patch(vision, text, tmp_path):
    model, processor = compose(vision, text, coefficient_activation="gated_softmax", words_per_image=4)
    callback = make_callback(processor, [make_image("red")], 2, tmp_path)
    _, words = callback.measure(model.eval())
    assert words == [None]


def test_the_curve_has_a_line_for_each_photo_and_their_mean():
    records = [make_record(step, ["a", "b", "c"]) for step in (0, 100, 200)]
    records[1]["word_closeness"] = 0.5
    lines = draw_closeness(records).axes[0].lines
    assert len(lines) == 4
    assert lines[-1].get_xydata().tolist() == [[0, 0.25], [100, 0.5], [200, 0.25]]
    assert lines[-1].get_linewidth() > max(line.get_linewidth() for line in lines[:-1])


def test_a_real_photo_is_drawn_as_the_tower_is_given_it(data, model, processor, tmp_path):
    path = min((data / "flickr8k" / "images").glob("*.jpg"))
    callback = make_callback(processor, [str(path)], 2, tmp_path)
    train(callback, model, tmp_path, last_step=2)
    with Image.open(path) as photo:
        pixels = processor.image_processor(photo, return_tensors="pt")["pixel_values"][0].permute(1, 2, 0).numpy()
    view = (
        np.asarray(callback.views[0]) / 255 - processor.image_processor.image_mean
    ) / processor.image_processor.image_std
    assert np.abs(view - pixels).max() < 1e-4
    assert sorted(p.name for p in (tmp_path / "preview").iterdir()) == [
        "closeness.png",
        "preview.md",
        "step-000000.json",
        "step-000000.png",
        "step-000002.json",
        "step-000002.png",
    ]
    for name in ("closeness.png", "step-000002.png"):
        with Image.open(tmp_path / "preview" / name) as image:
            assert min(image.size) > 300
