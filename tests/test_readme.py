# SPDX-License-Identifier: Apache-2.0
"""What the README tells a reader to type does what it says."""

import json
import re
import shlex
from subprocess import CompletedProcess

from in_process import run_code_here, run_script_here
from paths import ROOT
from tiny_parts import make_image, save_language_model, save_vision_tower

from modeling_langbridge import SharedVocabulary


def code_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_the_five_minute_path_runs_as_written(tmp_path):
    save_vision_tower("clip", tmp_path / "demo_output" / "tower")
    save_language_model("qwen2", tmp_path / "demo_output" / "language_model_a")
    save_language_model("llama3", tmp_path / "demo_output" / "language_model_b")
    SharedVocabulary([" dog", " ball", " a"]).save(tmp_path / "demo_output" / "vocabulary" / "vocabulary.json")
    make_image().save(tmp_path / "photo.png")
    question = {"from": "human", "value": "<image>\nwhat?"}
    answers = [{"from": "gpt", "value": f"{number} dogs"} for number in range(4)]
    samples = [{"image": "photo.png", "conversations": [question, answer]} for answer in answers]
    (tmp_path / "samples.json").write_text(json.dumps(samples))
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")

    def printed(result: CompletedProcess) -> str:
        assert result.returncode == 0, result.stderr[-3000:]
        return result.stdout

    compose, *use, move = code_blocks("python")
    (train,) = [block for block in code_blocks("shell") if "train.py" in block]
    printed(run_code_here(f"{compose}\n{move}", tmp_path))
    for command in train.replace("\\\n", "").splitlines():
        python, script, *arguments = shlex.split(command)
        printed(run_script_here(script, *arguments, cwd=tmp_path))
    assert len(use) == 2
    caption, words = (printed(run_code_here(block, tmp_path)) for block in use)
    assert caption.strip()
    assert "dog" in words


def test_every_file_that_the_readme_names_exists():
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"`((?:scripts|docs|trainer|modeling_langbridge|hub_cards)/[\w/.]*)`", text))
    named |= set(re.findall(r"\]\(((?!http|#)[^)]+)\)", text))
    assert named and not [name for name in named if not (ROOT / name).exists()]
