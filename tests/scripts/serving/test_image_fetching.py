# SPDX-License-Identifier: Apache-2.0
"""Images from the web: only where that is allowed, and never from the server's own network or disk."""

import ipaddress
import socket

import pytest
from file_server import FileServer, Served
from tiny_parts import make_image

from modeling_langbridge.image_opening import ImageError
from serving.fetching import read_image


@pytest.fixture
def server(tmp_path):
    make_image().save(tmp_path / "photo.png")
    server = FileServer()
    server.files["/photo.png"] = Served((tmp_path / "photo.png").read_bytes())
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def public(monkeypatch):
    """Takes 127.0.0.1 for a public address, and `pictures.example` for its name."""

    class Address(ipaddress.IPv4Address):
        is_global = property(lambda self: str(self) == "127.0.0.1")

    look_up = socket.getaddrinfo
    named = {"pictures.example": "127.0.0.1", "inside.example": "10.1.2.3"}
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, *rest, **more: look_up(named.get(host, host), *rest, **more)
    )
    monkeypatch.setattr(ipaddress, "ip_address", Address)


def test_nothing_is_fetched_unless_allowed(server):
    with pytest.raises(ImageError, match="is not fetched: send it as a data: URL, or start .* --allow_web_images"):
        read_image(f"{server.url}/photo.png", allow_web_images=False)
    assert not server.requests


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "10.0.0.1", "192.168.1.1", "172.16.0.1",
        "169.254.169.254", "100.64.0.1", "[fd00::1]", "[fe80::1]", "2130706433", "0x7f.1", "127.1",
    ],
)  # fmt: skip
def test_private_addresses_are_refused_however_they_are_spelled(server, host):
    for url in (f"http://{host}:{server.server_port}/photo.png", f"HTTP://{host}:{server.server_port}/photo.png"):
        with pytest.raises(ImageError, match="has a private address|cannot be fetched"):
            read_image(url, allow_web_images=True)
    assert not server.requests


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://a/b.png", "/etc/hostname", "photo.png", "gopher://a", "//a/b"]
)
def test_files_and_other_schemes_are_refused(url):
    with pytest.raises(ImageError, match="is not opened: only data:, http: and https: URLs are"):
        read_image(url, allow_web_images=True)


def test_a_public_image_is_fetched(server, public):
    port = server.server_port
    content = server.files["/photo.png"].content
    assert read_image(f"http://pictures.example:{port}/photo.png", allow_web_images=True) == content


@pytest.mark.parametrize(
    "target", ["http://inside.example/photo.png", "http://10.0.0.1/photo.png", "file:///etc/hostname"]
)
def test_a_redirect_inside_is_not_followed(server, public, target):
    server.files["/away"] = Served(b"", always=(302, {"Location": target}))
    with pytest.raises(ImageError, match="has a private address|cannot be fetched"):
        read_image(f"http://pictures.example:{server.server_port}/away", allow_web_images=True)


def test_what_cannot_be_fetched_is_named(server, public):
    address = f"http://pictures.example:{server.server_port}"
    with pytest.raises(ImageError, match=r"gone\.png cannot be fetched: the server answers 404"):
        read_image(f"{address}/gone.png", allow_web_images=True)
    for url in (
        "http://",
        "http://[",
        "http://a b/",
        "http://gone.invalid/a.png",
        f"http://pictures.example:{2**17}/",
    ):
        with pytest.raises(ImageError, match="cannot be fetched"):
            read_image(url, allow_web_images=True)
