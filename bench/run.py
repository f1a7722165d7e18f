"""The same work, side by side with what people would use instead.

    python bench/run.py --model 0.5b --workload W1 --workload W2 --install

Every contender runs in its own process with the same number of threads; rounds are interleaved (A B C, A B C, ...)
after a warm-up; medians with the spread are shown, and every contender's rewards are compared with the reference's.
Token ids are given, so tokenising is not timed. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import json
import platform
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

import models
from contender import ENTRIES, REFERENCE, Entry, ModelPaths
from processes import Run, Worker, WorkerError, make_environment, python_of, write_calls
from workloads import QUICK, WORKLOADS, Workload

CACHE = Path.home() / ".cache" / "rfprm-lite-bench"
BENCH = Path(__file__).parent
VERSIONS = ("rfprm-lite", "onnxruntime", "torch", "transformers", "numpy")


@dataclass(slots=True)
class Measured:
    """One contender on one workload. seconds: of each round. difference: of its rewards from the reference's, at most;
    None where the reference did not run."""

    contender: str
    note: str
    load_seconds: float
    seconds: list[float] = field(default_factory=list)
    computed: int = 0
    peak_bytes: int | None = None
    difference: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def start(entries: Sequence[Entry], model: ModelPaths, threads: int, cache: Path) -> dict[str, tuple[Worker, float]]:
    """The workers that could be loaded, with the seconds that it took; a line on stderr for each that could not."""
    workers: dict[str, tuple[Worker, float]] = {}
    for entry in entries:
        python = python_of(entry, cache)
        if python is None:
            click.echo(f"skipped {entry.name}: run once with --install, which makes its environment", err=True)
            continue
        worker = Worker(entry, python)
        try:
            workers[entry.name] = worker, worker.load(model, threads)
        except WorkerError as error:
            click.echo(f"skipped {entry.name}: {error}", err=True)
    return workers


def compare(workload: Workload, workers: dict[str, tuple[Worker, float]], rounds: int) -> list[Measured]:
    """A warm-up round, then the interleaved ones."""
    found = {name: Measured(name, w.entry.note, seconds) for name, (w, seconds) in workers.items()}
    last: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as folder:
        calls = write_calls(workload, Path(folder))
        for round_ in range(rounds + 1):
            for name, (worker, _) in workers.items():
                last[name] = worker.run(calls)
                if round_:
                    found[name].seconds.append(last[name].seconds)
    for name, measured in found.items():
        measured.computed, measured.peak_bytes = last[name].computed, last[name].peak_bytes
        if REFERENCE in last:
            measured.difference = _difference(last[name].rewards, last[REFERENCE].rewards)
    return list(found.values())


def _difference(own: list[list[list[float]]], reference: list[list[list[float]]]) -> float:
    pairs = (
        (a, b)
        for call, expected in zip(own, reference, strict=True)
        for sequence, wanted in zip(call, expected, strict=True)
        for a, b in zip(sequence, wanted, strict=True)
    )
    return max(abs(a - b) for a, b in pairs)


def table(workload: Workload, results: Sequence[Measured]) -> Table:
    """Fastest first; ratios are of the fastest's median."""
    fastest = min(measured.median for measured in results)
    shown = Table(title=f"{workload.name}: {workload.title}; {workload.tokens} tokens", title_justify="left")
    for column in ("contender", "median s", "spread s", "ratio", "computed", "load s", "peak MB", "max difference"):
        shown.add_column(column, justify="left" if column == "contender" else "right")
    for m in sorted(results, key=lambda m: m.median):
        shown.add_row(
            f"{m.contender}{f' ({m.note})' if m.note else ''}",
            f"{m.median:.3f}",
            f"{min(m.seconds):.3f}-{max(m.seconds):.3f}",
            f"{m.median / fastest:.2f}",
            str(m.computed),
            f"{m.load_seconds:.1f}",
            "?" if m.peak_bytes is None else f"{m.peak_bytes / 1e6:.0f}",
            "not compared" if m.difference is None else f"{m.difference:.1e}",
        )
    return shown


def machine() -> dict[str, Any]:
    """What the numbers were made on, without the machine's name."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=BENCH, capture_output=True, text=True, check=False)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "commit": commit.stdout.strip() or None,
        "cpu": next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None),
        "cpu_count": sum(line.startswith("processor") for line in lines) or None,
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--model", default="0.5b", help="demo, 0.5b, 1.5b (random weights), or a checkpoint folder.")
@click.option("--workload", "names", multiple=True, help=f"Of {', '.join(WORKLOADS)}; all by default.")
@click.option("--contender", "chosen", multiple=True, help="By name, as in the table; all by default.")
@click.option("--rounds", default=5)
@click.option("--threads", default=2)
@click.option("--quick", is_flag=True, help="The demo model on small workloads: a minute.")
@click.option("--install", is_flag=True, help="Make the environments that contenders need.")
@click.option("--cache", type=click.Path(path_type=Path), default=CACHE)
@click.option("--save", type=click.Path(path_type=Path), help="Write the results to this JSON file too.")
def main(
    model: str,
    names: tuple[str, ...],
    chosen: tuple[str, ...],
    rounds: int,
    threads: int,
    quick: bool,
    install: bool,
    cache: Path,
    save: Path | None,
) -> None:
    """Compare contenders on workloads."""
    known = QUICK if quick else WORKLOADS
    unknown = sorted({*names} - {*known}) + sorted({*chosen} - {entry.name for entry in ENTRIES})
    if unknown:
        raise click.UsageError(f"not known: {', '.join(unknown)}")
    entries = [entry for entry in ENTRIES if not chosen or entry.name in chosen]
    if install:
        for entry in entries:
            make_environment(entry, cache)
    paths = models.prepare("demo" if quick else model, cache)
    workers = start(entries, paths, threads, cache)
    out = Console(width=150)
    results: dict[str, Any] = {"machine": machine(), "model": Path(paths.checkpoint).name, "threads": threads}
    results["workloads"] = {}
    try:
        for name in names or known:
            workload = known[name]()
            measured = compare(workload, workers, rounds)
            out.print(table(workload, measured))
            rows = [{**_fields(m), "median": m.median} for m in measured]
            results["workloads"][name] = {"title": workload.title, "tokens": workload.tokens, "contenders": rows}
    finally:
        for worker, _ in workers.values():
            worker.close()
    if save:
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    click.echo(json.dumps(results))


def _fields(measured: Measured) -> dict[str, Any]:
    return {name: getattr(measured, name) for name in Measured.__slots__}


if __name__ == "__main__":
    main()
