# SPDX-License-Identifier: Apache-2.0
"""What the README tells a reader to type does what it says."""

import dataclasses
import re

from documents import code_blocks, follow
from paths import ROOT

from experiments.synthetic.demo_stages import QUICK, STAGES, Demo


README = ROOT / "README.md"


def test_the_readmes_path_runs_as_written_after_the_demo(tmp_path):
    demo = Demo(tmp_path / "demo_scenes_output", dataclasses.replace(QUICK, tower_steps=1, language_model_steps=1), 0)
    for name, stage in (item for group in STAGES[:-2] for item in group.items()):  # all but adapters and captions
        (demo.output_dir / name).mkdir(parents=True)
        stage(demo, demo.output_dir / name)

    left = follow(README, tmp_path)
    of = {name: result for command, result in left.items() for name in re.findall(r"scripts/(\w+)\.py", command)}
    assert of.keys() == {"check_data", "train", "transfer", "export", "push_to_hub"}
    assert "200 samples, 0 faulty" in of["check_data"].stdout
    assert "my-langbridge-trained" in of["train"].stdout
    (shown,) = (text for _, text in code_blocks(ROOT / "docs" / "training.md") if "What is trained (" in text)
    _, *lines = shown.splitlines()  # the first is the machine's
    said = of["train"].stderr.splitlines()
    assert [line for line in lines if "step" not in line] == [line for line in said if line in lines]
    assert "Writing in float32 changed them by 0" in of["export"].stdout
    card = of["push_to_hub"].stdout
    assert "user/my-tower" in card and "Pretraining of the adapter alone: 200 samples (1 epoch)" in card
    (caption,) = (result.stdout for block, result in left.items() if "pipeline(" in block)
    (strongest,) = (result.stdout for block, result in left.items() if "get_image_coefficients" in block)
    assert caption.strip()
    assert len(strongest.split()) == 3
    assert (tmp_path / "my-adapter" / "adapter.safetensors").is_file()


def test_every_file_that_the_readme_names_exists():
    text = README.read_text()
    named = set(re.findall(r"`((?:scripts|docs|trainer|modeling_langbridge|hub_cards)/[\w/.]*)`", text))
    named |= set(re.findall(r"\]\(((?!http|#)[^)]+)\)", text))
    assert named and not [name for name in named if not (ROOT / name).exists()]
