# SPDX-License-Identifier: Apache-2.0
"""Bad input to scripts/explain_run.py: each kind ends with one sentence, and nothing is written."""

import json
import shutil

import pytest
from paths import SCRIPTS
from refusals import assert_refused
from tiny_parts import make_image, save_language_model, save_vision_tower
from wordy_models import compose

from modeling_langbridge import LangBridgeAdapter


RUN, IMAGES, OUT = ["--run", "run"], ["--images", "photo.png"], ["--output_dir", "out"]
REFUSED = {
    "no run": ([*IMAGES, *OUT], "arguments are required: --run"),
    "no images": ([*RUN, *OUT], "arguments are required: --images"),
    "no output": ([*RUN, *IMAGES], "arguments are required: --output_dir"),
    "an empty run": (["--run", *IMAGES, *OUT], "--run: expected at least one argument"),
    "an absent run": (["--run", "nowhere", *IMAGES, *OUT], "--run nowhere is no folder: give the output_dir"),
    "a file": (["--run", "photo.png", *IMAGES, *OUT], "--run photo.png is no folder"),
    "an empty folder": (["--run", "empty", *IMAGES, *OUT], "--run empty holds 0 models to show.*save checkpoints"),
    "one model": (["--run", "mlp", *IMAGES, *OUT], "--run mlp holds 1 models to show"),
    "a checkpoint": (["--run", "run/checkpoint-1", *IMAGES, *OUT], "--run run/checkpoint-1 holds 1 models"),
    "a run twice": ([*RUN, "run", *IMAGES, *OUT], "--run names a folder twice"),
    "a step not there": ([*RUN, *IMAGES, *OUT, "--steps", "1", "7"], "--steps 7 is no complete checkpoint.* 1, 2"),
    "a step unfinished": ([*RUN, *IMAGES, *OUT, "--steps", "3"], "--steps 3 is no complete checkpoint"),
    "steps without any": (["--run", "mlp", *IMAGES, *OUT, "--steps", "3"], "--steps 3 .*there are none"),
    "no number of steps": ([*RUN, *IMAGES, *OUT, "--steps", "all"], "--steps: invalid int value"),
    "too many steps": (
        ["--run", "long", *IMAGES, *OUT, "--steps", *map(str, range(1, 8))],
        "--steps asks for 7 models with the final ones: name fewer, 6 fit",
    ),
    "a patch of one number": ([*RUN, *IMAGES, *OUT, "--patches", "3"], "'3' is no patch: give its row and column"),
    "patch 0": ([*RUN, *IMAGES, *OUT, "--patches", "1,0"], "'1,0' is no patch"),
    "a patch in words": ([*RUN, *IMAGES, *OUT, "--patches", "a,b"], "'a,b' is no patch"),
    "a patch outside": ([*RUN, *IMAGES, *OUT, "--patches", "1,5"], "--patches 1,5 is outside of the photo's 4 x 4"),
    "no patches": ([*RUN, *IMAGES, *OUT, "--num_patches", "0"], "--num_patches is 0, but must be at least 1"),
    "no words": ([*RUN, *IMAGES, *OUT, "--top", "0"], "--top is 0, but must be at least 1"),
    "output that exists": ([*RUN, *IMAGES, "--output_dir", "empty"], "--output_dir empty exists: remove it"),
    "output that is a file": ([*RUN, *IMAGES, "--output_dir", "photo.png"], "--output_dir photo.png exists"),
    "an absent image": ([*RUN, "--images", "absent.png", *OUT], "--images absent.png does not exist"),
    "a folder without images": ([*RUN, "--images", "empty", *OUT], "--images empty is a folder without images"),
    "no image": ([*RUN, "--images", "notes.txt", *OUT], "The image notes.txt is of no format"),
    "language models": (["--run", "texts", *IMAGES, *OUT], "checkpoint-1 is a language model of type"),
    "adapters alone": (["--run", "adapters", *IMAGES, *OUT], "checkpoint-1 is an adapter alone"),
    "LoRAs": (["--run", "loras", *IMAGES, *OUT], "checkpoint-1 holds a LoRA: merge it into its base first"),
    "no weights": (["--run", "cut", *IMAGES, *OUT], "There is no model.safetensors in cut/checkpoint-1"),
    "no config": (["--run", "bare", *IMAGES, *OUT], "There is no config.json in bare/checkpoint-1"),
    "different adapters": ([*RUN, "mlp", *IMAGES, *OUT], "different adapters or vision towers: name runs of the same"),
    "different towers": ([*RUN, "coarse", *IMAGES, *OUT], "different adapters or vision towers"),
}


@pytest.fixture(scope="module")
def folder(vision, text, tmp_path_factory):
    folder = tmp_path_factory.mktemp("refused")
    model, processor = compose(vision, text)
    kinds = {
        "run/checkpoint-1": (model, processor),
        "mlp": compose(vision, text, adapter_type="mlp"),
        "coarse": compose(save_vision_tower("mobilenet_v2", folder / "tower"), text),
        "adapters/checkpoint-1": [LangBridgeAdapter.from_model(model, processor.tokenizer)],
    }
    for name, parts in kinds.items():
        for part in parts:
            part.save_pretrained(folder / name)
    save_language_model("qwen2", folder / "texts" / "checkpoint-1")
    (folder / "loras" / "checkpoint-1").mkdir(parents=True)
    (folder / "loras" / "checkpoint-1" / "adapter_config.json").write_text("{}")
    (folder / "bare" / "checkpoint-1").mkdir(parents=True)
    shutil.copytree(folder / "run" / "checkpoint-1", folder / "cut" / "checkpoint-1")
    (folder / "cut" / "checkpoint-1" / "model.safetensors").unlink()
    for step in range(1, 8):
        (folder / "long" / f"checkpoint-{step}").mkdir(parents=True)
        (folder / "long" / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    for name in ("run", "texts", "adapters", "loras", "bare", "cut"):
        (folder / name / "checkpoint-1" / "trainer_state.json").write_text("{}")
        shutil.copytree(folder / name / "checkpoint-1", folder / name / "checkpoint-2")
    shutil.copytree(folder / "run" / "checkpoint-1", folder / "run" / "checkpoint-3")
    (folder / "run" / "checkpoint-3" / "trainer_state.json").write_text('{"cut')
    make_image().save(folder / "photo.png")
    (folder / "notes.txt").write_text(json.dumps("no image"))
    (folder / "empty").mkdir()
    return folder


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_shown_is_refused(folder, case):
    arguments, sentence = REFUSED[case]
    assert_refused(SCRIPTS / "explain_run.py", arguments, sentence, folder)
