# SPDX-License-Identifier: Apache-2.0
"""A hundred clients at once, each with a large image of its own: all are answered, in bounded memory."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from chat_requests import ask, data_url
from huggingface_hub.utils import httpx
from PIL import Image


pytest_plugins = "serving_fixtures"
CLIENTS = 100


def memory(process: int, field: str) -> int:
    """The memory of a process in bytes, now (`VmRSS`) or at most (`VmHWM`)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def test_a_hundred_clients_are_answered_in_bounded_memory(serve, upstream):
    url, _, server = serve(upstream.url)
    side = 350
    images = [data_url(Image.frombytes("RGB", (side, side), os.urandom(3 * side**2)), "BMP") for _ in range(CLIENTS)]
    bodies = [
        ask({"type": "image_url", "image_url": {"url": image}}, model="is slow", stream=True) for image in images
    ]
    size = sum(map(len, images))
    assert size > 4e7
    asked = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=url, timeout=120, limits=asked) as client, ThreadPoolExecutor(CLIENTS) as threads:

        def send(body: dict) -> str:
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                assert answer.status_code == 200
                return answer.read().decode()

        send(bodies[0])
        before, start = memory(server.pid, "VmRSS"), time.monotonic()
        waiting = [threads.submit(send, body) for body in bodies]
        during = client.get("/v1/models")
        answers = [each.result() for each in waiting]
    assert all(answer.endswith("data: [DONE]\n\n") for answer in answers) and during.status_code == 200
    assert time.monotonic() - start < 60
    assert memory(server.pid, "VmHWM") - before < size
