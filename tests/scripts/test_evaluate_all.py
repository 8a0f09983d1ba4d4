# SPDX-License-Identifier: Apache-2.0
"""scripts/evaluate_all.sh: what it refuses, and lmms-eval itself on local tasks, in an environment of its own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT, SCRIPTS
from tiny_parts import make_image

from modeling_langbridge import LangBridgeForConditionalGeneration, to_llava
from trainer.evaluation import lmms_eval_environment
from trainer.evaluation.benchmarks import Harness, run_task


pytest_plugins = ["places"]
SCRIPT = SCRIPTS / "evaluate_all.py"
COLOURS = ("red", "green", "blue", "yellow", "black", "orange")
TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {folder}/colours.jsonl
test_split: test
doc_to_visual: !function functions.images_of
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
output_type: {kind}
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
"""
FREE = 'generation_kwargs:\n  max_new_tokens: 5\n  until: ["."]\n'
CHOICE = f"doc_to_choice: {json.dumps(COLOURS)}\n"
FUNCTIONS = 'from PIL import Image\n\n\ndef images_of(doc):\n    return [Image.open(doc["image"])]\n'


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ("", "the following arguments are required: CHECKPOINT"),
        ("{raw} --tasks ,", "--tasks is empty: name tasks of lmms-eval"),
        ("{raw} --batch_size 0", "--batch_size: must be a whole number of 1 or more"),
        ("{raw} --limit 0", "--limit: must be a whole number of 1 or more"),
        ("{raw} --dtype float8", "--dtype: invalid choice"),
        ("{raw} --include_path absent", "--include_path absent is no folder"),
        ("{raw} --output_dir a,b", "lmms-eval cannot be given .*a,b"),
        ("{raw} --output_dir taken", "taken exists and holds no evaluation: name another"),
        ("{raw} --output_dir file", "--output_dir file is a file: name a folder"),
        ("absent --output_dir out", "absent"),
        ("{language_model} --output_dir out", "is a language model of type qwen2, not a LangBridge"),
        ("{raw_with_nan} --output_dir out", "holds values that are not finite"),
        ("{raw} --output_dir out --environment taken", "--environment .*taken exists and is no environment"),
        ("{raw} --output_dir out --environment file", "--environment .*file is a file: name a folder"),
    ],
)
def test_bad_input_gets_one_sentence(refuse, declared, monkeypatch, options, sentence):
    monkeypatch.setattr(lmms_eval_environment, "fill", None)  # no environment is made before the refusal
    refuse(options, sentence)


@pytest.fixture(scope="module")
def declared(tmp_path_factory):
    """The entry point for lmms-eval as this checkout declares it, wherever the installed project lies."""
    folder = tmp_path_factory.mktemp("declared")
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=100)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ["PYTHONPATH"]]))
        yield


@pytest.fixture(scope="module")
def environment(declared, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("environment") / "lmms_eval"
    try:
        lmms_eval_environment.make_environment(folder)
    except OSError as error:
        pytest.skip(f"no environment with lmms-eval: {error}")
    return folder


@pytest.fixture
def tasks(tmp_path) -> Path:
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = []
    for number, colour in enumerate(COLOURS):
        make_image(colour, (48 + 8 * number, 40)).save(folder / f"{colour}.png")
        question = f"which colour is it, {number * 'or '}what?"
        rows.append({"image": str(folder / f"{colour}.png"), "question": question, "answer": colour})
    (folder / "colours.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "functions.py").write_text(FUNCTIONS)
    for name, kind, metric, more in (
        ("colours", "generate_until", "exact_match", FREE),
        ("colours_choice", "multiple_choice", "acc", CHOICE),
    ):
        task = TASK.format(name=name, folder=folder, kind=kind, metric=metric)
        (folder / f"{name}.yaml").write_text(task + more)
    return folder


def strengthen(model: LangBridgeForConditionalGeneration) -> None:
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data.mul_(10)  # fresh weights are so small that all pictures look alike


@pytest.fixture
def checkpoint(model, processor, tmp_path) -> Path:
    strengthen(model)
    model.save_pretrained(tmp_path / "checkpoint")
    processor.save_pretrained(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def evaluate(environment, tasks, checkpoint, tmp_path):
    """Runs the command as users do, and gives what it prints."""

    def run(output: str, *options: object, status: int = 0) -> str:
        command = [SCRIPTS / "evaluate_all.sh", checkpoint, "--environment", environment, "--include_path", tasks]
        result = subprocess.run(
            [*map(str, command), "--output_dir", output, *map(str, options)],
            cwd=tmp_path,
            env={**os.environ, "PYTHON": sys.executable, "HF_HOME": str(tmp_path / "hf"), "OPENAI_API_KEY": ""},
            capture_output=True,
            text=True,
            timeout=500,
        )
        assert result.returncode == status, result.stdout + result.stderr
        return result.stdout

    return run


def answers_of(folder: Path) -> dict[tuple[str, int], str]:
    lines = [line for path in folder.glob("answers-*.jsonl") for line in path.read_text().splitlines()]
    rows = map(json.loads, lines)
    return {(row["shown"], row["key"]): row["answer"] for row in rows}


@pytest.mark.slow
def test_lmms_eval_asks_a_checkpoint_local_tasks_and_goes_on_after_an_interruption(evaluate, checkpoint, tmp_path):
    names = "colours,colours_choice,pope,mmvet"
    printed = evaluate("out", "--tasks", names, "--batch_size", 4)
    assert re.search(r"\| colours \| exact_match \| \d\.\d{4} \|", printed)
    assert re.search(r"\| colours_choice \| acc \| \d\.\d{4} \|", printed)
    assert re.search(r"\| POPE \| pope_f1_score of `pope` \| not run \| 87.8 \|", printed)  # tests see no network
    assert "`mmvet`: a model of OpenAI judges its answers, and OPENAI_API_KEY is not set" in printed
    answers = answers_of(tmp_path / "out" / "colours")
    assert len(answers) == 6 and len(set(answers.values())) > 2
    assert len(answers_of(tmp_path / "out" / "colours_choice")) == 36
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [result["metric"] for result in results] == ["colours: exact_match", "colours_choice: acc"]

    # An interruption: no results yet, the first batch is answered, and its last line is cut.
    (results_file,) = (tmp_path / "out" / "colours").glob("*/*_results.json")
    results_file.unlink()
    file = tmp_path / "out" / "colours" / "answers-0.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:4]) + lines[4][:20])
    assert "| colours | exact_match |" in evaluate("out", "--tasks", "colours", "--batch_size", 4)
    assert file.read_text().splitlines(keepends=True)[:4] == lines[:4]
    assert answers_of(tmp_path / "out" / "colours") == answers and len(file.read_text().splitlines()) == 6

    # The same answers one by one, and by the checkpoint's own code.
    evaluate("alone", "--tasks", "colours", "--batch_size", 1, "--trust_remote_code")
    assert answers_of(tmp_path / "alone" / "colours") == answers

    # And by two processes that share the questions.
    evaluate("two", "--tasks", "colours", "--batch_size", 2, "--num_processes", 2)
    files = [tmp_path / "two" / "colours" / f"answers-{process}.jsonl" for process in (0, 1)]
    assert [len(file.read_text().splitlines()) for file in files] == [3, 3]
    assert answers_of(tmp_path / "two" / "colours") == answers

    # Another model's answers are never taken for this one's.
    model = LangBridgeForConditionalGeneration.from_pretrained(checkpoint)
    model.lm_head.weight.data.neg_()
    model.save_pretrained(checkpoint)
    evaluate("out", "--tasks", "colours", status=1)


@pytest.mark.slow
def test_lmms_eval_gets_the_answers_of_the_exported_llava_at_any_batch_size(
    environment, tasks, vision, text, processor, tmp_path, monkeypatch
):
    model = LangBridgeForConditionalGeneration.from_vision_text_pretrained(
        vision, text, list(range(100, 160)), processor=processor, projector_hidden_size=32
    )
    strengthen(model)
    for name, parts in (("langbridge", (model, processor)), ("llava", to_llava(model, processor))):
        for part in parts:
            part.save_pretrained(tmp_path / name)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    found = []
    for name, batch_size in (("llava", 1), ("langbridge", 1), ("langbridge", 4)):
        folder = tmp_path / f"{name}_{batch_size}"
        folder.mkdir()
        harness = Harness(environment / "bin" / "python", str(tmp_path / name), batch_size, include_path=tasks)
        outcome = run_task(harness, "colours", folder)
        assert outcome.scores, outcome.reason
        found.append(answers_of(folder))
    exported, *own = found
    assert len(exported) == 6 and len(set(exported.values())) > 2
    assert own == [exported, exported]


def test_an_installation_without_the_plug_in_is_told_to_install_again(refuse, monkeypatch):
    monkeypatch.setattr(lmms_eval_environment, "entry_points", lambda **_: ())
    refuse("{raw} --output_dir out", "lmms-eval would not find LangBridge, .*install it again")
