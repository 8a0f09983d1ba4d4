# SPDX-License-Identifier: Apache-2.0
import os
import time
from functools import partial

import pytest

from experiments.stages import run_stages


def write_note(text, folder):
    """Writes a note."""
    (folder / "note.txt").write_text(text)


def meet(other, folder):
    """Waits until the other stage is under way."""
    (folder / "here").write_text(os.environ["OMP_NUM_THREADS"])
    for _ in range(600):
        if list(folder.parent.glob(f".{other}.*/here")) or (folder.parent / other).exists():
            return
        time.sleep(0.1)
    raise TimeoutError(f"never met {other}")


def fail(folder):
    """Fails."""
    (folder / "half").write_text("x")
    raise ValueError("no luck")


def test_stages_of_a_group_run_at_the_same_time_with_a_thread_each(tmp_path):
    run_stages(tmp_path, [{"a": partial(meet, "b"), "b": partial(meet, "a")}])
    assert [(tmp_path / name / "here").read_text() for name in "ab"] == ["1", "1"]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_finished_stage_is_not_done_again_and_keeps_its_seconds(tmp_path, capfd):
    seconds = run_stages(tmp_path, [{"one": partial(write_note, "first")}])
    again = run_stages(tmp_path, [{"one": partial(write_note, "second")}, {"two": partial(write_note, "third")}])
    assert (tmp_path / "one" / "note.txt").read_text() == "first"
    assert (tmp_path / "two" / "note.txt").read_text() == "third"
    assert again["one"] == seconds["one"] and set(again) == {"one", "two"}
    assert capfd.readouterr().err.count("Done before.") == 1


def test_a_failed_stage_is_named_and_leaves_no_folder_while_its_neighbour_is_kept(tmp_path):
    with pytest.raises(ChildProcessError, match="stage bad failed"):
        run_stages(tmp_path, [{"good": partial(write_note, "x"), "bad": fail}, {"later": fail}])
    assert [path.name for path in tmp_path.iterdir()] == ["good"]
