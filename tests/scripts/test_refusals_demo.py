# SPDX-License-Identifier: Apache-2.0
"""What the demo and the console command refuse, each in one sentence, leaving everything as it was."""

import pytest
from paths import SCRIPTS
from refusals import assert_refused


@pytest.mark.parametrize(
    ("script", "arguments", "sentence"),
    [
        ("demo", ["--output_dir", "mine"], "mine is no output of this script, and not an empty folder: name another"),
        ("demo", ["--output_dir", "mine/thesis.txt"], "thesis.txt is no output of this script"),
        ("demo", ["--output_dir", "mine/thesis.txt/demo"], "thesis.txt"),
        ("demo", ["--output_dir", "other"], "other holds results of other settings, see other/settings.json"),
        ("demo", ["--seed", "zero"], "argument --seed: invalid int value: 'zero'"),
        ("demo", ["--output_dir"], "argument --output_dir: expected one argument"),
        ("demo", ["--quik"], "unrecognized arguments: --quik"),
        ("langbridge", [], "the following arguments are required: COMMAND"),
        ("langbridge", ["trian"], "argument COMMAND: invalid choice: 'trian'"),
        ("langbridge", ["train.py"], "argument COMMAND: invalid choice: 'train.py'"),
        ("langbridge", ["langbridge"], "argument COMMAND: invalid choice: 'langbridge'"),
        ("langbridge", ["--config", "tiny.yaml"], "argument COMMAND: invalid choice: 'tiny.yaml'|required: COMMAND"),
    ],
)
def test_what_cannot_be_done_is_refused(script, arguments, sentence, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "settings.json").write_text("{}")
    assert_refused(SCRIPTS / f"{script}.py", arguments, sentence, tmp_path)
