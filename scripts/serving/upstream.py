# SPDX-License-Identifier: Apache-2.0
"""The text server that requests are passed on to, and the way back of its answers, piece by piece as they come."""

import json
import logging
from collections.abc import AsyncIterator
from http.cookiejar import CookieJar, DefaultCookiePolicy

import anyio
from huggingface_hub.utils import httpx
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .errors import RequestError


SECONDS_TO_CONNECT = 10
EVENTS = "text/event-stream"
# RFC 9110, section 7.6.1: they belong to one connection. The body's length changes with it.
OF_THE_CONNECTION = frozenset(
    "connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer transfer-encoding "
    "upgrade".split()
)
OF_THE_REQUEST = OF_THE_CONNECTION | {"host", "content-length", "expect"}

logger = logging.getLogger(__name__)


class BrokenOff(Exception):
    """The upstream broke off in the middle of an answer that has no way to say so."""


class Upstream:
    """
    A server that speaks OpenAI's API.

    Args:
        url (`str`): Where its API is, such as `http://localhost:8000/v1`.
        timeout (`float`): For how many seconds it may be silent.
    """

    def __init__(self, url: str, timeout: float):
        self.url, self.timeout = httpx.URL(url.rstrip("/")), timeout
        self.client = httpx.AsyncClient(
            timeout=httpx.Timeout(timeout, connect=min(timeout, SECONDS_TO_CONNECT), pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
            # One user's cookies are not sent with another's request.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
        )

    @property
    def name(self) -> str:
        """Where it is, without a user and password."""
        return f"{self.url.scheme}://{self.url.netloc.decode('ascii')}{self.url.path}"

    async def ask(self, request: Request, content: bytes) -> "Answer":
        """
        Passes a request on.

        Args:
            request (`Request`): Its method, path below `/v1`, query and headers are kept, the key among them.
            content (`bytes`): Its body.

        Raises:
            [`RequestError`]: the upstream is down or silent.
        """
        path = self.url.raw_path + request.scope["raw_path"].removeprefix(b"/v1")
        query = request.scope["query_string"]
        url = self.url.copy_with(raw_path=b"?".join([path, query]) if query else path)
        headers = keep_headers(request.headers.raw, OF_THE_REQUEST)
        if "accept-encoding" not in request.headers:
            headers.append((b"accept-encoding", b"identity"))  # else httpx asks for what the client may not read
        sent = self.client.build_request(request.method, url, headers=headers, content=content)
        try:
            return Answer(await self.client.send(sent, stream=True), self)
        except httpx.TransportError as error:
            raise self.explain(error) from error

    def explain(self, error: Exception) -> RequestError:
        """What an error of the connection means to a client."""
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
            return RequestError(
                502,
                f"The upstream {self.name} cannot be reached: start it, or give this server another --upstream.",
                "upstream_unreachable",
            )
        if isinstance(error, httpx.TimeoutException):
            return RequestError(
                504,
                f"The upstream {self.name} was silent for {self.timeout:g} seconds: ask for less, or raise this "
                "server's --timeout.",
                "upstream_timeout",
            )
        return RequestError(
            502, f"The upstream {self.name} broke off ({type(error).__name__}): ask again.", "upstream_broke_off"
        )


def keep_headers(headers: list[tuple[bytes, bytes]], dropped: frozenset[str]) -> list[tuple[bytes, bytes]]:
    """Headers without those of the connection, which its own header `Connection` may name more of."""
    named = b",".join(value for name, value in headers if name.lower() == b"connection").decode("latin-1")
    dropped = dropped | {name.strip().lower() for name in named.split(",")}
    return [(name, value) for name, value in headers if name.decode("latin-1").lower() not in dropped]


class Answer(StreamingResponse):
    """An answer of the upstream: status, headers and bytes as they are, each piece sent on when it comes."""

    def __init__(self, answer: httpx.Response, upstream: Upstream):
        super().__init__(self.pieces(), answer.status_code)
        self.answer, self.upstream = answer, upstream
        self.raw_headers = keep_headers(answer.headers.raw, OF_THE_CONNECTION)

    async def pieces(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self.answer.aiter_raw():
                yield piece
        except httpx.TransportError as error:
            explained = self.upstream.explain(error)
            if not self.answer.headers.get("content-type", "").startswith(EVENTS):
                raise BrokenOff(explained.message) from error
            yield f"data: {json.dumps(explained.to_dict())}\n\n".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except BrokenOff as error:
            logger.warning("%s", error)  # the server then closes the connection, which tells the client
        finally:
            # Also where the client is gone, so that the upstream stops.
            with anyio.CancelScope(shield=True):
                await self.answer.aclose()
