# SPDX-License-Identifier: Apache-2.0
"""
A small text server of OpenAI's chat API, as a process of its own: `python text_server.py FOLDER` prints its address.

It answers with the language model of the folder. The names of other models make it misbehave, see `answer`. It takes
content parts of type `prompt_embeds` as vLLM documents them. `/received` tells what it was sent, `/stopped` how many
answers nobody waited for.
"""

import asyncio
import base64
import io
import json
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from threading import Thread

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer


EMBEDDED = "<|embedded|>"  # in a rendered prompt, stands for a part of embeddings
received: list[dict] = []
stopped: list[str] = []


class TextModel:
    """A language model that reads chats, with embeddings in place of some texts."""

    def __init__(self, folder: str):
        self.model = AutoModelForCausalLM.from_pretrained(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.mark = len(self.tokenizer)
        self.tokenizer.add_special_tokens({"additional_special_tokens": [EMBEDDED]})

    def embed(self, messages: list[dict]) -> torch.Tensor:
        """The embeddings of a prompt, `(1, tokens, d)`."""
        embedded, plain = [], []
        for message in messages:
            content = message["content"]
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            texts = []
            for part in parts:
                if part["type"] == "prompt_embeds":
                    data = io.BytesIO(base64.b64decode(part["data"]))
                    embedded.append(torch.load(data, weights_only=True))
                texts.append(EMBEDDED if part["type"] == "prompt_embeds" else part["text"])
            plain.append({**message, "content": "\n".join(texts)})
        prompt = self.tokenizer.apply_chat_template(plain, add_generation_prompt=True, tokenize=False)
        ids = self.tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids[0]
        pieces, look_up = [], self.model.get_input_embeddings()
        for piece in ids.tensor_split((ids == self.mark).nonzero()[:, 0].tolist()):
            if len(piece) and piece[0] == self.mark:
                pieces.append(embedded.pop(0).to(self.model.dtype))
                piece = piece[1:]
            pieces.append(look_up(piece))
        return torch.cat(pieces)[None]

    def write(self, messages: list[dict], max_tokens: int) -> Iterator[str]:
        streamer = TextIteratorStreamer(self.tokenizer)
        options = {"max_new_tokens": max_tokens, "min_new_tokens": max_tokens, "do_sample": False}
        prompt = self.embed(messages)
        Thread(target=self.model.generate, kwargs={"inputs_embeds": prompt, "streamer": streamer, **options}).start()
        yield from streamer


def event(content: dict) -> str:
    return f"data: {json.dumps(content)}\n\n"


def chunk(text: str) -> str:
    choice = {"index": 0, "delta": {"role": "assistant", "content": text}, "finish_reason": None}
    return event({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": [choice]})


def whole(text: str) -> dict:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "tiny", "choices": [choice], "usage": usage}


async def slowly() -> AsyncIterator[str]:
    for word in ("one", "two", "three"):
        yield chunk(word)
        await asyncio.sleep(0.4)
    yield "data: [DONE]\n\n"


async def without_end() -> AsyncIterator[str]:
    try:
        while True:
            yield chunk("more")
            await asyncio.sleep(0.05)
    finally:
        stopped.append("stream")


async def breaking_off(text: str) -> AsyncIterator[str]:
    yield text
    await asyncio.sleep(0.2)
    raise ConnectionResetError


async def never(request: Request) -> Response:
    while not await request.is_disconnected():
        await asyncio.sleep(0.05)
    stopped.append("wait")
    return Response()


async def answer(request: Request) -> Response:
    body = await request.body()
    received.append(
        {
            "method": request.method,
            "path": request.url.path,
            "query": request.url.query,
            "headers": request.headers.items(),
            "body": body.decode(errors="replace"),
        }
    )
    asked = json.loads(body) if body[:1] == b"{" else {}
    model, streams = asked.get("model"), asked.get("stream")
    if request.url.path != "/v1/chat/completions":
        headers = {"set-cookie": "session=secret", "x-of-the-upstream": "yes"}
        return JSONResponse({"object": "list", "data": [{"id": "tiny"}]}, headers=headers)
    if model == "refuses":
        error = {"message": "Too much.", "type": "rate_limit", "param": None, "code": "rate_limit_exceeded"}
        return JSONResponse({"error": error, "extra": 1}, 429, {"retry-after": "7"})
    if model == "thinks":
        return await never(request)
    if model == "talks":
        return StreamingResponse(without_end(), media_type="text/event-stream")
    if model == "is slow":
        return StreamingResponse(slowly(), media_type="text/event-stream")
    if model == "breaks off":
        if streams:
            return StreamingResponse(breaking_off(chunk("half")), media_type="text/event-stream")
        return StreamingResponse(breaking_off('{"half":'), media_type="application/json")
    if model == "answers at once":
        return JSONResponse(whole("yes"))
    pieces = request.app.state.model.write(asked["messages"], asked.get("max_tokens", 6))
    if streams:
        events = (*map(chunk, pieces), "data: [DONE]\n\n")
        return StreamingResponse(iter(events), media_type="text/event-stream")
    return JSONResponse(whole("".join(pieces)))


async def logits(request: Request) -> Response:
    """The logits of every word after a chat, `(vocabulary,)`."""
    model = request.app.state.model
    with torch.no_grad():
        output = model.model(inputs_embeds=model.embed((await request.json())["messages"]))
    return JSONResponse(output.logits[0, -1].tolist())


def main() -> None:
    app = Starlette(
        routes=[
            Route("/received", lambda request: JSONResponse(received)),
            Route("/stopped", lambda request: JSONResponse(stopped)),
            Route("/logits", logits, methods=["POST"]),
            Route("/{path:path}", answer, methods=["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]),
        ]
    )
    app.state.model = TextModel(sys.argv[1])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sys.stdout.write(f"http://127.0.0.1:{listening.getsockname()[1]}\n")
        sys.stdout.flush()
        uvicorn.Server(uvicorn.Config(app, log_level="critical")).run(sockets=[listening])


if __name__ == "__main__":
    main()
