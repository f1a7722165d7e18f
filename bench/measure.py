"""Measuring contenders on a workload: interleaved rounds, medians, and the comparison of their rewards."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import click

from contender import REFERENCES, Entry, ModelPaths
from processes import Run, Worker, WorkerError, python_of, write_calls
from workloads import Workload

Ask = Callable[[Path], Run]
"""Runs the calls in a file."""


@dataclass(slots=True)
class Measured:
    """One contender on one workload.

    seconds: of each round. load_seconds: of its load, of each round's in a cold start. computed: tokens run through the
    model. peak_bytes: of its process, weights included, the most of all rounds. difference: of its rewards from the
    reference's, at most; None where no reference ran.
    """

    contender: str
    note: str
    load_seconds: list[float]
    seconds: list[float] = field(default_factory=list)
    computed: int = 0
    peak_bytes: int | None = None
    difference: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return {**{name: getattr(self, name) for name in self.__slots__}, "median": self.median}


@dataclass(frozen=True, slots=True)
class Compared:
    """reference: the contender whose rewards the others' were compared with."""

    workload: Workload
    reference: str | None
    measured: list[Measured]

    def row(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "title": self.workload.title,
            "tokens": self.workload.tokens,
            "reference": self.reference,
            "contenders": [m.row() for m in self.measured],
        }


class Contest:
    """The contenders that could be loaded, each in its own process until the end."""

    def __init__(self, entries: Sequence[Entry], model: ModelPaths, threads: int, cache: Path) -> None:
        self._model, self._threads, self._cache = model, threads, cache
        self._loads: dict[str, float] = {}
        self._pace: dict[str, float] = {}
        self._workers: dict[str, Worker] = {}
        for entry in entries:
            self._start(entry)

    @property
    def names(self) -> list[str]:
        return list(self._workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()

    def affordable(self, workload: Workload, limit: float) -> list[str]:
        """Those that a run of the workload would take at most `limit` seconds, going by their best pace so far."""
        found = []
        for name in self._workers:
            seconds = self._pace.get(name, 0) * workload.tokens
            if seconds <= limit:
                found.append(name)
            else:
                click.echo(f"{workload.name}: left out {name}, which would take about {seconds:.0f} s", err=True)
        return found

    def compare(self, workload: Workload, rounds: int, budget: float, names: Sequence[str]) -> Compared:
        """Measure the contenders of these names."""
        found, asks = {}, {}
        for name in names:
            entry = self._workers[name].entry
            found[name] = Measured(name, entry.note, [] if workload.cold else [self._loads[name]])
            asks[name] = self._cold(entry) if workload.cold else self._workers[name].run
        with tempfile.TemporaryDirectory() as folder:
            calls = write_calls(workload, Path(folder))
            last = interleave(asks, calls, found, rounds, budget)
        reference = next((name for name in REFERENCES if name in last), None)
        for name, measured in found.items():
            if reference is not None:
                measured.difference = largest_difference(last[name].rewards, last[reference].rewards)
            if not workload.cold:
                pace = measured.median / workload.tokens
                self._pace[name] = min(self._pace.get(name, pace), pace)
        return Compared(workload, reference, list(found.values()))

    def _start(self, entry: Entry) -> None:
        """A line on stderr where it can't be had."""
        python = python_of(entry, self._cache)
        if python is None:
            click.echo(f"skipped {entry.name}: run once with --install, which makes its environment", err=True)
            return
        worker = Worker(entry, python)
        try:
            self._loads[entry.name] = worker.load(self._model, self._threads)
            self._workers[entry.name] = worker
        except WorkerError as error:
            worker.close()
            click.echo(f"skipped {entry.name}: {error}", err=True)

    def _cold(self, entry: Entry) -> Ask:
        def ask(calls: Path) -> Run:
            worker = Worker(entry, python_of(entry, self._cache) or Path())
            try:
                return worker.cold(self._model, self._threads, calls)
            finally:
                worker.close()

        return ask


def convert(entries: Sequence[Entry], model: ModelPaths, threads: int, cache: Path) -> None:
    """Load each contender once and for nothing, so that a conversion of the model counts as no one's load time."""
    for entry in entries:
        if (python := python_of(entry, cache)) is not None:
            worker = Worker(entry, python)
            with suppress(WorkerError):  # it is reported where the contender is to be measured
                worker.load(model, threads)
            worker.close()


def interleave(
    asks: Mapping[str, Ask], calls: Path, found: Mapping[str, Measured], rounds: int, budget: float
) -> dict[str, Run]:
    """A warm-up and then the rounds, A B C, A B C.

    A contender whose warm-up took longer than `budget` seconds is not run again: that one run counts. One that has used
    the budget up takes no further round. Returns each one's last run.
    """
    last: dict[str, Run] = {}
    for round_ in range(rounds + 1):
        for name, ask in asks.items():
            if sum(found[name].seconds) > budget:
                continue
            run = last[name] = ask(calls)
            if round_ or run.seconds > budget:
                _add(found[name], run)
    return last


def largest_difference(own: list[list[list[float]]], reference: list[list[list[float]]]) -> float:
    """Of any reward of any sequence of any call."""
    pairs = (
        (a, b)
        for call, expected in zip(own, reference, strict=True)
        for sequence, wanted in zip(call, expected, strict=True)
        for a, b in zip(sequence, wanted, strict=True)
    )
    return max(abs(a - b) for a, b in pairs)


def _add(measured: Measured, run: Run) -> None:
    measured.seconds.append(run.seconds)
    measured.computed = run.computed
    if run.load_seconds is not None:
        measured.load_seconds.append(run.load_seconds)
    if run.peak_bytes is not None:
        measured.peak_bytes = max(run.peak_bytes, measured.peak_bytes or 0)
