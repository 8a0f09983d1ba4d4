# SPDX-License-Identifier: Apache-2.0
"""A video in words: those of each frame with its times, and frames that say the same as one part."""

import json

import pytest
from clips import make_clip
from in_process import run_script_here
from paths import SCRIPTS
from PIL import Image
from wordy_models import compose

from modeling_langbridge.reading.clip import Part, count_tokens, join_frames, read_clip
from modeling_langbridge.reading.patch_words import strongest_words
from modeling_langbridge.video_opening import Frame, open_video


COLOURS = ["red"] * 20 + ["blue"] * 10 + ["red"] * 10


@pytest.fixture(scope="module")
def saved(vision, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    model, processor = compose(vision, text, coefficient_activation="softmax")
    for part in (model, processor):
        part.save_pretrained(folder / "model")
    (folder / "clip.mp4").write_bytes(make_clip(COLOURS, codec="libx264"))
    return model, processor, folder


def run(saved, script, *arguments):
    result = run_script_here(SCRIPTS / script, "--model", saved[2] / "model", *arguments)
    assert result.returncode == 0, result.stderr
    return result


def test_frames_with_the_same_strongest_words_in_any_order_are_one_part():
    image = Image.new("RGB", (8, 8))
    frames = [Frame(image, number + 0.4, number, number + 1.0) for number in range(4)]
    words = [
        [("dog", 0.5), ("grass", 0.3), ("sky", 0.1)],
        [("grass", 0.7), ("dog", 0.2), ("car", 0.1)],
        [("car", 0.5), ("dog", 0.3), ("sky", 0.1)],
        [("dog", 0.5), ("grass", 0.4), ("sky", 0.1)],
    ]
    parts = join_frames(frames, words, listed=2)
    assert list(map(str, parts)) == ["0.0–2.0 s: grass, dog", "2.0–3.0 s: car, dog", "3.0–4.0 s: dog, grass"]
    assert parts[0].words == [("grass", 0.5), ("dog", 0.35)]


def test_a_video_is_put_into_the_words_of_its_frames(saved):
    model, processor, folder = saved
    frames = open_video(folder / "clip.mp4", num_frames=4)
    parts = read_clip(model, processor, frames)
    red, blue = (strongest_words(model, processor, frames[number].image).photo[:3] for number in (0, 2))
    assert {word for word, _ in red} != {word for word, _ in blue}
    assert [(part.start, part.end) for part in parts] == [(0, 2), (2, 3), (3, 4)]
    assert parts[1].words == blue and {word for word, _ in parts[0].words} == {word for word, _ in red}
    assert count_tokens(processor, frames) == [processor.num_image_tokens] * 4


def test_explain_writes_and_prints_the_list_beside_a_page_a_frame(saved, tmp_path):
    model, processor, folder = saved
    options = ("--video", folder / "clip.mp4", "--num_frames", 4, "--output_dir", tmp_path / "out")
    printed = run(saved, "explain.py", *options).stdout
    frames = open_video(folder / "clip.mp4", num_frames=4)
    parts = read_clip(model, processor, frames)
    assert printed.startswith("\n".join(map(str, parts)))
    assert "holds the pages of 4 of 4 images" in printed
    written = json.loads((tmp_path / "out" / "clip.json").read_text())
    assert written["parts"] == [part.to_dict() for part in parts]
    assert [(frame["time"], frame["start"], frame["end"]) for frame in written["frames"]] == [
        (0.5, 0, 1), (1.5, 1, 2), (2.5, 2, 3), (3.5, 3, 4)
    ]  # fmt: skip
    page = json.loads((tmp_path / "out" / "clip-2.50s.json").read_text())
    assert [word["word"] for word in page["photo"]] == [word["word"] for word in written["frames"][2]["words"]]
    assert (tmp_path / "out" / "clip-2.50s.html").is_file()


def test_chat_reads_a_video_and_says_its_tokens_and_words(saved):
    model, processor, folder = saved
    options = ("--video", folder / "clip.mp4", "--question", "what is it?", "--max_new_tokens", 4)
    result = run(saved, "chat.py", *options, "--fps", 1, "--words")
    context = model.config.text_config.max_position_embeddings
    tokens = processor.num_image_tokens
    assert f"4 frames of {tokens} tokens, {4 * tokens} of the language model's {context:,}." in result.stderr
    frames = open_video(folder / "clip.mp4", fps=1)
    assert "\n".join(map(str, read_clip(model, processor, frames))) in result.stderr
    content = [{"type": "video", "path": str(folder / "clip.mp4")}, {"type": "text", "text": "what is it?"}]
    inputs = processor.apply_chat_template(
        [{"role": "user", "content": content}],
        num_frames=4, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    )  # fmt: skip
    output = model.generate(**inputs, do_sample=False, max_new_tokens=4)
    expected = processor.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert result.stdout.split() == expected.split()


def test_more_frames_than_the_language_model_can_read_are_refused(saved, tmp_path):
    model, processor, folder = saved
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["max_position_embeddings"] = 40
    (tmp_path / "config.json").write_text(json.dumps(config))
    options = ("--model", tmp_path, "--video", folder / "clip.mp4", "--question", "what?")
    result = run_script_here(SCRIPTS / "chat.py", *options)
    assert result.returncode == 1
    assert "8 frames of 16 tokens, 128 of the language model's 40: lower --num_frames." in result.stderr


def test_a_part_can_be_written_as_json():
    part = Part(0, 1 / 3, [("dog", 1 / 3)])
    assert part.to_dict() == {"start": 0, "end": 0.333, "words": [{"word": "dog", "share": 0.3333}]}
