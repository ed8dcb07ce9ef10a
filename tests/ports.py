"""Ports that are kept for a test's server, also before it listens and after it went away."""

from __future__ import annotations

import socket


def hold_port(number: int = 0) -> socket.socket:
    """A socket that keeps a port of 127.0.0.1 from being given to whoever asks for any one.

    It does not listen, so connections are refused until a server, which may bind the same port, does.

    Args:
        number: of the port; 0 for any one.
    """
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind(("127.0.0.1", number))
    return held


def number_of(held: socket.socket) -> int:
    return int(held.getsockname()[1])
