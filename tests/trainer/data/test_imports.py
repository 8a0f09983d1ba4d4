# SPDX-License-Identifier: Apache-2.0
"""The data code stands alone: it can be used without the trainers and what they need."""

import ast

import pytest
from paths import ROOT


@pytest.mark.parametrize("file", sorted((ROOT / "trainer" / "data").glob("*.py")), ids=lambda file: file.name)
def test_data_imports_no_other_part_of_the_trainer_and_no_training_library(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level <= 1 and not (node.level == 0 and node.module.startswith("trainer")), ast.unparse(node)
            names = [node.module or ""]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        assert not {name.partition(".")[0] for name in names} & {"peft", "trl", "bitsandbytes"}, ast.unparse(node)
