"""A server's process: it loads a PRM and uses it in threads, forks workers, and ends or kills them, as gunicorn does.

    python preload.py WORKERS SEED

Out: one JSON object: what came of the workers, how often, and what was not as it should be.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import numpy as np

from coins import BAD, GOOD, PROBLEM, all_of
from rfprm_lite import PRM

PATIENCE = 120
"""Seconds after which a worker hangs."""
SIDE_BY_SIDE = 3
CALLS: tuple[Callable[[PRM], object], ...] = (
    lambda prm: prm.score(PROBLEM, steps=GOOD).step_rewards.tolist(),
    lambda prm: [float(one) for one in asyncio.run(prm.aio.score(PROBLEM, steps=GOOD)).step_rewards],
    lambda prm: prm.score_many([(PROBLEM, all_of([GOOD])[0])], on_error="return")[0].step_rewards.tolist(),
    lambda prm: [prm.live(PROBLEM).append(GOOD[0]), *prm.score(PROBLEM, steps=GOOD).step_rewards.tolist()[1:]],
    lambda prm: prm.best_of_n(PROBLEM, all_of([BAD, GOOD])).scores[1].step_rewards.tolist(),
)
"""Each gives the rewards of GOOD."""


class Server:
    """The process that forks."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.prm = PRM.from_pretrained("demo", threads=4)
        self.expected = [call(self.prm) for call in CALLS]
        self.came: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.over = False

    def require(self, good: bool, what: str) -> None:
        if not good:
            self.wrong.append(what)

    def busy(self) -> None:
        """What the server itself does while it forks: so that locks are held at some forks."""
        while not self.over:
            self.prm.score_many([(PROBLEM, "\n\n".join(BAD)), (f"{time.monotonic()}", "\n\n".join(GOOD))])
            self.prm.clear_cache()

    def fork(self, kind: str) -> None:
        call = int(self.random.integers(len(CALLS)))
        reader, writer = os.pipe()
        child = os.fork()
        if not child:
            os.close(reader)
            self.worker(kind, call, writer)
        os.close(writer)
        with os.fdopen(reader, encoding="utf-8") as told:
            if kind == "killed":
                time.sleep(float(self.random.random()))
                os.kill(child, signal.SIGKILL)
            elif kind == "ended by a signal":
                if not told.readline():
                    self.wrong.append(f"{kind}: it did not come to serve")
                os.kill(child, signal.SIGTERM)
            code, said = waited(child), told.read()
        self.came[kind] += 1
        self.require(code == (-signal.SIGKILL if kind == "killed" else 0), f"{kind}, call {call}: exit code {code}")
        self.require(kind == "killed" or said == "good", f"{kind}, call {call}: {said}")

    def worker(self, kind: str, call: int, writer: int) -> NoReturn:
        """Ends as a program ends: what the parent loaded is let go of."""
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        if kind == "ended by a signal":  # which may come while asyncio makes a loop
            sys.unraisablehook = lambda _: None
        try:
            if kind == "tries the server's model":
                CALLS[call](self.prm)
                os.write(writer, b"it was not refused")
            self.prm = PRM.from_pretrained("demo", threads=4)  # the server's is let go of
            got = CALLS[call](self.prm)
            said = "good" if got == self.expected[call] else str(got)
            # At once, since the signal comes when the first line is read.
            os.write(writer, (f"serving\n{said}" if kind == "ended by a signal" else said).encode())
            while kind in ("killed", "ended by a signal"):
                CALLS[call](self.prm)
        except Exception as error:  # noqa: BLE001
            good = kind == "tries the server's model" and type(error).__name__ == "ForkError"
            os.write(writer, b"good" if good else repr(error).encode())
        sys.exit(0)


def waited(child: int) -> int | str:
    """The exit code of a process; it is killed if it hangs."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "it hangs"


def num_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


KINDS = ("tries the server's model", "loads its own", "ended by a signal", "killed")


def main() -> None:
    workers, server = int(sys.argv[1]), Server(int(sys.argv[2]))
    files = num_files()
    threads = [threading.Thread(target=server.busy) for _ in range(SIDE_BY_SIDE)]
    for thread in threads:
        thread.start()
    try:
        for i in range(workers):
            server.fork(KINDS[i % len(KINDS)])
    finally:
        server.over = True
    for thread in threads:
        thread.join()
    server.require([call(server.prm) for call in CALLS] == server.expected, "the server's own rewards changed")
    server.require(num_files() == files, "files stay open in the server")
    print(json.dumps({"came": server.came, "wrong": server.wrong}))


if __name__ == "__main__":
    main()
