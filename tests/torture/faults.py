"""Commands whose writes are cut: by a library that is loaded before all others, at any call that changes a file.

In: a command and its folder; the call to cut, and how. Out: its exit code, what it said, and every call that it made.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).parent
GO = -1
DATA = frozenset({"write", "pwrite", "writev"})
GROWS = DATA | {"create", "mkdir", "rename", "link", "symlink", "ftruncate"}
RECORDED = "recorded"
RETRIED = DATA | {"create", "truncate", "fsync", "ftruncate"}
"""The calls that a signal may interrupt."""


@dataclass(frozen=True)
class Fault:
    """What goes wrong at one call. what: as faults.c numbers it. calls: those that it may hit; None for all."""

    name: str
    what: int
    error: int = 0
    calls: frozenset[str] | None = None

    @property
    def kills(self) -> bool:
        return self.what >= 4

    @property
    def lasts(self) -> bool:
        """Whether later calls fail, too."""
        return self.what == 2

    @property
    def harmless(self) -> bool:
        """Whether a program that follows the manuals notices nothing."""
        return self.what == 3 or self.error == errno.EINTR


FAULTS = (
    Fault("EIO", 1, errno.EIO),
    Fault("ENOSPC, and no room from then on", 2, errno.ENOSPC, GROWS),
    Fault("EINTR", 1, errno.EINTR, RETRIED),
    Fault("short write", 3, 0, DATA),
    Fault("SIGKILL before", 4),
    Fault("SIGKILL within", 5, 0, DATA),
)


@dataclass(frozen=True)
class Call:
    """A call that changes a file. other: the second name, of a rename or link. at: where data goes, or a length."""

    name: str
    path: str
    other: str
    at: int
    data: bytes

    @property
    def rows(self) -> list[int]:
        """The rows that the ledger says it has recorded."""
        return [int(row) for row in self.path.split(",") if row] if self.name == RECORDED else []


@dataclass(frozen=True)
class Run:
    """How a command ended. record: its calls, and after some of them what it knew to be recorded."""

    code: int
    record: list[Call]
    errors: str

    @property
    def calls(self) -> list[Call]:
        return [call for call in self.record if call.name != RECORDED]

    @property
    def recorded(self) -> list[int]:
        return [row for call in self.record for row in call.rows]


@dataclass
class Forks:
    """The process that is forked for each run."""

    process: subprocess.Popen[str]
    scratch: Path

    def run(
        self,
        folder: Path,
        command: str,
        *arguments: str,
        fault: Fault | None = None,
        at: int = GO,
        stdin: str | None = None,
        stdout: str | None = None,
        here: bool = False,
    ) -> Run:
        """Run a command in its folder. stdin, stdout: names of files in it. here: without a fork, to warm it up."""
        files = {name: self.scratch / name for name in ("record", "errors")}
        request = {
            "command": command,
            "arguments": arguments,
            "folder": str(folder),
            "here": here,
            "at": at,
            "what": 0 if fault is None else fault.what,
            "error": 0 if fault is None else fault.error,
            "input": os.devnull if stdin is None else str(folder / stdin),
            "output": str(self.scratch / "output" if stdout is None else folder / stdout),
            **{name: str(path) for name, path in files.items()},
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        code = json.loads(self.process.stdout.readline())
        return Run(code, list(calls_of(files["record"].read_bytes())), files["errors"].read_text())


def calls_of(record: bytes) -> Iterator[Call]:
    while record:
        line, _, record = record.partition(b"\n")
        name, path, other, at, size = line.decode().split("\t")
        data, record = record[: int(size)], record[int(size) :]
        yield Call(name, path.removesuffix(" (deleted)"), other, int(at), data)


@contextmanager
def forks(scratch: Path, *parts: str, **environment: str) -> Iterator[Forks]:
    """The process to fork. parts: "export" where it is to know the exporter."""
    shim = scratch / "faults.so"
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs Linux and a C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", shim, HERE / "faults.c", "-ldl"], check=True)
    command = [sys.executable, str(HERE / "faulty.py"), *parts]
    own = {**os.environ, "LD_PRELOAD": str(shim), "TMPDIR": str(scratch), **environment}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=own) as process:
        yield Forks(process, scratch)
        assert process.stdin is not None
        process.stdin.close()
        process.wait(60)
