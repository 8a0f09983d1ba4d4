# SPDX-License-Identifier: Apache-2.0
import os
import signal
import subprocess
import sys
import time
from functools import partial

import pytest
from filelock import FileLock
from paths import ROOT, SCRIPTS

from experiments.stages import run_stages


def write_note(text, folder):
    """Writes a note."""
    (folder / "note.txt").write_text(text)


def meet(other, folder):
    """Waits until the other stage is under way."""
    (folder / "here").write_text(os.environ["OMP_NUM_THREADS"])
    wait_until(lambda: list(folder.parent.glob(f".{other}.*/here")) or (folder.parent / other).exists())


def meet_and_fail(other, folder):
    """Fails, when the other stage has met it and is done: what a failed stage has written goes."""
    meet(other, folder)
    wait_until((folder.parent / other).exists)
    raise ValueError("no luck")


def wait_until(condition):
    for _ in range(600):
        if condition():
            return
        time.sleep(0.1)
    raise TimeoutError("waited a minute")


LONG_JOB = """
import atexit, sys, time
from pathlib import Path
from experiments.stages import run_stages
from trainer.command_line import run_script

def stage(folder):
    (folder / "half").write_text("x")
    if folder.name.startswith(".long"):
        time.sleep(600)
    if folder.name.startswith(".short"):
        atexit.register(time.sleep, 3)  # Ctrl-C meets its process on the way out

if __name__ == "__main__":
    groups = [{"first": stage}, {"long_a": stage, "long_b": stage, "short": stage}]
    run_script(lambda: run_stages(Path(sys.argv[1]), groups), interrupted="Interrupted: go on.")
"""


def test_stages_of_a_group_run_at_the_same_time_and_one_that_fails_is_named_and_leaves_no_folder(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    side_by_side = {"good": partial(meet, "bad"), "bad": partial(meet_and_fail, "good")}
    with pytest.raises(ChildProcessError, match="stage bad failed"):
        run_stages(tmp_path, [side_by_side, {"later": partial(write_note, "x")}])
    assert [path.name for path in tmp_path.iterdir()] == ["good"]
    assert (tmp_path / "good" / "here").read_text() == "1"  # a thread


def test_a_finished_stage_is_not_done_again_and_keeps_its_seconds(tmp_path, capfd):
    seconds = run_stages(tmp_path, [{"one": partial(write_note, "first")}])
    seen = []
    groups = [{"one": partial(write_note, "second")}, {"two": partial(write_note, "third")}]
    again = run_stages(tmp_path, groups, after_group=lambda: seen.append((tmp_path / "two").exists()))
    assert seen == [True]  # not after what was done before
    assert (tmp_path / "one" / "note.txt").read_text() == "first"
    assert (tmp_path / "two" / "note.txt").read_text() == "third"
    assert again["one"] == seconds["one"] and set(again) == {"one", "two"}
    assert capfd.readouterr().err.count("Done before.") == 1


def test_a_job_that_another_process_is_at_is_refused(tmp_path):
    with FileLock(tmp_path / ".lock"):
        with pytest.raises(OSError, match="Another run is writing to"):
            run_stages(tmp_path, [{"one": partial(write_note, "x")}])
    assert not (tmp_path / "one").exists()


@pytest.mark.slow  # four processes
def test_ctrl_c_keeps_finished_stages_and_leaves_nothing_half_written(tmp_path):
    output = tmp_path / "output"
    output.mkdir()
    (tmp_path / "job.py").write_text(LONG_JOB)
    job = subprocess.Popen(
        [sys.executable, tmp_path / "job.py", output],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(SCRIPTS)])},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that Ctrl-C can reach all its processes and none of the tests'
        # As in a terminal: what a shell starts in the background, as these tests may be, is deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    while job.poll() is None and not ((output / "short").exists() and len(list(output.glob(".long_?.*/half"))) == 2):
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGINT)
    _, errors = job.communicate(timeout=60)
    assert job.returncode == 130, errors
    assert "Interrupted: go on." in errors and "Traceback" not in errors
    assert {path.name for path in output.iterdir()} == {"first", "short"}
