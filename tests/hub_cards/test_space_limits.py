# SPDX-License-Identifier: Apache-2.0
"""The Space under careless and hostile hands: what it refuses, in one sentence, and how much it takes at once."""

import importlib
import json
import re
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from pathlib import Path
from threading import Event

import pytest
import torch
from browsing import needs_chromium
from playwright.sync_api import expect
from space_fixtures import Visitor, answer
from tiny_parts import make_image
from transformers import AutoTokenizer
from wordy_models import compose

from modeling_langbridge import LangBridgeProcessor


pytest_plugins = "space_fixtures"
REFUSED = "This request cannot be answered: reload the page and try again."
NO_PHOTO = "This is no photo: upload the file itself."
EVERY_WORD = "every patch's strongest"
QUESTION = "what is in the picture?"


def file(path: object, **fields) -> dict:
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **fields}


@pytest.fixture(scope="module")
def visitor(grounded):
    """One with a photo and its words."""
    visitor = Visitor(grounded.address)
    show(visitor, grounded.folder)
    visitor.send("read_photo", None)
    return visitor


def show(visitor: Visitor, folder: Path, colour: str = "red"):
    make_image(colour).save(folder / f"{colour}.png")
    visitor.send("receive", visitor.upload(folder / f"{colour}.png"), None)


@pytest.mark.parametrize(
    ("function", "data", "sentence"),
    [
        ("receive", [file("/etc/passwd"), None], REFUSED),
        ("receive", [file("../model/config.json"), None], REFUSED),
        ("receive", [{"path": "/etc/passwd"}, None], REFUSED),
        ("receive", [file("http://127.0.0.1/secret"), None], NO_PHOTO),
        ("receive", [file("https://example.com/photo.png"), None], NO_PHOTO),
        ("receive", [file("data:image/png;base64,AAAA"), None], REFUSED),
        ("receive", [file(None, url="data:image/png;base64,AAAA"), None], NO_PHOTO),
        ("receive", [file(5), None], NO_PHOTO),
        ("receive", [{"path": file("https://example.com/photo.png")}, None], NO_PHOTO),
        ("receive", [[file("https://example.com/photo.png")], None], NO_PHOTO),
        ("receive", [{}, None], NO_PHOTO),
        ("receive", ["/etc/passwd", None], REFUSED),
        ("receive", [], REFUSED),
        ("answer", [None, "a" * 1001], "This text has 1,001 characters: write at most 1,000."),
        ("answer", [None, " \n "], "The question is empty: write one first."),
        ("answer", [None, None], "The question is empty: write one first."),
        ("answer", [None, ["what?"]], NO_PHOTO),
        ("answer", [None, file("/etc/passwd")], REFUSED),
        ("answer", [None], REFUSED),
        ("choose", [None, "unsaid", None], "is not in the list of choices"),
        ("choose", [None, None, None], REFUSED),
        ("pick", [None, EVERY_WORD], REFUSED),
        ("find", [None, "a" * 1001, None], "This text has 1,001 characters: write at most 1,000."),
        ("find", [None, "<b>" * 300, None], "^“(&lt;b&gt;){20}” is not one of this model's 41 words: try another.$"),
        ("find", [None, None, None], "“” is not one of this model's 41 words: try another."),
    ],
)
def test_an_odd_request_gets_one_sentence(visitor, function, data, sentence):
    assert re.search(sentence, visitor.send(function, *data))


@pytest.mark.parametrize("index", [[10**9, 5], [-5000, 0], ["a", "b"], [5], None, {}])
def test_a_click_outside_the_picture_gets_one_sentence(visitor, index):
    assert visitor.send("pick", None, EVERY_WORD, event_data={"index": index, "value": None}) == REFUSED


def test_a_lone_surrogate_in_a_question_gets_one_sentence(visitor):
    body = {"data": [None, "\ud800"], "fn_index": visitor.functions["answer"], "session_hash": visitor.session}
    visitor.client.post("/queue/join", content=json.dumps(body), headers={"content-type": "application/json"})
    assert REFUSED in str(list(visitor.listen())[-2])


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/call/nothing", {"data": []}, 400),
        ("/call/v2/answer", {"nonsense": 1}, 400),
        ("/queue/join", {"data": [], "fn_index": 999, "session_hash": "a"}, 400),
        ("/queue/join", {"data": "a", "fn_index": 0, "session_hash": "a"}, 422),
        ("/queue/join", {"fn_index": 0, "session_hash": "a"}, 422),
        ("/run/answer", {"data": [None, QUESTION]}, 404),  # it would go past the queue
        ("/queue/join", {"data": ["a" * 100_000]}, 413),
        ("/component_server", {"data": [], "component_id": 1, "fn_name": "open", "session_hash": "a"}, 404),
    ],
)
def test_a_request_that_fits_nothing_is_answered_with_a_status(grounded, visitor, path, body, status):
    response = visitor.client.post(path, json=body)
    assert (response.status_code, "detail" in response.json()) == (status, True)


def test_a_session_that_does_not_exist_ends_its_stream(visitor):
    assert "404" in str(list(Visitor(visitor.address).listen()))


@pytest.mark.parametrize("name", ["/etc/passwd", "{0}/model/config.json", "{0}/space/app.py", "{0}/gradio/../log"])
def test_files_of_the_server_are_not_given(grounded, visitor, name):
    response = visitor.client.get(f"/file={name.format(grounded.folder)}")
    assert response.status_code == 403


def test_large_requests_are_refused_before_they_are_read(visitor, tmp_path):
    (tmp_path / "photo.png").write_bytes(bytes(20 * 2**20 + 1))
    answers = [
        visitor.client.post("/upload", files={"files": (tmp_path / "photo.png").open("rb")}),
        visitor.client.post("/upload", files=[("files", bytes(8_000_000))] * 3),
        # Without a length beforehand.
        visitor.client.post("/queue/join", content=(bytes(10_000) for _ in range(11))),
    ]
    assert [answer.status_code for answer in answers] == [413] * 3


def write_bomb(path: Path, side: int) -> Path:
    """A PNG of a few kB, `side` x `side` pixels large."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)

    header = side.to_bytes(4) * 2 + bytes([1, 0, 0, 0, 0])  # 1 bit of grey
    rows = zlib.compress(bytes((side // 8 + 1) * side))
    chunks = chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))
    return path


def memory(process_id: int) -> int:
    """The most memory that a process has had, in bytes."""
    return int(re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{process_id}/status").read_text())[1]) * 1024


def test_a_small_file_of_many_pixels_is_refused_before_it_is_decoded(grounded, tmp_path):
    visitor, before = Visitor(grounded.address), memory(grounded.app.pid)
    bomb = write_bomb(tmp_path / "photo.png", 20_000)
    assert bomb.stat().st_size < 60_000
    said = visitor.send("receive", visitor.upload(bomb), None)
    assert re.match(r"The image photo\.png .*pixels", said)
    assert memory(grounded.app.pid) < before + 100_000_000


def test_two_visitors_at_once_get_their_own_answers(grounded, tmp_path):
    expected = {colour: answer(grounded.model, grounded.processor, QUESTION, colour) for colour in ("red", "blue")}
    assert len(set(expected.values())) == 2

    def visit(colour: str) -> list[str]:
        visitor = Visitor(grounded.address)
        show(visitor, tmp_path, colour)
        return [json.loads(visitor.send("answer", None, QUESTION))[0] for _ in range(2)]

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(visit, expected)) == [[text] * 2 for text in expected.values()]


def test_many_quick_requests_are_answered_in_turn_and_those_beyond_the_queue_are_told_so(grounded, tmp_path):
    visitor = Visitor(grounded.address)
    show(visitor, tmp_path)
    expected, before = answer(grounded.model, grounded.processor, QUESTION), memory(grounded.app.pid)
    responses = [visitor.join("answer", None, QUESTION) for _ in range(30)]
    full = [response.json()["detail"] for response in responses if response.status_code == 503]
    assert full and set(full) == {"Queue is full. Max size is 20 and size is 20."}
    ends = [message for message in visitor.listen() if message["msg"] == "process_completed"]
    assert [end["output"]["data"] for end in ends] == [[expected]] * (30 - len(full))
    assert memory(grounded.app.pid) < before + 200_000_000


def test_the_photo_of_a_visitor_long_ago_is_forgotten(grounded, tmp_path):
    first = Visitor(grounded.address)
    show(first, tmp_path)
    for number in range(32):  # one after the other, as the queue holds fewer
        other = copy(first)
        other.session = f"{first.session}{number}"
        other.send("answer", None, None)
    assert first.send("answer", None, QUESTION) == "There is no photo to ask about: upload or pick one first."


def test_an_uploaded_photo_is_deleted_in_time(model, processor, space_modules, monkeypatch, tmp_path):
    monkeypatch.setattr(space_modules, "KEPT", 1)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    page = space_modules.build_page(model, processor, "user/name")
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **space_modules.LIMITS)
    try:
        visitor = Visitor(address.rstrip("/"))
        show(visitor, tmp_path)
        until = time.monotonic() + 20
        while any((tmp_path / "gradio").rglob("red.png")) and time.monotonic() < until:
            time.sleep(0.2)
        said = visitor.send("answer", None, QUESTION)
        assert said == "The image red.png does not exist."
    finally:
        page.close()


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (None, "The model computes values that are not finite: its weights are broken, or its precision is too low."),
        (MemoryError(), "There is not enough memory for this just now: try again later."),
        (torch.OutOfMemoryError("CUDA out of memory."), "There is not enough memory for this just now: try again"),
        (RuntimeError("/home/user/secret.py: CUBLAS_STATUS"), REFUSED),
    ],
)
def test_a_failure_of_the_model_is_one_sentence(
    failure, sentence, vision, text, space_modules, monkeypatch, tmp_path, capfd
):
    model, processor = compose(vision, text)
    with torch.no_grad():
        model.model.vocabulary_head.weight.fill_(torch.nan)
    if failure:
        monkeypatch.setattr(type(model), "generate", lambda *_, **__: (_ for _ in ()).throw(failure))
    page = space_modules.build_page(model, processor, "user/name")
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_name="127.0.0.1", **space_modules.LIMITS)
    try:
        visitor = Visitor(address.rstrip("/"))
        show(visitor, tmp_path)
        assert visitor.send("answer", None, QUESTION).startswith(sentence)
        if not failure:
            assert visitor.send("read_photo", None) == sentence
    finally:
        page.close()
    assert "Traceback" not in capfd.readouterr().err


def test_running_out_of_memory_on_the_cpu_is_told_as_such(space_modules):
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    assert "not enough memory" in importlib.import_module("limits").describe_failure(error.value)


@pytest.mark.parametrize("name", ["qwen2", "llama3", "llama2", "mistral", "phi2", "smollm"])
def test_special_tokens_in_a_question_are_text(data, vision, text, space_modules, name):
    tokenizer = AutoTokenizer.from_pretrained(data / "tokenizers" / name)
    processor = LangBridgeProcessor.from_vision_text_pretrained(vision, text, tokenizer=tokenizer)
    special = [number for number, token in processor.tokenizer.added_tokens_decoder.items() if token.special]
    assert processor.image_token_id in special

    def specials(question: str) -> list[int]:
        content = [{"type": "image", "image": make_image()}, {"type": "text", "text": question}]
        messages = [{"role": "user", "content": content}]
        input_ids = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True)[0]
        return [token_id for token_id in input_ids if token_id in special]

    typed = "".join(processor.tokenizer.convert_ids_to_tokens(special))
    question = importlib.import_module("captioning").spell_out(processor.tokenizer, f"is {typed} here?")
    assert specials(question) == specials("is it here?")
    assert question.replace(" ", "") == f"is {typed} here?".replace(" ", "")


def test_an_image_token_in_a_question_is_answered_as_text(vision, text, space_modules):
    model, processor = compose(vision, text)
    *_, written = space_modules.stream_answer(model, processor, make_image(), "<image> and <|endoftext|>?")
    assert written == answer(model, processor, "< image> and < |endoftext|>?")


@pytest.mark.slow
@needs_chromium
def test_the_page_says_what_is_too_large(grounded, browser, tmp_path):
    page = browser.new_page()
    page.goto(grounded.address)
    (tmp_path / "photo.png").write_bytes(bytes(20 * 2**20 + 1))
    page.locator("input[type=file]").set_input_files(tmp_path / "photo.png")
    expect(page.get_by_text("exceed the maximum allowed size of 20")).to_be_visible()
    page.locator(".gallery-item").click()
    page.get_by_label("Question").fill("why? " * 201)
    page.get_by_role("button", name="Ask").click()
    expect(page.get_by_text("This text has 1,005 characters: write at most 1,000.")).to_be_visible()
    page.locator("input[type=file]").set_input_files(write_bomb(tmp_path / "many.png", 20_000))
    expect(page.get_by_text("The image many.png")).to_be_visible()
    page.close()


@pytest.mark.slow
@needs_chromium
def test_the_page_says_that_the_queue_is_full(grounded, browser, tmp_path):
    visitor = Visitor(grounded.address)
    show(visitor, tmp_path)
    page = browser.new_page()
    page.goto(grounded.address)
    page.get_by_label("Question").fill(QUESTION)
    done = Event()

    def keep_full():
        while not done.is_set():
            visitor.join("answer", None, QUESTION)

    with ThreadPoolExecutor() as pool:
        pool.submit(keep_full)
        try:
            assert 503 in [visitor.join("answer", None, QUESTION).status_code for _ in range(30)]
            page.get_by_role("button", name="Ask").click()
            expect(page.get_by_text("currently busy")).to_be_visible()
        finally:
            done.set()
    page.close()
    list(visitor.listen())  # until the queue is empty, for the tests that follow


def test_no_odd_request_leaves_a_traceback_in_the_log(grounded, visitor):
    visitor.send("receive", file("/etc/passwd"), None)
    visitor.client.post("/call/nothing", json={"data": []})
    list(Visitor(grounded.address).listen())
    log = grounded.log()
    assert all(name in log for name in ("InvalidPathError", "FnIndexInferError"))
    assert "Traceback" not in log
