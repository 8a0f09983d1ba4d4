# SPDX-License-Identifier: Apache-2.0
"""Rows of json files with the lines that they begin on, however the file is laid out, and files that are broken."""

import json

import pytest

from trainer.data.json_rows import read_json_rows
from trainer.data.samples import SampleError


ROWS = [{"id": 1, "text": "a\nb"}, {"id": 2, "deep": {"list": [1, {"a": []}]}}, {"id": 3, "text": "Straße 狗 😀"}]


def read(path) -> list[tuple[int, dict]]:
    return list(read_json_rows(path))


def test_a_list_in_one_line(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS))
    assert read(path) == [(1, row) for row in ROWS]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_pretty_printed_list(tmp_path, newline):
    path = tmp_path / "rows.json"
    text = "\n[\n" + ",\n\n".join(json.dumps(row, indent=1) for row in ROWS) + "\n]\n"
    path.write_text(text, newline=newline)
    lines = text.split("\n")
    expected = [position for position, line in enumerate(lines, 1) if line == "{"]
    assert read(path) == list(zip(expected, ROWS, strict=True))


def test_commas_at_the_beginning_of_lines(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"id": 1}\n, {"id": 2}\n,\n{"id": 3}]')
    assert read(path) == [(1, {"id": 1}), (2, {"id": 2}), (4, {"id": 3})]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_lines_with_blank_and_broken_ones_between(tmp_path, newline):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(ROWS[0]), "", '{"id": "cut', json.dumps(ROWS[1]), "  ", "[1, 2]", "5", json.dumps(ROWS[2])]
    path.write_text("\n".join(lines), newline=newline, encoding="utf-8")
    rows = read(path)
    assert [line for line, _ in rows] == [1, 3, 4, 6, 7, 8]
    assert [row for _, row in rows if isinstance(row, dict)] == ROWS
    assert [line for line, row in rows if isinstance(row, SampleError) and row.fault == "not json"] == [3, 6, 7]


def test_unusual_line_ends_inside_a_text_end_no_line(tmp_path):
    rows = [{"text": "a\u2028b\x85c\x0cd"}, {"text": "e"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert read(path) == [(1, rows[0]), (2, rows[1])]


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_a_byte_order_mark_is_no_fault(tmp_path, name):
    path = tmp_path / name
    path.write_text('[{"id": 1}]' if name == "rows.json" else '{"id": 1}\n', encoding="utf-8-sig")
    assert read(path) == [(1, {"id": 1})]


@pytest.mark.parametrize("text", ["[]", " [\n] \n"])
def test_an_empty_list_has_no_rows(tmp_path, text):
    path = tmp_path / "rows.json"
    path.write_text(text)
    assert read(path) == []


def test_what_is_no_object_is_a_fault_in_its_place(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text('[{"id": 1},\n5,\n["a"],\n{"id": 2}]')
    rows = read(path)
    assert [line for line, _ in rows] == [1, 2, 3, 4]
    assert [str(row) for _, row in rows[1:3]] == ["5 is no json object", "['a'] is no json object"]
    assert rows[3][1] == {"id": 2}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[{"id": 1},\n{"id": 2, "te', 2),
        ('[{"id": 1},\n{"id": 2}\n', 3),
        ('[{"id": 1},\n', 2),
        ('[{"id": 1},\n]', 2),
        ('[{"id": 1}\n{"id": 2}]', 2),
        ('[{"id": 1},\n\n,{"id": 2}]', 3),
        ('[{"id": 1}\n]\n[{"id": 2}]', 3),
        ('[{"id": 1}]\n]', 2),
        ('\n{"id": 1}', 2),
        ("", 1),
        ("\n\nno json", 3),
        ("[", 1),
    ],
)
def test_a_broken_list_is_refused_with_its_name_and_line(tmp_path, text, line):
    path = tmp_path / "rows.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"rows\.json .*line {line}\b"):
        read(path)


@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
def test_a_file_that_is_no_text_or_is_absent_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=rf"{name} cannot be read"):
        read(tmp_path / name)
    (tmp_path / name).write_bytes(b'[{"id": "\xff\xfe"}]')
    with pytest.raises(ValueError, match=rf"{name} cannot be read"):
        read(tmp_path / name)


def test_lines_are_read_one_by_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as file:
        for number in range(100_000):
            file.write(b'{"id": %d}\n' % number)
        file.write(b"\xff")  # would be an error, if it were read
    rows = read_json_rows(path)
    assert [next(rows) for _ in range(3)] == [(line, {"id": line - 1}) for line in (1, 2, 3)]
