# SPDX-License-Identifier: Apache-2.0
"""Images in chat messages are found in order, and replaced without a trace in what was given."""

import copy

import pytest
from chat_requests import ask, image_part, text_part

from serving.errors import RequestError
from serving.messages import find_images, replace_images


def test_images_are_found_in_the_order_of_the_chat():
    body = ask(text_part(), {"type": "image_url", "image_url": {"url": "data:a", "detail": "low"}})
    body["messages"].append({"role": "user", "content": [{"type": "input_image", "image_url": "data:b"}, text_part()]})
    assert [(image.field, image.url) for image in find_images(body)] == [
        ("messages[0].content[1]", "data:a"),
        ("messages[1].content[0]", "data:b"),
    ]


@pytest.mark.parametrize(
    "body", [None, 1, [], {}, {"messages": {}}, {"messages": [None, {"content": "x"}, {"content": ["image_url", 1]}]}]
)
def test_there_are_none_in_what_is_no_chat(body):
    assert find_images(body) == []


@pytest.mark.parametrize("image_url", [None, "", {}, {"url": None}, {"url": 1}, [], {"url": "\n"}])
def test_a_part_without_its_image_is_refused_by_name(image_url):
    with pytest.raises(RequestError, match=r"^messages\[0\]\.content\[1\] is of type image_url but has no image"):
        find_images(ask(text_part(), {"type": "image_url", "image_url": image_url}))


def test_what_is_given_stays_as_it_is():
    body = ask(image_part(), text_part(), seed=1)
    before = copy.deepcopy(body)
    replaced = replace_images(body, find_images(body), ["words"])
    assert body == before
    assert replaced == {**before, "messages": [{"role": "user", "content": "words\nwhat is it?"}]}


def test_a_message_with_more_than_texts_keeps_its_parts():
    audio = {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}
    body = ask(image_part(), audio, "bare")
    (message,) = replace_images(body, find_images(body), ["words"])["messages"]
    assert message["content"] == [{"type": "text", "text": "words"}, audio, "bare"]
