"""No network, for the tests that must do without."""

from __future__ import annotations

import socket

import pytest


def refuse_connections(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Any attempt to connect fails, and is recorded in what is returned."""
    attempts: list[object] = []

    def refuse(*address: object, **options: object) -> None:
        attempts.append(address)
        raise OSError(f"a connection to {address} was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts
