# SPDX-License-Identifier: Apache-2.0
"""The table of the paper's benchmarks, and what is read of lmms-eval's runs, without lmms-eval."""

import json
import sys
from pathlib import Path

import pytest

from trainer.evaluation.benchmarks import (
    BENCHMARKS,
    Harness,
    Outcome,
    benchmark_table,
    find_reason,
    read_scores,
    run_task,
)


HARNESS = Harness(python=Path(sys.executable), model="my-langbridge", batch_size=8)


def write_results(folder: Path, name: str, task: str, scores: dict) -> None:
    path = folder / "my__model" / f"{name}_results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"results": {task: scores}}))


def row_of(table: str, name: str) -> list[str]:
    return next(line for line in table.splitlines() if line.startswith(f"| {name} ")).strip("| ").split(" | ")


def test_the_table_has_the_papers_numbers_beside_ours_on_their_scale():
    scores = {
        "gqa": {"exact_match": 0.6123},
        "mme": {"mme_perception_score": 1400.25, "mme_cognition_score": 300.5},
        "mmbench_en_dev_static": {"gpt_eval_score": 70.5},
        "pope": {"pope_accuracy": 0.5, "pope_f1_score": 0.871},
    }
    table = benchmark_table({task: Outcome(found) for task, found in scores.items()})
    assert row_of(table, "GQA")[2:] == ["61.23", "62.92", "63.03", "63.71", "63.92"]
    assert row_of(table, "MME")[2:4] == ["1700.75", "1938"]
    assert row_of(table, "MMBench")[2] == "70.50"
    assert row_of(table, "POPE")[1:3] == ["pope_f1_score of `pope`", "87.10"]
    assert "ot run" not in table


def test_what_was_not_run_says_why():
    table = benchmark_table({"gqa": Outcome({"exact_match": 0.5}), "mmvet": Outcome({}, "no key")})
    assert row_of(table, "MM-Vet")[2:4] == ["not run", "35.5"]
    assert table.endswith("Not run:\n\n- `mmvet`: no key")


def test_a_task_that_is_not_the_papers_has_a_row_for_each_measure():
    table = benchmark_table({"colours": Outcome({"exact_match": 0.25, "f1": 0.5}), "shapes": Outcome({}, "gone")})
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[:3] for line in lines[2:4]] == [
        ["| colours", "exact_match", "0.2500"],
        ["| colours", "f1", "0.5000"],
    ]
    assert "not run" in lines[4]
    assert {line.count("|") for line in lines} == {8}


def test_all_seven_are_there():
    assert [benchmark.name for benchmark in BENCHMARKS.values()] == [
        "GQA",
        "TextVQA",
        "MME",
        "MMBench",
        "MM-Vet",
        "POPE",
        "ScienceQA",
    ]


def test_the_newest_whole_results_count(tmp_path):
    assert read_scores(tmp_path, "gqa") == {}
    write_results(tmp_path, "20261129_1", "gqa", {"exact_match,none": 0.1})
    write_results(
        tmp_path,
        "20261129_2",
        "gqa",
        {"exact_match,none": 0.2, "exact_match_stderr,none": 0.01, "submission,none": None, "alias": "gqa"},
    )
    (tmp_path / "my__model" / "20261129_3_results.json").write_text('{"results": {"gq')
    assert read_scores(tmp_path, "gqa") == {"exact_match": 0.2}


def test_a_task_with_results_is_not_run_again(tmp_path):
    write_results(tmp_path, "20261129_1", "gqa", {"exact_match,none": 0.1})
    assert run_task(HARNESS, "gqa", tmp_path) == Outcome({"exact_match": 0.1})
    assert not (tmp_path / "log.txt").exists()


def test_a_run_that_leaves_no_results_says_why_and_keeps_its_log(tmp_path):
    outcome = run_task(HARNESS, "gqa", tmp_path)  # of this environment, which has no lmms-eval
    assert outcome.scores == {} and "No module named lmms_eval" in outcome.reason
    assert "No module named lmms_eval" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(("key", "judged"), [("", False), ("sk-1", True)])
def test_without_a_judge_mmvet_is_not_asked(tmp_path, monkeypatch, key, judged):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    monkeypatch.delenv("API_TYPE", raising=False)
    outcome = run_task(HARNESS, "mmvet", tmp_path)
    assert ("OPENAI_API_KEY is not set" in outcome.reason) != judged
    assert (tmp_path / "log.txt").exists() == judged


def test_the_reason_is_the_last_error_that_says_something():
    log = (
        "Traceback (most recent call last):\n  File x\nValueError: first\n"
        "requests.exceptions.ConnectionError: Couldn't reach the Hub | (offline). Call again.\n"
        "\x1b[32mINFO\x1b[0m more\ntenacity.RetryError: RetryError[<Future>]\n"
    )
    assert find_reason(log) == "ConnectionError: Couldn't reach the Hub / (offline)"
    assert find_reason("killed\n") == "killed"
    assert find_reason("") == "it said nothing"


def test_lmms_eval_is_told_all_that_was_asked_for(tmp_path):
    harness = Harness(
        python=Path("python"),
        model="my-langbridge",
        batch_size=8,
        dtype="bfloat16",
        trust_remote_code=True,
        limit=5,
        include_path=tmp_path,
    )
    command = " ".join(harness.command("pope", Path("out")))
    assert command.startswith("python -m lmms_eval --model langbridge --model_args pretrained=my-langbridge,")
    for words in ("trust_remote_code=True", "dtype=bfloat16", "--tasks pope", "--batch_size 8", "--limit 5"):
        assert words in command
    assert f"--include_path {tmp_path}" in command
    assert "distributed" not in command
    shared = Harness(python=Path("python"), model="my-langbridge", batch_size=8, num_processes=4)
    assert "--nproc_per_node 4 -m lmms_eval --model langbridge" in " ".join(shared.command("pope", Path("out")))
    assert "--limit" not in HARNESS.command("pope", Path("out"))
