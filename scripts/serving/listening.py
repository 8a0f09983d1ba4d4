# SPDX-License-Identifier: Apache-2.0
"""The address that a server listens on."""

import socket


def listen(host: str, port: int) -> socket.socket:
    """A socket, before anything is loaded; `ValueError` where the address is not to be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise ValueError(f"--host {host} --port {port} cannot be listened on ({error}): give others.") from error
    # Inherited by connections. Else the pieces of an answer would wait for one another, 40 ms each.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening
