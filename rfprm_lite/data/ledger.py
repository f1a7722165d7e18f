"""The record of a long run in one SQLite file, written batch by batch, each as a whole or not at all.

In: rows' numbers and rewards. Out: which rows are recorded already, and which of them a selection keeps. A run that was
killed at any point, by SIGKILL or a power cut too, finds every batch that it had finished. What the disk altered since
is an error: SQLite's log has checksums, its pages have none, so that each row has its own. One process writes at a
time. The file belongs on a local disk: SQLite's locks can't be relied on over a network.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from rfprm_lite.data.selection import Selection
from rfprm_lite.errors import InputError, LedgerError
from rfprm_lite.plan.usage import Usage

_OPENING = """
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
"""
_TABLES = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS job (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rewards (
    row INTEGER PRIMARY KEY, digest BLOB NOT NULL, problem BLOB NOT NULL, reward REAL NOT NULL,
    final REAL NOT NULL, step_rewards BLOB NOT NULL, tokens INTEGER NOT NULL,
    computed INTEGER NOT NULL, checksum BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS aside (row INTEGER PRIMARY KEY, error TEXT NOT NULL, content TEXT NOT NULL);
DELETE FROM aside;
COMMIT;
"""
_FORGETTING = "BEGIN IMMEDIATE; DROP TABLE IF EXISTS job; DROP TABLE IF EXISTS rewards; COMMIT;"
_KEPT = """
SELECT row FROM (
    SELECT row, reward, ROW_NUMBER() OVER (PARTITION BY problem ORDER BY reward DESC, row) AS place FROM rewards
) WHERE place <= :per_problem AND reward >= :min_reward ORDER BY reward DESC, row LIMIT :most
"""
_EVERY = 2**62
_ADVICE = {
    **dict.fromkeys((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED), "another run is writing it"),
    **dict.fromkeys(
        (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY),
        "what is recorded is not lost, the same command goes on",
    ),
}
"""What is said of SQLite's errors; any other means that the file is damaged."""


@dataclass(frozen=True, slots=True)
class Key:
    """Digests of a row's texts, so that a changed input is seen.

    Attributes:
        problem: Of the problem; equal for rows of one problem.
        row: Of problem and response.
    """

    problem: bytes
    row: bytes

    @classmethod
    def of(cls, problem: object, response: object) -> Key:
        """The key of a problem and a response, each anything that JSON holds.

        Raises:
            InputError: If a text is no valid unicode.
        """
        return cls(_digest(problem), _digest([problem, response]))


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The rewards of a row and what they cost, as in `Score`.

    Attributes:
        reward: The reward of the trace.
        final: Its final reward.
        step_rewards: float32 [num_steps].
        tokens: Token counts.
    """

    reward: float
    final: float
    step_rewards: NDArray[np.float32]
    tokens: Usage


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A row that is recorded, and whether a selection keeps it.

    Attributes:
        row: The row's number.
        digest: The digest of its texts, as `Key.row`.
        scored: Its rewards.
        kept: Whether the selection keeps it.
    """

    row: int
    digest: bytes
    scored: Scored
    kept: bool


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all scored rows.

    Attributes:
        rows: How many there are.
        tokens: Tokens of their texts.
        computed: Tokens that went through the model; the others were shared.
    """

    rows: int
    tokens: int
    computed: int


class Ledger:
    """A record that is open for one job, until `close`.

    Args:
        path: The file, which is made where there is none.
        job: All that the rewards depend on, in words.
        restart: Whether to forget the rows that are recorded.

    Raises:
        LedgerError: If the file is another job's, is in use, or is no ledger.
    """

    def __init__(self, path: Path, job: Mapping[str, str], *, restart: bool = False) -> None:
        self._path = path
        with self._reported():
            self._database = sqlite3.connect(path, isolation_level=None, timeout=0)
        try:
            with self._reported():
                self._database.executescript(_OPENING)
                self._require_whole()
                self._database.executescript(f"{_FORGETTING if restart else ''}{_TABLES}")
                self._claim(job)
        except LedgerError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def new(self, keys: Mapping[int, Key]) -> list[int]:
        """The rows that are not scored yet, in order.

        Args:
            keys: The keys of rows, by their numbers.

        Raises:
            LedgerError: If a scored row has changed since.
        """
        if not keys:
            return []
        between = "SELECT row, digest FROM rewards WHERE row BETWEEN ? AND ?"
        scored = dict(self._select(between, (int, bytes), (min(keys), max(keys))))
        for row in sorted(scored):
            self.require_same(row, scored[row], keys.get(row))
        return sorted(keys.keys() - scored.keys())

    def require_same(self, row: int, digest: bytes, key: Key | None) -> None:
        """Check that a recorded row is still the same.

        Args:
            row: Its number.
            digest: The digest that is recorded.
            key: Its key now; None if it can't be scored any more.

        Raises:
            LedgerError: If it is another row now.
        """
        if key is None or digest != key.row:
            raise LedgerError(
                f"row {row} is not what it was when {self._path} recorded its reward: the input has changed. "
                "Score it anew with --restart, or write to another output"
            )

    def add(self, scores: Sequence[tuple[int, Key, Scored]]) -> None:
        """Record a batch of rows, each with its key and rewards: all of it or, where the process dies, nothing."""
        rows = [
            (
                *(row, key.row, key.problem, float(score.reward) + 0.0, float(score.final) + 0.0),  # SQLite has no -0.0
                np.asarray(score.step_rewards, "<f4").tobytes(),
                *(score.tokens.total, score.tokens.computed),
            )
            for row, key, score in scores
        ]
        with self._transaction():
            self._database.executemany(
                "INSERT INTO rewards VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", [(*row, _checksum(row)) for row in rows]
            )

    def set_aside(self, rows: Sequence[tuple[int, str, str]]) -> None:
        """Record rows that can't be scored, each with its error and content, until the next run, which tries again."""
        with self._transaction():
            self._database.executemany("INSERT OR REPLACE INTO aside VALUES (?, ?, ?)", rows)

    def aside(self) -> Iterator[tuple[int, str, str]]:
        """The rows that are set aside, in order: number, error and content of each."""
        yield from self._select("SELECT row, error, content FROM aside ORDER BY row", (int, str, str))

    def entries(self, selection: Selection) -> Iterator[Entry]:
        """Every scored row in order, and whether it is kept."""
        most = selection.limit(self.totals().rows)
        with self._reported():
            self._database.execute("CREATE TEMP TABLE IF NOT EXISTS kept (row INTEGER PRIMARY KEY)")
            self._database.execute("DELETE FROM kept")
            self._database.execute(
                f"INSERT INTO kept {_KEPT}",
                {
                    "per_problem": min(selection.per_problem or _EVERY, _EVERY),
                    "min_reward": -np.inf if selection.min_reward is None else selection.min_reward,
                    "most": _EVERY if most is None else min(most, _EVERY),
                },
            )
        records = self._select(
            "SELECT rewards.*, kept.row IS NOT NULL FROM rewards LEFT JOIN kept ON kept.row = rewards.row "
            "ORDER BY rewards.row",
            (int, bytes, bytes, float, float, bytes, int, int, bytes, int),
        )
        for *record, checksum, kept in records:
            if checksum != _checksum(record):
                raise LedgerError(self._damaged(f"row {record[0]} is not as it was recorded"))
            row, digest, _, reward, final, steps, tokens, computed = record
            step_rewards = np.frombuffer(steps, "<f4").astype(np.float32)
            scored = Scored(reward, final, step_rewards, Usage(tokens, computed))
            yield Entry(row, digest, scored, bool(kept))

    def totals(self) -> Totals:
        """Sums over all rows that are recorded."""
        sums = "SELECT COUNT(*), COALESCE(SUM(tokens), 0), COALESCE(SUM(computed), 0) FROM rewards"
        return Totals(*next(self._select(sums, (int, int, int))))

    def _claim(self, job: Mapping[str, str]) -> None:
        """Make an empty ledger the job's.

        Raises:
            LedgerError: If it is another job's.
        """
        recorded = dict(self._select("SELECT name, value FROM job", (str, str)))
        if not recorded:
            with self._transaction():
                self._database.executemany("INSERT INTO job VALUES (?, ?)", job.items())
        elif recorded != dict(job):
            changed = [
                f"{name} was {recorded.get(name, 'not set')} and is {job.get(name, 'not set')}"
                for name in sorted({*recorded, *job})
                if recorded.get(name) != job.get(name)
            ]
            raise LedgerError(
                f"{self._path} is of another run: {'; '.join(changed)}. Score anew with --restart, or write to another "
                "output"
            )

    def _require_whole(self) -> None:
        """Raise LedgerError if the file's pages do not fit together: rows would be lost in silence."""
        (said,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
        if said != "ok":
            raise LedgerError(self._damaged(said))

    def _select(self, statement: str, types: Sequence[type], values: Sequence[object] = ()) -> Iterator[Any]:
        """The rows of a query, whose columns are of such types.

        Raises:
            LedgerError: If the file is damaged, or can't be read.
        """
        with self._reported():
            for row in self._database.execute(statement, values):
                if not all(map(isinstance, row, types)):
                    raise LedgerError(self._damaged(f"a row of it holds {row!r:.200}"))
                yield row

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._reported():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Raise SQLite's errors as ours, each with what can be done."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            if code in _ADVICE:
                raise LedgerError(f"{self._path} can't be used: {error}; {_ADVICE[code]}") from error
            raise LedgerError(self._damaged(str(error))) from error
        except UnicodeDecodeError as error:
            raise LedgerError(self._damaged(str(error))) from error

    def _damaged(self, how: str) -> str:
        return (
            f"{self._path} is no record of a run, or is damaged: {how}. Take another copy of it, or remove it: all "
            "rows are then scored anew"
        )


def _checksum(record: Sequence[object]) -> bytes:
    """Of a row's values and their types."""
    return blake2b(repr(tuple(record)).encode(), digest_size=8).digest()


def _digest(value: object) -> bytes:
    try:
        return blake2b(msgspec.json.encode(value), digest_size=16).digest()
    except UnicodeEncodeError as error:
        raise InputError(f"a text is no valid unicode: {error}") from None
