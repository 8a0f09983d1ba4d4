# SPDX-License-Identifier: Apache-2.0
"""The Space's tools for other programs, called by the real client of the Model Context Protocol."""

import json
import time
from functools import partial

import anyio
import gradio.mcp
import httpx
import pytest
from chat_requests import data_url
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import CallToolResult
from PIL import Image
from space_fixtures import answer
from tiny_parts import make_image

from modeling_langbridge.reading.patch_words import strongest_words


pytest_plugins = "space_fixtures"
PHOTO = data_url(make_image())


def call_tool(address: str, name: str = "", photo: str = PHOTO) -> CallToolResult | dict[str, str]:
    """What a tool answers; without a name, the tools themselves."""

    async def main():
        async with (
            streamable_http_client(f"{address}/gradio_api/mcp/") as (read, write, _),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            if name:
                return await session.call_tool(name, {"photo": photo})
            return {tool.name: tool.description for tool in (await session.list_tools()).tools}

    return anyio.run(main)


@pytest.fixture
def call(grounded):
    return partial(call_tool, grounded.address)


def text_of(result: CallToolResult) -> str:
    assert not result.isError, result.content
    return result.content[0].text


def test_the_tools_are_three_and_say_what_they_do(call):
    tools = call()
    assert [name.removeprefix("LangBridge_") for name in tools] == ["caption", "words", "explain"]
    assert all(description for description in tools.values())


def test_a_tool_says_of_a_photo_what_the_page_says(call, grounded):
    names = dict(zip(("caption", "words", "explain"), call(), strict=True))
    assert text_of(call(names["caption"])) == answer(grounded.model, grounded.processor, "Describe the image.")
    seen = strongest_words(grounded.model, grounded.processor, make_image(), top=3)
    listed = json.loads(text_of(call(names["words"])))
    assert [(each["word"], each["share"]) for each in listed] == [
        (word, round(share, 4)) for word, share in seen.photo
    ]
    explained = json.loads(text_of(call(names["explain"])))
    assert (explained["rows"], explained["columns"]) == seen.grid
    assert explained["patches"][1][2][0][0] == seen.patches[1][2][0][0]


@pytest.mark.parametrize(
    "photo", ["http://127.0.0.1:9/photo.png", "/etc/hostname", "data:image/png;base64,bm9uZQ==", "nothing"]
)
def test_what_is_no_photo_is_refused(call, grounded, photo):
    result = call(next(iter(call())), photo)
    assert result.isError, result.content
    assert "Traceback" not in grounded.log()


def test_a_photo_of_a_megabyte_is_taken(call, grounded):
    photo = data_url(Image.effect_noise((1100, 1100), 90))
    assert len(photo) > 10**6
    assert text_of(call(next(iter(call())), photo))


def test_a_call_that_is_too_large_is_refused_before_it_is_read(grounded):
    answered = httpx.post(f"{grounded.address}/gradio_api/mcp/", content=b" " * (4 * 2**20 + 1))
    assert answered.status_code == 413


def test_the_photos_of_calls_are_deleted_in_time(model, processor, space_modules, monkeypatch, tmp_path):
    monkeypatch.setattr(space_modules, "KEPT", 4)  # seconds, in which a call has ended
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))
    monkeypatch.setattr(gradio.mcp, "DEFAULT_TEMP_DIR", str(tmp_path / "gradio"))
    page = space_modules.build_page(model, processor, "user/name")
    options = {"prevent_thread_lock": True, "quiet": True, "server_name": "127.0.0.1", "mcp_server": True}
    _, address, _ = page.launch(**options, **space_modules.LIMITS)
    try:
        name = next(iter(call_tool(address.rstrip("/"))))
        text_of(call_tool(address.rstrip("/"), name))
        files = [path for path in (tmp_path / "gradio").rglob("*") if path.is_file()]
        until = time.monotonic() + 20
        while any(path.exists() for path in files) and time.monotonic() < until:
            time.sleep(0.2)
        assert files and not [path for path in files if path.exists()]
    finally:
        page.close()
