# SPDX-License-Identifier: Apache-2.0
"""Bad input to scripts/explain.py and scripts/chat.py: each kind ends with one sentence, and nothing is written."""

import json
import shutil

import pytest
from clips import make_clip
from paths import SCRIPTS
from refusals import assert_refused
from tiny_parts import make_image, save_language_model, save_vision_tower
from wordy_models import compose

from modeling_langbridge import LangBridgeAdapter, LangBridgeForConditionalGeneration


MODEL = ["--model", "model"]
IMAGES = ["--images", "photo.png"]
VIDEO = ["--video", "clip.mp4"]
OUT = ["--output_dir", "out"]
ADAPTER = ["--adapter", "adapter", "--vision_tower", "tower"]
EXPLAIN = {
    "nothing to explain with": ([*IMAGES, *OUT], "one of the arguments --model --adapter is required"),
    "both kinds": ([*MODEL, *ADAPTER, *IMAGES, *OUT], "--adapter: not allowed with argument --model"),
    "no images": ([*MODEL, *OUT], "arguments are required: --images"),
    "no output": ([*MODEL, *IMAGES], "arguments are required: --output_dir"),
    "empty images": ([*MODEL, "--images", *OUT], "--images: expected at least one argument"),
    "an adapter without a tower": (
        ["--adapter", "adapter", *IMAGES, *OUT],
        "--adapter and --vision_tower go together",
    ),
    "a tower for a checkpoint": (
        [*MODEL, "--vision_tower", "tower", *IMAGES, *OUT],
        "--adapter and --vision_tower go together",
    ),
    "an adapter compared": ([*ADAPTER, "--compare", "model", *IMAGES, *OUT], "give the first one as --model"),
    "a model with itself": ([*MODEL, "--compare", "model", *IMAGES, *OUT], "--compare model is --model itself"),
    "output that is a folder": ([*MODEL, *IMAGES, "--output_dir", "tower"], "--output_dir tower exists: remove it"),
    "output that is a file": ([*MODEL, *IMAGES, "--output_dir", "photo.png"], "--output_dir photo.png exists"),
    "an absent image": ([*MODEL, "--images", "absent.png", *OUT], "--images absent.png does not exist"),
    "an absent image beside one": ([*MODEL, *IMAGES, "absent", *OUT], "--images absent does not exist"),
    "a folder without images": ([*MODEL, "--images", "empty", *OUT], "--images empty is a folder without images"),
    "no image": ([*MODEL, "--images", "notes.txt", *OUT], "The image notes.txt is of no format"),
    "an empty file": ([*MODEL, "--images", "nothing.png", *OUT], "The image nothing.png is of no format"),
    "an image cut short": ([*MODEL, "--images", "cut.png", *OUT], "The image cut.png cannot be decoded"),
    "only broken ones in a folder": ([*MODEL, "--images", "broken", *OUT], "The image broken/a.png is of no format"),
    "no words listed": ([*MODEL, *IMAGES, *OUT, "--top", "0"], "--top is 0, but must be at least 1"),
    "words that are no number": ([*MODEL, *IMAGES, *OUT, "--top", "many"], "--top: invalid int value"),
    "fewer layers than none": ([*MODEL, *IMAGES, *OUT, "--layers", "-1"], "--layers is -1, but must be at least 0"),
    "a word nearly there": ([*MODEL, *IMAGES, *OUT, "--words", "dogg"], "“dogg” is not one of .*nearest are dog,"),
    "a word of an adapter": ([*ADAPTER, *IMAGES, *OUT, "--words", "dog", "zzz"], "“zzz” is not one of"),
    "an empty word": ([*MODEL, *IMAGES, *OUT, "--words", ""], "“” is not one of"),
    "no model": (
        ["--model", "empty", *IMAGES, *OUT],
        "^empty must be the folder or Hub id of a LangBridge checkpoint",
    ),
    "an absent model": (["--model", "no/where", *IMAGES, *OUT], "^no/where must be the folder or Hub id"),
    "a language model": (["--model", "text", *IMAGES, *OUT], "^text"),
    "a vision tower": (["--model", "tower", *IMAGES, *OUT], "^tower"),
    "an adapter as a model": (["--model", "adapter", *IMAGES, *OUT], "^adapter"),
    "a model as an adapter": (
        ["--adapter", "model", "--vision_tower", "tower", *IMAGES, *OUT],
        "no .*vocabulary",
    ),
    "an absent adapter": (["--adapter", "nowhere", "--vision_tower", "tower", *IMAGES, *OUT], "no folder nowhere"),
    "more words than there are": (
        ["--model", "mlp", *IMAGES, *OUT, "--vocabulary", "words.json", "--vocab_size", "99"],
        "the vocabulary has 41 surfaces: ask for 1 to 41, not 99",
    ),
    "damaged weights": (["--model", "damaged", *IMAGES, *OUT], "damaged/model.* holds values that are not finite"),
    "another tower compared": (
        [*MODEL, "--compare", "coarse", *IMAGES, *OUT],
        "divide a photo into 2 x 2, 4 x 4 patches: compare models of one vision tower",
    ),
    "a compared one that is none": ([*MODEL, "--compare", "empty", *IMAGES, *OUT], "^empty must be the folder"),
    "words for a model of words": (
        [*MODEL, *IMAGES, *OUT, "--vocabulary", "words.json"],
        "model is made of words of its own: leave out --vocabulary",
    ),
    "a number of words for it": ([*MODEL, *IMAGES, *OUT, "--vocab_size", "5"], "leave out --vocabulary and --vocab_s"),
    "no words": ([*MODEL, *IMAGES, *OUT, "--vocab_size", "0"], "--vocab_size is 0, but must be at least 1"),
    "images and a video": ([*MODEL, *IMAGES, *VIDEO, *OUT], "--video and --images are two things to read"),
    "a video to check": ([*MODEL, "--check", "--dataset", "a.json", *VIDEO], "--video does not go with these options"),
    "frames of no video": ([*MODEL, *IMAGES, *OUT, "--num_frames", "4"], "--num_frames chooses the frames of a video"),
    "a rate of no video": ([*MODEL, *IMAGES, *OUT, "--fps", "4"], "--fps chooses the frames of a video"),
    "two ways to choose": ([*MODEL, *VIDEO, *OUT, "--num_frames", "4", "--fps", "1"], "are two ways to choose"),
    "no frames": ([*MODEL, *VIDEO, *OUT, "--num_frames", "0"], "--num_frames: must be a whole number of 1 or more"),
    "a rate of nothing": ([*MODEL, *VIDEO, *OUT, "--fps", "0"], "--fps: must be a number of 0.001 or more"),
    "an absent video": ([*MODEL, "--video", "absent.mp4", *OUT], "The video absent.mp4 does not exist"),
    "no video": ([*MODEL, "--video", "notes.txt", *OUT], "The video notes.txt cannot be decoded"),
    "a video without pictures": ([*MODEL, "--video", "still.avi", *OUT], "The video still.avi has no frames"),
}
CHAT = {
    "a photo and a video": ([*MODEL, "--image", "photo.png", *VIDEO], "--video and --image are two things to read"),
    "no video": ([*MODEL, "--video", "notes.txt"], "The video notes.txt cannot be decoded"),
    "no model": (["--question", "what?"], "arguments are required: --model"),
    "an absent model": (["--model", "no/where", "--question", "what?"], "^no/where must be the folder or Hub id"),
    "a language model": (["--model", "text", "--question", "what?"], "^text"),
    "an empty question": ([*MODEL, "--question", " "], "The question is empty: write one"),
    "the mark of a photo": ([*MODEL, "--question", "an <image>?"], "The question holds <image>.*leave it out"),
    "words of no photo": (
        [*MODEL, "--words", "--question", "what?"],
        "--words shows the words of a photo or a video: give one",
    ),
    "closer to no photo": (
        [*MODEL, "--guidance_scale", "2", "--question", "what?"],
        "--guidance_scale is about a photo or a video: give one",
    ),
    "no tokens": ([*MODEL, "--question", "what?", "--max_new_tokens", "0"], "--max_new_tokens: must be a whole"),
    "words for no photo": (
        [*MODEL, "--word_bias", "2", "--question", "what?"],
        "--word_bias is about a photo or a video: give one",
    ),
    "an absent photo": ([*MODEL, "--image", "absent.png", "--question", "what?"], "image absent.png does not exist"),
    "no photo": ([*MODEL, "--image", "notes.txt", "--question", "what?"], "The image notes.txt is of no format"),
    "an adapter without words": (
        ["--model", "mlp", "--image", "photo.png", "--words", "--question", "what?"],
        "--words needs an adapter made of words",
    ),
}


@pytest.fixture(scope="module")
def folder(vision, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    shutil.copytree(vision, folder / "tower")
    save_language_model("qwen2", folder / "text")
    model, processor = compose(vision, text)
    adapter = LangBridgeAdapter.from_model(model, processor.tokenizer)
    adapter.save_pretrained(folder / "adapter")
    adapter.vocabulary.save(folder / "words.json")
    for name, (saved, its_processor) in {
        "model": (model, processor),
        "mlp": compose(vision, text, adapter_type="mlp"),
        "coarse": compose(save_vision_tower("mobilenet_v2", folder / "other_tower"), text),
    }.items():
        saved.save_pretrained(folder / name)
        its_processor.save_pretrained(folder / name)
    shutil.copytree(folder / "model", folder / "damaged")
    damaged = LangBridgeForConditionalGeneration.from_pretrained(folder / "damaged")
    damaged.model.vocabulary_head.bias.data[0] = float("inf")
    damaged.save_pretrained(folder / "damaged")
    make_image().save(folder / "photo.png")
    (folder / "clip.mp4").write_bytes(make_clip(["red", "blue"]))
    (folder / "still.avi").write_bytes(make_clip([], container="avi"))
    (folder / "cut.png").write_bytes((folder / "photo.png").read_bytes()[:100])
    (folder / "nothing.png").touch()
    (folder / "notes.txt").write_text(json.dumps("no image"))
    (folder / "empty").mkdir()
    (folder / "broken").mkdir()
    for name in ("a.png", "b.png"):
        (folder / "broken" / name).write_text("no image")
    return folder


@pytest.mark.parametrize("case", EXPLAIN)
def test_what_cannot_be_explained_is_refused(folder, case):
    arguments, sentence = EXPLAIN[case]
    assert_refused(SCRIPTS / "explain.py", arguments, sentence, folder)


@pytest.mark.parametrize("case", CHAT)
def test_what_cannot_be_asked_is_refused(folder, case):
    arguments, sentence = CHAT[case]
    assert_refused(SCRIPTS / "chat.py", arguments, sentence, folder)
