"""What a disk may hold after a power cut: what was waited for, and any part of the rest.

The model is that of a journalling file system. Names change in order; waiting for any file (fsync) makes all earlier
changes of names last. Data that nobody waited for is there as a whole, in some sectors, or not at all.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from faults import DATA, Call

SECTOR = 512


@dataclass(eq=False)
class Stored:
    """A file. safe: what was waited for. pending: what was written since, each with its place."""

    safe: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def after_a_cut(self, drawn: random.Random) -> bytes:
        kept = drawn.choice(("all", "none", "some"))
        content = bytearray(self.safe)
        for at, data in self.pending:
            if data is None:
                if kept == "all" or (kept == "some" and drawn.random() < 0.5):
                    content[at:] = bytes(max(0, at - len(content)))
                continue
            for start in range(0, len(data), SECTOR):
                if kept == "all" or (kept == "some" and drawn.random() < 0.5):
                    part, place = data[start : start + SECTOR], at + start
                    content += bytes(max(0, place - len(content)))
                    content[place : place + len(part)] = part
        return bytes(content)

    def wait(self) -> None:
        drawn = random.Random()
        drawn.choice = lambda _: "all"  # type: ignore[assignment,method-assign]
        self.safe, self.pending = self.after_a_cut(drawn), []


def after_a_cut(start: dict[str, bytes], calls: Sequence[Call], drawn: random.Random) -> dict[str, bytes]:
    """The files that may be there when the power is cut behind these calls, by their paths.

    Args:
        start: The files that were there, by their paths.
        calls: In order.
        drawn: Draws one of all that may be.
    """
    names = {path: Stored(content) for path, content in start.items()}
    history = [dict(names)]  # after each change of a name that may be lost
    for call in calls:
        file = names.get(call.path)
        if call.name in DATA and file is not None:
            file.pending.append((call.at, call.data))
        elif call.name in ("truncate", "ftruncate") and file is not None:
            file.pending.append((call.at, None))
        elif call.name == "fsync":
            if file is not None:
                file.wait()
            history = [dict(names)]
        elif call.name == "create":
            names[call.path] = Stored()
            history.append(dict(names))
        elif call.name in ("rename", "unlink"):
            moved = names.pop(call.path, None)
            if call.name == "rename":
                for path in [path for path in names if path.startswith(f"{call.path}/")]:
                    names[f"{call.other}{path.removeprefix(call.path)}"] = names.pop(path)
                if moved is not None:
                    names[call.other] = moved
            history.append(dict(names))
    return {path: file.after_a_cut(drawn) for path, file in drawn.choice(history).items()}
