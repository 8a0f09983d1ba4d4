# SPDX-License-Identifier: Apache-2.0
"""A server of files on this machine that fails as asked: breaks off, refuses, ignores ranges, sends something else."""

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """
    A file. `answers` are the failures of the next requests, in order; after them the file is sent as it should be.

    Such a failure is a number of bytes after which the connection is closed, or a status with its headers, or a
    function that is called when half of the file is sent, before the connection is closed.
    """

    content: bytes
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"1"'})
    ranges: bool = True
    chunked: bool = False  # without a Content-Length
    longest: int | None = None  # as many bytes of a range are sent at once
    answers: list[int | Callable[[], None] | tuple[int, dict[str, str]]] = field(default_factory=list)
    always: int | tuple[int, dict[str, str]] | None = None  # a failure of all further requests


class FileServer(ThreadingHTTPServer):
    """`files` by their paths; `requests` lists path, `Range` and `If-Range` of every request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, Served] = {}
        self.requests: list[tuple[str, str | None, str | None]] = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address) -> None:
        pass  # a client that goes away in the middle


class Handler(BaseHTTPRequestHandler):
    server: FileServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        wanted, condition = self.headers.get("Range"), self.headers.get("If-Range")
        self.server.requests.append((self.path, wanted, condition))
        served = self.server.files.get(self.path)
        if served is None:
            return self.answer(404, {}, b"nothing here")
        failure = served.answers.pop(0) if served.answers else served.always
        if isinstance(failure, tuple):
            return self.answer(*failure, b"refused")
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and served.ranges else 0
        if condition not in (None, served.headers.get("ETag"), served.headers.get("Last-Modified")):
            start = 0
        size = len(served.content)
        end = min(size, start + served.longest) if start and served.longest else size
        if start >= size > 0:
            return self.answer(416, {"Content-Range": f"bytes */{size}"}, b"")
        headers = {"Content-Range": f"bytes {start}-{end - 1}/{size}"} if start else {}
        headers = {"Content-Type": "application/octet-stream", **headers, **served.headers}
        if served.chunked and not start:
            return self.answer_in_chunks(headers, served.content, failure)
        self.answer(206 if start else 200, headers, served.content[start:end], failure)

    def answer(self, status: int, headers: dict[str, str], body: bytes, failure: int | Callable | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if callable(failure):
            self.wfile.write(body[: len(body) // 2])
            failure()
            self.close_connection = True
        elif failure is not None:
            self.wfile.write(body[:failure])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def answer_in_chunks(self, headers: dict[str, str], body: bytes, failure: int | None) -> None:
        self.send_response(200)
        for name, value in {"Transfer-Encoding": "chunked", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        body = body[:failure]
        self.wfile.write(b"%x\r\n%b\r\n" % (len(body), body))
        if failure is None:
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.close_connection = True

    def log_message(self, *arguments) -> None:
        pass
