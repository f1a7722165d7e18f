"""A ledger that the disk has altered: what is left of it is right, or it is refused by name."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from campaign import Effort, Tally
from rfprm_lite import Usage
from rfprm_lite.data.ledger import Entry, Key, Ledger, Scored
from rfprm_lite.data.selection import Selection
from rfprm_lite.errors import LedgerError

BATCHES, BATCH = 12, 5
JOB = {"model": "demo int8", "weights": "0123"}


def key(row: int) -> Key:
    return Key.of(f"problem {row // 3}", f"response {row}")


def scored(row: int) -> Scored:
    return Scored(row / 7, row / 11, np.linspace(0, 1, row % 6 + 1, dtype=np.float32), Usage(row + 9, row + 1))


def is_right(entry: Entry) -> bool:
    expected = scored(entry.row)
    return (
        entry.digest == key(entry.row).row
        and (entry.scored.reward, entry.scored.final) == (expected.reward, expected.final)
        and entry.scored.step_rewards.tolist() == expected.step_rewards.tolist()
        and entry.scored.tokens == expected.tokens
    )


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A ledger as it is on the disk after each of its batches, and when it is closed. Its pages come early."""
    root = tmp_path_factory.mktemp("states")
    found = []

    def keep() -> None:
        found.append(shutil.copytree(root / "now", root / f"{len(found)}"))

    (root / "now").mkdir()
    with closing(Ledger(root / "now" / "ledger", JOB)) as ledger:
        ledger._database.execute("PRAGMA wal_autocheckpoint = 9")
        for batch in range(BATCHES):
            rows = range(batch * BATCH, (batch + 1) * BATCH)
            ledger.add([(row, key(row), scored(row)) for row in rows])
            keep()
    keep()
    return found


def cut_off(content: bytes, drawn: random.Random) -> bytes:
    return content[: drawn.randrange(len(content))]


def last_sector_gone(content: bytes, drawn: random.Random) -> bytes:
    return content[: len(content) - drawn.randrange(1, 513)] + bytes(512)


def bit_flipped(content: bytes, drawn: random.Random) -> bytes:
    at = drawn.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << drawn.randrange(8)]) + content[at + 1 :]


def page_of_zeros(content: bytes, drawn: random.Random) -> bytes:
    at = drawn.randrange(len(content)) // 4096 * 4096
    return (content[:at] + bytes(4096) + content[at + 4096 :])[: len(content)]


def page_torn(content: bytes, drawn: random.Random) -> bytes:
    """The second half of a page is another's."""
    first, second = (drawn.randrange(len(content)) // 4096 * 4096 for _ in range(2))
    torn = bytearray(content)
    torn[first + 2048 : first + 4096] = content[second + 2048 : second + 4096]
    return bytes(torn[: len(content)])


DAMAGES = (cut_off, last_sector_gone, bit_flipped, page_of_zeros, page_torn)


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("side", ["", "-wal"], ids=["database", "log"])
def test_a_damaged_ledger(
    side: str,
    damage: Callable[[bytes, random.Random], bytes],
    states: list[Path],
    tmp_path: Path,
    effort: Effort,
    tally: Tally,
) -> None:
    """A ledger's file is damaged: its rows are right, or it is refused by name"""
    tally.tried = f"Ledgers, {'log' if side else 'database'}: {damage.__name__.replace('_', ' ')}"
    drawn = random.Random(0)
    having = [state for state in states if (state / f"ledger{side}").is_file()]
    for n in range(effort.times(8, 500)):
        state = drawn.choice(having)
        shutil.copytree(state, tmp_path / str(n))
        path = tmp_path / str(n) / "ledger"
        damaged = path.with_name(f"ledger{side}")
        damaged.write_bytes(damage(damaged.read_bytes(), drawn))
        try:
            with closing(Ledger(path, JOB)) as ledger:
                entries = list(ledger.entries(Selection()))
                assert [entry.row for entry in entries if not is_right(entry)] == []
                rows = [entry.row for entry in entries]
                new = ledger.new({row: key(row) for row in range(BATCHES * BATCH)})
                assert sorted([*rows, *new]) == list(range(BATCHES * BATCH))
                ledger.add([(row, key(row), scored(row)) for row in new])
                assert ledger.totals().rows == BATCHES * BATCH
            if side:
                assert rows == list(range(len(rows))), "the log gives back a prefix"
                assert len(rows) % BATCH == 0
            tally.add("opened, all that it gave was right")
        except LedgerError as error:
            if str(path) not in str(error):
                raise
            tally.add("refused")
        shutil.rmtree(tmp_path / str(n))
