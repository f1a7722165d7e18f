"""What a long run has scored so far, in one SQLite file: written batch by batch, each as a whole or not at all.

In: rows' numbers and rewards. Out: what is there already, and what a selection keeps. A run that was killed at any
point, by SIGKILL or a power cut too, finds every batch that it had finished. One process writes at a time. The file
belongs on a local disk: SQLite's locks can't be relied on over a network.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from rfprm_lite.errors import InputError, LedgerError
from rfprm_lite.results import Tokens
from rfprm_lite.selection import Selection

_OPENING = """
PRAGMA locking_mode = EXCLUSIVE;
PRAGMA journal_mode = WAL;
PRAGMA synchronous = FULL;
CREATE TABLE IF NOT EXISTS job (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS rewards (
    row INTEGER PRIMARY KEY, digest BLOB NOT NULL, problem BLOB NOT NULL, reward REAL NOT NULL,
    trajectory_reward REAL NOT NULL, step_rewards BLOB NOT NULL, tokens INTEGER, computed INTEGER
);
CREATE TABLE IF NOT EXISTS aside (row INTEGER PRIMARY KEY, error TEXT NOT NULL, content TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_reward ON rewards (reward DESC, row);
DELETE FROM aside;
"""
_KEPT = """
SELECT row FROM (
    SELECT row, reward, ROW_NUMBER() OVER (PARTITION BY problem ORDER BY reward DESC, row) AS place FROM rewards
) WHERE place <= :per_problem AND reward >= :min_reward ORDER BY reward DESC, row LIMIT :most
"""
_EVERY = 2**62


@dataclass(frozen=True, slots=True)
class Key:
    """Which problem a row asks, and which row it is: digests of its texts, so that a changed input is seen."""

    problem: bytes
    row: bytes

    @classmethod
    def of(cls, problem: object, response: object) -> Key:
        """Of anything that JSON holds."""
        return cls(_digest(problem), _digest([problem, response]))


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """The rewards of a row, as in `Score`. step_rewards: float32 [num_steps]. tokens: None where they are not known."""

    reward: float
    trajectory_reward: float
    step_rewards: NDArray[np.float32]
    tokens: Tokens | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A row that is recorded, and whether a selection keeps it."""

    row: int
    scored: Scored
    kept: bool


@dataclass(frozen=True, slots=True)
class Totals:
    """Of all scored rows: their number, and their tokens, of which some were computed."""

    rows: int
    tokens: int
    computed: int


def forget(path: Path) -> None:
    """Remove a ledger, if there is one."""
    for own in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        own.unlink(missing_ok=True)


class Ledger:
    """Open for one job, which is what the rewards depend on, in words. Closed by `close`."""

    def __init__(self, path: Path, job: Mapping[str, str]) -> None:
        """Raises LedgerError where the file is another job's, is in use, or is no ledger."""
        self._path = path
        try:
            self._database = sqlite3.connect(path, isolation_level=None, timeout=0)
        except sqlite3.OperationalError as error:
            raise LedgerError(f"{path} can't be written: {error}") from error
        try:
            self._database.executescript(_OPENING)
            self._claim(job)
        except sqlite3.OperationalError as error:
            self.close()
            raise LedgerError(f"{path} can't be used, another run may be writing it: {error}") from error
        except sqlite3.DatabaseError as error:
            self.close()
            raise LedgerError(f"{path} is no record of a run: {error}") from error
        except LedgerError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def new(self, keys: Mapping[int, Key]) -> list[int]:
        """The rows that are not scored yet, in order. Raises LedgerError where a scored row has changed since."""
        if not keys:
            return []
        found = self._database.execute(
            "SELECT row, digest FROM rewards WHERE row BETWEEN ? AND ?", (min(keys), max(keys))
        )
        scored = dict(found.fetchall())
        for row in sorted(scored.keys() & keys.keys()):
            if scored[row] != keys[row].row:
                raise LedgerError(
                    f"row {row} is not what it was when {self._path} recorded its reward: the input has changed. "
                    "Score it anew with --restart, or write to another output"
                )
        return sorted(keys.keys() - scored.keys())

    def add(self, scores: Sequence[tuple[int, Key, Scored]]) -> None:
        """Record a batch: all of it or, where the process dies, nothing."""
        values = [
            (
                *(row, key.row, key.problem, score.reward, score.trajectory_reward),
                np.asarray(score.step_rewards, "<f4").tobytes(),
                *((score.tokens.total, score.tokens.computed) if score.tokens else (None, None)),
            )
            for row, key, score in scores
        ]
        with self._transaction():
            self._database.executemany("INSERT INTO rewards VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

    def set_aside(self, row: int, error: str, content: str) -> None:
        """Record a row that can't be scored, with its content, until the next run, which tries it again."""
        self._database.execute("INSERT OR REPLACE INTO aside VALUES (?, ?, ?)", (row, error, content))

    def aside(self) -> Iterator[tuple[int, str, str]]:
        """Row, error and content of each that is set aside, in order."""
        yield from self._database.execute("SELECT row, error, content FROM aside ORDER BY row")

    def entries(self, selection: Selection) -> Iterator[Entry]:
        """Every scored row in order, and whether it is kept."""
        self._database.execute("CREATE TEMP TABLE IF NOT EXISTS kept (row INTEGER PRIMARY KEY)")
        self._database.execute("DELETE FROM kept")
        most = selection.limit(self.totals().rows)
        self._database.execute(
            f"INSERT INTO kept {_KEPT}",  # our own text
            {
                "per_problem": selection.per_problem or _EVERY,
                "min_reward": -np.inf if selection.min_reward is None else selection.min_reward,
                "most": -1 if most is None else most,
            },
        )
        found = self._database.execute(
            "SELECT rewards.row, reward, trajectory_reward, step_rewards, kept.row IS NOT NULL "
            "FROM rewards LEFT JOIN kept ON kept.row = rewards.row ORDER BY rewards.row"
        )
        for row, reward, trajectory_reward, steps, kept in found:
            step_rewards = np.frombuffer(steps, "<f4").astype(np.float32)
            yield Entry(row, Scored(reward, trajectory_reward, step_rewards), bool(kept))

    def totals(self) -> Totals:
        """Of all that is recorded."""
        sums = "SELECT COUNT(*), COALESCE(SUM(tokens), 0), COALESCE(SUM(computed), 0) FROM rewards"
        return Totals(*self._database.execute(sums).fetchone())

    def _claim(self, job: Mapping[str, str]) -> None:
        """Make an empty ledger the job's. Raises LedgerError where it is another's."""
        recorded = dict(self._database.execute("SELECT name, value FROM job").fetchall())
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

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")


def _digest(value: object) -> bytes:
    try:
        return blake2b(msgspec.json.encode(value), digest_size=16).digest()
    except UnicodeEncodeError as error:
        raise InputError(f"a text is no valid unicode: {error}") from None
