# SPDX-License-Identifier: Apache-2.0
"""The server: OpenAI's chat API, where images become words, and everything else goes to the upstream as it is."""

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from huggingface_hub.utils import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from modeling_langbridge.image_opening import ImageError

from .errors import RequestError
from .fetching import read_image
from .messages import ImagePart, find_images, replace_images
from .seeing import Eyes
from .upstream import Upstream
from .wording import fill_template


METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD"]
MAX_REQUESTS = 500  # at once; the next are refused
MAX_BODIES = 8  # large ones held in memory at once; the next wait unread
SMALL = 2**20  # bytes of a body that many requests may hold
SECONDS_TO_SEND = 120  # for a body
SECONDS_OF_HEALTH = 5  # for the upstream to answer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """
    What a request may ask for.

    Args:
        max_images (`int`): Images in a request.
        max_bytes (`int`): Bytes of its body.
        allow_web_images (`bool`): Whether images are fetched from `http(s)` URLs.
    """

    max_images: int
    max_bytes: int
    allow_web_images: bool


class Proxy:
    """
    Passes requests on, with words in place of images.

    Args:
        eyes ([`Eyes`]): Reads the images.
        upstream ([`Upstream`]): Answers the requests.
        template (`str`): What stands for an image, see [`~serving.wording.fill_template`].
        limits ([`Limits`]): What a request may ask for.
    """

    def __init__(self, eyes: Eyes, upstream: Upstream, template: str, limits: Limits):
        self.eyes, self.upstream, self.template, self.limits = eyes, upstream, template, limits
        self.bodies = anyio.CapacityLimiter(MAX_BODIES)
        self.fetches = anyio.CapacityLimiter(MAX_BODIES)
        self.open_requests = 0

    async def chat(self, request: Request) -> Response:
        return await self.answer(request, self.put_into_words)

    async def pass_on(self, request: Request) -> Response:
        if ".." in request.path_params["path"].split("/"):
            raise HTTPException(404)
        return await self.answer(request, self.leave)

    async def answer(self, request: Request, prepare: Callable[[bytes], Awaitable[bytes]]) -> Response:
        """Reads a request's body, prepares it, and passes it on; all of it ends when the client goes away."""
        if self.open_requests >= MAX_REQUESTS:
            raise RequestError(503, f"This server has {MAX_REQUESTS:,} requests to answer: ask later.", "overloaded")
        self.open_requests += 1
        try:
            # Images are nearly all of a request: few bodies with them are in memory at a time.
            async with self.bodies:
                content = await self.read_content(request, prepare)
                if len(content) > SMALL:
                    return await while_connected(request, lambda: self.upstream.ask(request, content))
            return await while_connected(request, lambda: self.upstream.ask(request, content))
        finally:
            self.open_requests -= 1

    async def read_content(self, request: Request, prepare: Callable[[bytes], Awaitable[bytes]]) -> bytes:
        body = await read_body(request, self.limits.max_bytes)
        return await while_connected(request, lambda: prepare(body))

    async def leave(self, body: bytes) -> bytes:
        return body

    async def put_into_words(self, body: bytes) -> bytes:
        """The body of a chat request with words in place of its images; one without images stays as it is."""
        try:
            content = json.loads(body)
        except (ValueError, RecursionError) as error:
            raise RequestError(400, f"The request's body is no JSON: {error}.", "invalid_json") from error
        images = find_images(content)
        if not images:
            return body
        if len(images) > self.limits.max_images:
            raise RequestError(
                400,
                f"The request has {len(images)} images, and may have {self.limits.max_images}: leave out old ones, or "
                "raise this server's --max_images.",
                "too_many_images",
                "messages",
            )
        texts = [
            fill_template(self.template, number, await self.read(image)) for number, image in enumerate(images, 1)
        ]
        return json.dumps(replace_images(content, images, texts)).encode()

    async def read(self, image: ImagePart) -> str:
        """The words of an image."""
        try:
            content = await anyio.to_thread.run_sync(
                read_image, image.url, self.limits.allow_web_images, limiter=self.fetches
            )
            return await self.eyes.read(content)
        except ImageError as error:
            raise RequestError(400, str(error), "invalid_image", image.field) from error

    async def health(self, request: Request) -> Response:
        """Whether the upstream answers, whatever it answers."""
        with anyio.move_on_after(SECONDS_OF_HEALTH):
            try:
                await self.upstream.client.get(f"{self.upstream.url}/models")
                return JSONResponse({"status": "ok", "upstream": self.upstream.name})
            except httpx.TransportError as error:
                raise self.upstream.explain(error) from error
        raise RequestError(
            503, f"The upstream {self.upstream.name} was silent for {SECONDS_OF_HEALTH} seconds.", "upstream_timeout"
        )


async def read_body(request: Request, max_bytes: int) -> bytes:
    """The body of a request. One that is too large is read to its end, so that the client hears the refusal."""
    body, seen = bytearray(), 0
    with anyio.move_on_after(SECONDS_TO_SEND) as waiting:
        async for piece in request.stream():
            seen += len(piece)
            if seen <= max_bytes:
                body += piece
            else:
                body.clear()
    if waiting.cancelled_caught:
        raise RequestError(
            408, f"The request was not sent within {SECONDS_TO_SEND} seconds: send less.", "slow_request"
        )
    if seen > max_bytes:
        raise RequestError(
            413,
            f"The request has {seen:,} bytes, and may have {max_bytes:,}: send smaller images, or raise this server's "
            "--max_megabytes.",
            "request_too_large",
        )
    return bytes(body)


async def while_connected(request: Request, work: Callable[[], Awaitable[Any]]) -> Any:
    """
    What `work` gives, which is cancelled when the client goes away. The request's body must have been read.

    Raises:
        `ClientDisconnect`: the client is gone.
    """
    result = gone = None

    async def watch() -> None:
        nonlocal gone
        while (await request.receive())["type"] != "http.disconnect":
            pass
        gone = ClientDisconnect()
        group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            result = await work()
            group.cancel_scope.cancel()
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors.exceptions[0].__cause__
    if result is None:
        raise gone
    return result


async def refuse(request: Request, error: Exception) -> Response:
    """An error as OpenAI's API has them; one of our own making is logged, without the request."""
    if isinstance(error, RequestError):
        return error.to_response()
    if isinstance(error, ClientDisconnect):
        return Response(status_code=499)  # nobody reads it
    if isinstance(error, HTTPException):
        message = f"{request.method} {request.url.path} is not served here: the API is below /v1."
        return RequestError(error.status_code, message, "not_found").to_response()
    return RequestError(500, "This server failed at the request: its log says why.", "internal_error").to_response()


def build_app(proxy: Proxy) -> Starlette:
    """The server as an ASGI application."""

    @asynccontextmanager
    async def close_upstream(app: Starlette) -> AsyncIterator[None]:
        async with proxy.upstream.client:
            yield

    return Starlette(
        routes=[
            Route("/health", proxy.health),
            Route("/v1/chat/completions", proxy.chat, methods=["POST"]),
            Route("/v1/{path:path}", proxy.pass_on, methods=METHODS),
        ],
        exception_handlers=dict.fromkeys((RequestError, ClientDisconnect, HTTPException, Exception), refuse),
        lifespan=close_upstream,
    )
