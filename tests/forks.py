"""Run the same tests many times, each time in a fork of a process that has loaded the libraries: seconds less a run.

    python tests/forks.py serve SOCKET ARGUMENT ...  # pytest's arguments
    python tests/forks.py ask SOCKET                 # runs them once; the exit code is pytest's

The package and its tests are loaded anew in every run. Tests that export checkpoints are left out.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
from typing import NoReturn

LIBRARIES = ("pytest", "hypothesis.extra.numpy", "huggingface_hub", "msgspec", "numpy", "onnxruntime", "tokenizers")
EXPORTERS = ("onnx_ir", "torch", "transformers.models.qwen2.modeling_qwen2")
EXPORTING = {"exported", "checkpoint"}
"""Fixtures that take seconds."""
QUIET = ("--assert=plain", "-p", "no:cacheprovider")
"""Asserts are left as they are compiled: nobody looks at what failed."""


class Quick:
    """A plugin of pytest."""

    @staticmethod
    def pytest_collection_modifyitems(items: list) -> None:  # type: ignore[type-arg]
        items[:] = [item for item in items if not EXPORTING & set(item.fixturenames)]


def serve(path: str, arguments: list[str]) -> None:
    sys.path.pop(0)  # this file's folder: modules of tests are found by pytest
    for library in (*LIBRARIES, *(EXPORTERS if any("export" in argument for argument in arguments) else ())):
        __import__(library)
    gc.collect()
    gc.freeze()  # what is loaded stays, and no fork looks through it
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        while True:
            client, _ = server.accept()
            child = os.fork()
            if not child:
                run(arguments)
            with client:
                code = wait(child, client)
                client.sendall(bytes([code]))


def run(arguments: list[str]) -> NoReturn:
    import pytest

    code = 1
    try:
        code = pytest.main([*arguments, *QUIET], plugins=[Quick()])
    finally:
        os._exit(code)


def wait(child: int, client: socket.socket) -> int:
    """The child's exit code. It is ended when the client is gone: it has waited long enough."""
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if select.select([client], [], [], 0.01)[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return 1
    return os.waitstatus_to_exitcode(ended[1]) & 255


def ask(path: str) -> int:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        return client.recv(1)[0]


if __name__ == "__main__":
    if sys.argv[1] == "ask":
        sys.exit(ask(sys.argv[2]))
    serve(sys.argv[2], sys.argv[3:])
