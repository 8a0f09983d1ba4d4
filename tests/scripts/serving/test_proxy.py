# SPDX-License-Identifier: Apache-2.0
"""`serve_eyes.py` before a text server: what passes, what is refused, and what is cancelled."""

import json
import re
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from chat_requests import ask, image_part, text_part
from huggingface_hub.utils import httpx

from serving import app
from serving.app import Limits


pytest_plugins = "serving_fixtures"
CHAT = "/v1/chat/completions"


def content_of(request: dict, message: int = 0):
    return json.loads(request["body"])["messages"][message]["content"]


def refusal(answer: httpx.Response, status: int, code: str) -> str:
    """The sentence of an error in OpenAI's form."""
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code), answer.text
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["type"] == ("invalid_request_error" if status < 500 else "server_error")
    return error["message"]


def wait_until(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_image_becomes_words_and_everything_else_stays(eyes, upstream):
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    fields = {"tools": tools, "response_format": {"type": "json_object"}, "unknown": {"a": [1, None, "é\ud800"]}}
    body = ask(text_part("before"), image_part(), text_part("after"), **fields)
    body["messages"][0]["name"] = "ann"
    answer = eyes.post(CHAT, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.json()["choices"][0]["message"]["content"] == "yes"
    sent = json.loads(upstream.received()[-1]["body"])
    first, words, last = sent["messages"][0].pop("content").split("\n")
    assert (first, last) == ("before", "after")
    assert words.startswith("[Image 1 shows, strongest first: ") and words.endswith("]")
    body["messages"][0].pop("content")
    assert sent == body


def test_images_of_all_turns_are_numbered_and_messages_without_any_stay(eyes, upstream):
    assistant = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function"}]}
    tool = {"role": "tool", "tool_call_id": "1", "content": [image_part("blue")]}
    plain = {"role": "user", "content": [text_part("and"), text_part("now?")]}
    body = ask(image_part("red"), image_part("blue"), text_part())
    body["messages"] += [assistant, tool, plain]
    assert eyes.post(CHAT, json=body).status_code == 200
    sent = upstream.received()[-1]
    red, blue, question = content_of(sent).split("\n")
    again = content_of(sent, 2)
    assert [line[:8] for line in (red, blue, again)] == ["[Image 1", "[Image 2", "[Image 3"]
    assert red[8:] != blue[8:] == again[8:] and question == "what is it?"
    assert [json.loads(sent["body"])["messages"][place] for place in (1, 3)] == [assistant, plain]


def test_a_request_without_images_arrives_byte_for_byte(eyes, upstream):
    body = b'{ "model" : "answers at once","messages":[{"role":"user","content":"\xc3\xa9 \\u00e9"}],"x":1e2}'
    headers = {"Authorization": "Bearer sk-secret", "X-Of-The-Client": "yes", "Content-Type": "application/json"}
    assert eyes.post(f"{CHAT}?a=b%2Fc", content=body, headers=headers).status_code == 200
    sent = upstream.received()[-1]
    assert (sent["body"].encode(), sent["query"]) == (body, "a=b%2Fc")
    arrived = dict(sent["headers"])
    assert (arrived["authorization"], arrived["x-of-the-client"]) == ("Bearer sk-secret", "yes")
    assert arrived["host"] == upstream.url.removeprefix("http://")


def test_parts_that_are_no_plain_text_keep_their_message_in_parts(eyes, upstream):
    cached = {**text_part("long"), "cache_control": {"type": "ephemeral"}}
    eyes.post(CHAT, json=ask(image_part(), cached))
    image, text = content_of(upstream.received()[-1])
    assert image["type"] == "text" and image["text"].startswith("[Image 1") and text == cached


def test_other_paths_pass_in_both_directions(eyes, upstream):
    answer = eyes.get("/v1/models/org%2Fname")
    assert answer.json()["data"] == [{"id": "tiny"}] and answer.headers["x-of-the-upstream"] == "yes"
    assert (upstream.received()[-1]["method"], upstream.received()[-1]["path"]) == ("GET", "/v1/models/org/name")
    assert eyes.request("PATCH", "/v1/files", content=b"\x00\xff").status_code == 200
    assert upstream.received()[-1]["method"] == "PATCH"


def test_one_users_cookies_do_not_travel_with_anothers_request(eyes, upstream):
    first, second = (httpx.get(eyes.base_url.join("/v1/models")) for _ in range(2))
    assert "session=secret" in first.headers["set-cookie"] and second.status_code == 200
    assert "cookie" not in dict(upstream.received()[-1]["headers"])


def test_a_stream_is_passed_on_as_it_comes(eyes):
    arrivals = []
    with eyes.stream("POST", CHAT, json=ask(image_part(), model="is slow", stream=True)) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            if line:
                arrivals.append((time.monotonic(), line))
    assert len(arrivals) == 4 and arrivals[-1][1] == "data: [DONE]"
    gaps = [later[0] - earlier[0] for earlier, later in zip(arrivals, arrivals[1:], strict=False)]
    assert min(gaps) > 0.2


def test_a_short_answer_does_not_wait_in_the_network(eyes):
    eyes.post(CHAT, json=ask())
    seconds = []
    for _ in range(20):
        start = time.perf_counter()
        eyes.post(CHAT, json=ask())
        seconds.append(time.perf_counter() - start)
    assert sorted(seconds)[5] < 0.035


def test_a_real_model_answers_as_it_does_when_asked_for_the_words(eyes, upstream):
    body = ask(image_part(), text_part(), model="tiny", max_tokens=5)
    through = eyes.post(CHAT, json=body).json()["choices"][0]["message"]["content"]
    asked = {**body, "messages": json.loads(upstream.received()[-1]["body"])["messages"]}
    assert (
        through
        and through == httpx.post(f"{upstream.url}{CHAT}", json=asked).json()["choices"][0]["message"]["content"]
    )
    with eyes.stream("POST", CHAT, json={**body, "stream": True}) as answer:
        events = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {")]
    assert "".join(each["choices"][0]["delta"]["content"] for each in events) == through


def test_the_upstreams_errors_arrive_as_they_are(eyes):
    answer = eyes.post(CHAT, json=ask(image_part(), model="refuses"))
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["error"]["code"] == "rate_limit_exceeded" and answer.json()["extra"] == 1


def test_a_stream_that_breaks_off_ends_with_an_error(eyes):
    with eyes.stream("POST", CHAT, json=ask(model="breaks off", stream=True)) as answer:
        first, last = (line for line in answer.iter_lines() if line)
    assert "half" in first
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "upstream_broke_off"


def test_an_answer_that_breaks_off_does_not_look_whole(eyes):
    with pytest.raises(httpx.RemoteProtocolError):
        eyes.post(CHAT, json=ask(model="breaks off"))


@pytest.mark.parametrize(("model", "what"), [("thinks", "wait"), ("talks", "stream")])
def test_a_client_that_goes_away_stops_the_upstream(eyes, upstream, model, what):
    before = upstream.stopped().count(what)
    with (
        pytest.raises(httpx.ReadTimeout),
        eyes.stream("POST", CHAT, json=ask(image_part(), model=model), timeout=0.5) as answer,
    ):
        for _ in answer.iter_raw():
            time.sleep(0.6)
            raise httpx.ReadTimeout("enough")
    wait_until(lambda: upstream.stopped().count(what) == before + 1)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ({"type": "image_url"}, r"messages\[0\]\.content\[1\] is of type image_url but has no image: give it"),
        ({"type": "image_url", "image_url": {}}, "has no image"),
        ({"type": "image_url", "image_url": {"url": " "}}, "has no image"),
        ({"type": "input_image", "file_id": "1"}, "is of type input_image but has no image"),
        ({"type": "image_url", "image_url": "data:image/png;base64,bm9uZQ=="}, "is of no format that can be decoded"),
        ({"type": "image_url", "image_url": "data:image/png;base64,x"}, "is no base64"),
        ({"type": "image_url", "image_url": "data:image/png,none"}, "is not in base64"),
        ({"type": "image_url", "image_url": "file:///etc/hostname"}, "only data: URLs in base64 are"),
        ({"type": "image_url", "image_url": "/etc/hostname"}, "only data: URLs in base64 are"),
        ({"type": "image_url", "image_url": "http://127.0.0.1/a.png"}, "start this server with --allow_web_images"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_an_image_that_is_none_is_refused_by_its_place(eyes, upstream, part, sentence):
    number = len(upstream.received())
    answer = eyes.post(CHAT, json=ask(text_part(), part))
    assert re.search(sentence, refusal(answer, 400, "invalid_image"))
    assert answer.json()["error"]["param"] == "messages[0].content[1]"
    assert len(upstream.received()) == number


def test_an_image_inside_is_not_fetched_even_where_the_web_is_allowed(serve_here, upstream):
    url = serve_here(upstream.url, limits=Limits(max_images=32, max_bytes=2**25, allow_web_images=True))
    number = len(upstream.received())
    for inside in (upstream.url, url, "http://169.254.169.254"):
        part = {"type": "image_url", "image_url": {"url": f"{inside}/v1/models"}}
        answer = httpx.post(f"{url}{CHAT}", json=ask(part), timeout=60)
        assert "has a private address" in refusal(answer, 400, "invalid_image")
    assert len(upstream.received()) == number


def test_what_is_no_chat_is_the_upstreams_to_refuse(eyes, upstream):
    for body in ([], {"messages": "none"}, {"messages": [1, {"content": [2, {"type": "image"}]}]}):
        eyes.post(CHAT, json=body)
        assert json.loads(upstream.received()[-1]["body"]) == body
    assert "is no JSON" in refusal(eyes.post(CHAT, content=b"{"), 400, "invalid_json")
    assert "is no JSON" in refusal(eyes.post(CHAT, content=b"[" * 10**5), 400, "invalid_json")


def test_paths_outside_the_api_are_not_passed_on(eyes, upstream):
    number = len(upstream.received())
    for path in ("/metrics", "/v1/%2e%2e/metrics"):
        assert "not served here" in refusal(eyes.get(path), 404, "not_found")
    assert len(upstream.received()) == number


def test_limits_are_named(serve_here, upstream):
    url = serve_here(
        upstream.url, limits=Limits(max_images=2, max_bytes=2**20, allow_web_images=False), max_pixels=10**6
    )
    with httpx.Client(base_url=url, timeout=60) as client:
        many = client.post(CHAT, json=ask(*[image_part()] * 3))
        assert "3 images, and may have 2" in refusal(many, 400, "too_many_images")
        large = client.post(CHAT, content=b" " * (2**20 + 1))
        assert "1,048,577 bytes, and may have 1,048,576" in refusal(large, 413, "request_too_large")
        wide = client.post(CHAT, json=ask(image_part(size=(1001, 1000))))
        assert "1001 x 1000 pixels, and may have 1,000,000" in refusal(wide, 400, "invalid_image")
        assert client.post(CHAT, json=ask(image_part(size=(1000, 1000)), image_part())).status_code == 200


def test_a_body_that_does_not_come_is_not_waited_for_for_ever(serve_here, upstream, monkeypatch):
    monkeypatch.setattr(app, "SECONDS_TO_SEND", 0.2)
    url = httpx.URL(serve_here(upstream.url))
    with socket.create_connection((url.host, url.port), timeout=10) as client:
        client.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{")
        assert client.recv(1000).startswith(b"HTTP/1.1 408 ")


def test_more_requests_than_the_server_answers_at_once_are_refused(serve_here, upstream, monkeypatch):
    monkeypatch.setattr(app, "MAX_REQUESTS", 1)
    url = serve_here(upstream.url)
    with httpx.stream("POST", f"{url}{CHAT}", json=ask(model="is slow")) as first:
        assert first.status_code == 200
        # Streams are no burden: the next one may come.
        assert httpx.post(f"{url}{CHAT}", json=ask()).status_code == 200
    with ThreadPoolExecutor() as clients:
        waiting = clients.submit(httpx.post, f"{url}{CHAT}", json=ask(model="thinks"), timeout=2)
        time.sleep(0.5)
        assert "ask later" in refusal(httpx.post(f"{url}{CHAT}", json=ask()), 503, "overloaded")
        assert isinstance(waiting.exception(), httpx.ReadTimeout)
    assert httpx.post(f"{url}{CHAT}", json=ask()).status_code == 200


def test_the_template_is_the_users(serve_here, upstream):
    url = serve_here(upstream.url, num_words=3, sure=1, template="<seen {number}>{words}</seen> {0}")
    httpx.post(f"{url}{CHAT}", json=ask(image_part()), timeout=60)
    content = content_of(upstream.received()[-1])
    assert content.startswith("<seen 1>") and content.endswith("</seen> {0}")
    assert content.count("maybe ") == 3


def test_an_upstream_that_is_down_or_silent_is_named(serve_here, upstream, eyes):
    assert eyes.get("/health").json()["status"] == "ok"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = serve_here(f"http://user:password@127.0.0.1:{taken.getsockname()[1]}")
        for answer in (httpx.post(f"{url}{CHAT}", json=ask(image_part())), httpx.get(f"{url}/health")):
            sentence = refusal(answer, 502, "upstream_unreachable")
            assert "127.0.0.1" in sentence and "password" not in sentence
    url, before = serve_here(upstream.url, timeout=1), upstream.stopped().count("wait")
    silent = httpx.post(f"{url}{CHAT}", json=ask(model="thinks"), timeout=60)
    assert "was silent for 1 seconds" in refusal(silent, 504, "upstream_timeout")
    wait_until(lambda: upstream.stopped().count("wait") == before + 1)


def test_nothing_of_a_request_is_logged_and_the_server_ends_when_told(serve, upstream):
    url, log, server = serve(upstream.url)
    headers = {"Authorization": "Bearer sk-secret"}
    httpx.post(f"{url}{CHAT}?key=sk-secret", json=ask(image_part(), model="refuses"), headers=headers, timeout=60)
    httpx.post(f"{url}{CHAT}?key=sk-secret", json=ask({"type": "image_url"}), headers=headers)
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"{url}{CHAT}?key=sk-secret", json=ask(model="breaks off"), headers=headers)
    server.send_signal(signal.SIGTERM)
    assert server.wait(20) == 143
    written = log.read_text()
    assert "sk-secret" not in written and "Traceback" not in written, written


def test_it_listens_to_this_machine_alone(eyes):
    port = eyes.base_url.port
    own = socket.gethostbyname(socket.gethostname())
    if own.startswith("127."):
        own = "127.0.0.2"
    with pytest.raises(OSError):
        socket.create_connection((own, port), timeout=2)
