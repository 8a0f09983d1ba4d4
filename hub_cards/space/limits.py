# SPDX-License-Identifier: Apache-2.0
"""What bounds a request: its size, the time that it waits, and what it may hold; and the sentence for what fails."""

import logging

import gradio as gr
import torch
from fastapi import HTTPException
from fastapi.middleware import Middleware
from fastapi.responses import JSONResponse


MAX_FILE = 20 * 2**20  # bytes of a photo
MAX_CALL = 4 * 2**20  # bytes of a call of another program, with its photo in base64; all of it is in memory
MAX_BODY = 100_000  # bytes of any other request
MAX_TEXT = 1000  # characters of a question
MAX_WAITING = 20  # requests in the queue
MAX_VISITORS = 32  # whose words are kept in memory
KEPT = 3600  # seconds for which an uploaded photo is kept

REFUSAL = "This request cannot be answered: reload the page and try again."

logger = logging.getLogger(__name__)


class Page(gr.Blocks):
    """A page that takes what its own components send, and says in one sentence what fails, with no traceback."""

    async def process_api(self, block_fn, inputs, *args, **kwargs):
        try:
            return await super().process_api(block_fn, [check_input(value) for value in inputs], *args, **kwargs)
        except gr.Error as error:
            error.print_exception = False
            raise
        except Exception as error:
            log(error)
            raise gr.Error(describe_failure(error), print_exception=False) from error


def check_input(value):
    """What a component sends: nothing, a number, a text, or an uploaded file, of which only the path is used.

    Raises:
        `gr.Error`: the value is anything else, or a text too long.
    """
    if isinstance(value, str) and len(value) > MAX_TEXT:
        raise gr.Error(f"This text has {len(value):,} characters: write at most {MAX_TEXT:,}.")
    if value is None or isinstance(value, (str, int)):
        return value
    path = value.get("path") if isinstance(value, dict) else None
    if not isinstance(path, str) or "://" in path:  # gradio itself would fetch a URL, however large
        raise gr.Error("This is no photo: upload the file itself.")
    return {"path": path, "meta": {"_type": "gradio.FileData"}}


def describe_failure(error: Exception) -> str:
    """One sentence for the visitor, with nothing of the server in it."""
    # On the CPU it is a RuntimeError like any other.
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error):
        return "There is not enough memory for this just now: try again later."
    if isinstance(error, FloatingPointError):
        return str(error)
    return REFUSAL


def log(error: Exception):
    """Logs one line of an error, which a visitor can cause at will."""
    logger.error("%s: %s", type(error).__name__, str(error).partition("\n")[0][:200])


class Gate:
    """ASGI middleware: refuses a large body before it is read into memory, and ends what fails without a traceback.

    Some of gradio's own routes fail on an endpoint or a session that does not exist.
    """

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        most = MAX_BODY
        if scope["path"].rstrip("/").endswith("/upload"):
            most += MAX_FILE  # MAX_BODY for the form around it
        elif "/mcp/" in f"{scope['path']}/":
            most = MAX_CALL
        seen, started = 0, False

        async def receive_bounded():
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > most:
                raise HTTPException(413, f"The request is too large: send at most {most:,} bytes.")
            return message

        async def send_on(message):
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive_bounded, send_on)
        except Exception as error:
            log(error)
            if not started:
                await JSONResponse({"detail": REFUSAL}, status_code=400)(scope, receive, send)
            else:
                await send({"type": "http.response.body"})


# For `launch`.
LIMITS = {
    "max_file_size": MAX_FILE,
    "state_session_capacity": MAX_VISITORS,
    "app_kwargs": {"middleware": [Middleware(Gate)]},
}
