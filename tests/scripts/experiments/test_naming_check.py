# SPDX-License-Identifier: Apache-2.0
"""The naming check on drawn scenes: a tower and an adapter trained for a moment, and the tables."""

from in_process import run_here

from experiments.synthetic import naming_check


def test_the_tables_have_a_row_for_the_objects_patches_and_each_control(tmp_path):
    arguments = ["naming_check", "--quick", "--output_dir", tmp_path / "out"]
    result = run_here(naming_check.main, arguments, tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    rows = [line.split(" | ")[0] for line in lines]
    assert rows.count("| patches of the object") == rows.count("| shuffled patches") == 3
    assert "| named by its colour or shape" in rows
    assert all(line.endswith("| 0.500 [0.500, 0.500] |") for line in lines if line.startswith("| patches outside"))
