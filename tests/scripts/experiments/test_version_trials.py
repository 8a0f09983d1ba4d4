# SPDX-License-Identifier: Apache-2.0
"""What check_versions.py finds in an environment: that a checkpoint works there, or why not."""

from pathlib import Path

import pytest
import transformers
from packaging.version import Version

from experiments.versions.checkpoint import save_checkpoint
from experiments.versions.environments import make_shared_environment
from experiments.versions.trial import find_exception, is_close, try_version, use_checkpoint


VERSION = Version(transformers.__version__)


TRACEBACK = "Traceback (most recent call last):\n  File a\n    b\n    ^^\n"


@pytest.mark.parametrize(
    "stderr, said",
    [
        (f"warning\n{TRACEBACK}ValueError: bad\n", "ValueError: bad"),
        (f"{TRACEBACK}ImportError: \nIt needs torchvision. See the\ndocs.\n", "ImportError: It needs torchvision"),
        (f"{TRACEBACK}KeyError: 1\n\nDuring this:\n\n{TRACEBACK}OSError: 2\n", "OSError: 2"),
        ("", ""),
    ],
    ids=["plain", "message on the next line", "chained", "nothing"],
)
def test_the_reason_is_the_last_exception(stderr, said):
    assert find_exception(stderr) == said


@pytest.mark.parametrize(
    "found, close", [([1.0, 2.0], True), ([1.0, 2.1], False), ([1.0], False), ([1.0, float("nan")], False)]
)
def test_what_differs_or_is_not_a_number_is_not_close(found, close):
    assert is_close({"losses": found}, {"losses": [1.0, 2.00001]}, "losses", 1e-3) == close


def test_what_a_version_did_not_reach_is_not_close():
    assert not is_close({}, {"losses": [1.0]}, "losses", 1e-3)


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    return make_shared_environment(tmp_path_factory.mktemp("environment") / "shared")


@pytest.fixture
def folder(tmp_path) -> Path:
    save_checkpoint(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
def test_a_checkpoint_works_with_the_version_that_saved_it(python, folder):
    expected, reason = use_checkpoint(python, folder)
    assert not reason
    result = try_version(python, VERSION, folder, expected)
    assert result.works and result.package and not result.reason


@pytest.mark.slow
def test_each_step_that_differs_or_fails_is_told(python, folder):
    expected, _ = use_checkpoint(python, folder)
    result = try_version(python, VERSION, folder, {**expected, "losses": [0, 0, 0]})
    assert (result.generates, result.trains, result.reason) == (True, False, "other losses")
    code = folder / "checkpoint" / "modeling_langbridge.py"
    code.write_text(code.read_text().replace("    GenerationMixin,\n", "    NoSuchMixin as GenerationMixin,\n"))
    result = try_version(python, VERSION, folder, expected)
    assert not result.loads and not result.works and "NoSuchMixin" in result.reason
