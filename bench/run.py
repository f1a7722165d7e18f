"""The same work, side by side with what people would use instead.

    python bench/run.py --install                                    everything at the 0.5B shape: some 70 minutes
    python bench/run.py --model 0.5b --workload W1 --workload W2     a part of it
    python bench/run.py --quick                                      the demo model on small workloads: a minute or two

Every contender runs in its own process with the same number of threads; rounds are interleaved (A B C, A B C, ...)
after a warm-up; medians with the spread are shown, and every contender's rewards are compared with the reference's.
Token ids are given, so tokenising is not timed. The last line on stdout is one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

import machine
import models
import roofline
from contender import ENTRIES, GROWTH, Entry, ModelPaths, can_load
from measure import Compared, Contest, convert
from processes import InstallError, make_environment, python_of
from rfprm_lite.bundle import manifest as manifests
from workloads import QUICK, SERIES, WORKLOADS, Series, Workload

CACHE = Path.home() / ".cache" / "rfprm-lite-bench"


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--model", default="0.5b", help="demo, 0.5b, 1.5b (random weights), or the folder of a checkpoint or a bundle."
)
@click.option("--workload", "names", multiple=True, help=f"Of {', '.join(WORKLOADS)}.")
@click.option(
    "--growth", "series", multiple=True, type=click.Choice(list(SERIES)), help="Time and memory against a size."
)
@click.option("--profile", is_flag=True, help="Where our engine's time goes, and the machine's peak throughput.")
@click.option("--contender", "chosen", multiple=True, help="By name, as in the table; all by default.")
@click.option("--rounds", default=3)
@click.option("--budget", default=20.0, help="Seconds after which a contender takes no further round of a workload.")
@click.option("--limit", default=120.0, help="Contenders that would take longer than so many seconds are left out.")
@click.option("--threads", default=2)
@click.option("--quick", is_flag=True, help="The demo model on small workloads: a minute or two.")
@click.option("--install", is_flag=True, help="Make the environments that contenders need.")
@click.option("--cache", type=click.Path(path_type=Path), default=CACHE)
@click.option("--save", type=click.Path(path_type=Path), help="Write the results to this JSON file too.")
@click.option("--json", "only_json", is_flag=True, help="No tables.")
def main(
    model: str,
    names: tuple[str, ...],
    series: tuple[str, ...],
    profile: bool,
    chosen: tuple[str, ...],
    rounds: int,
    budget: float,
    limit: float,
    threads: int,
    quick: bool,
    install: bool,
    cache: Path,
    save: Path | None,
    only_json: bool,
) -> None:
    """Compare contenders on workloads. Without --workload, --growth and --profile, all of the three."""
    known = QUICK if quick else WORKLOADS
    unknown = sorted({*names} - {*known}) + sorted({*chosen} - {entry.name for entry in ENTRIES})
    if unknown:
        raise click.UsageError(f"not known: {', '.join(unknown)}")
    everything = not (names or series or profile)
    if everything:
        names, series, profile = tuple(known), () if quick else tuple(SERIES), not quick
    entries = [entry for entry in ENTRIES if not chosen or entry.name in chosen]
    if install:
        install_all(entries, cache)
    paths = models.prepare("demo" if quick else model, cache)
    for entry in entries:
        if not can_load(entry, paths):
            click.echo(f"skipped {entry.name}: {model} is a bundle, and it needs the checkpoint", err=True)
    entries = [entry for entry in entries if can_load(entry, paths)]
    out = Console(width=150, quiet=only_json)
    results: dict[str, Any] = {
        "machine": machine.describe(_environments(entries, cache)),
        "model": "demo" if quick else Path(model).name,
        "threads": threads,
        "default": f"rfprm-lite {manifests.load(Path(paths.bundle) / manifests.FILE_NAME).default_variant('cpu').name}",
    }
    convert(entries, paths, threads, cache)
    if profile:  # first: no contender's process is there yet
        results["profile"] = roofline.profile(paths, threads, [known[name]() for name in ("W1", "W2")])
        out.print(*roofline.tables(results["profile"]))
        _write(results, save)
    for part, found in measure(names, series, known, entries, paths, rounds, budget, limit, threads, cache, out):
        results.setdefault(part, {}).update(found)
        _write(results, save)
    click.echo(json.dumps(results))


def _write(results: dict[str, Any], save: Path | None) -> None:
    """After each part: an interrupted run keeps what it has."""
    if save:
        save.parent.mkdir(parents=True, exist_ok=True)
        save.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def measure(
    names: Sequence[str],
    series: Sequence[str],
    known: Mapping[str, Callable[[], Workload]],
    entries: Sequence[Entry],
    paths: ModelPaths,
    rounds: int,
    budget: float,
    limit: float,
    threads: int,
    cache: Path,
    out: Console,
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each workload and each growth series, under the names that the results have for them."""
    if names:
        with Contest(entries, paths, threads, cache) as contest:
            for name in names:
                workload = known[name]()
                affordable = contest.affordable(workload, limit)
                if not affordable:
                    continue
                compared = contest.compare(workload, rounds, budget, affordable)
                out.print(table(compared))
                yield "workloads", {name: compared.row()}
    growing = [entry for entry in entries if entry.name in GROWTH]
    for name in series:  # new processes for each: memory that an earlier series took does not count
        with Contest(growing, paths, threads, cache) as contest:
            points = list(grow(contest, SERIES[name], budget, out))
        yield "growth", {name: {"axis": SERIES[name].axis, "points": points}}


def grow(contest: Contest, series: Series, budget: float, out: Console) -> Iterator[dict[str, Any]]:
    """One measured round for each size. A contender whose round took longer than the budget leaves the series."""
    names = contest.names
    for size in series.sizes:
        compared = contest.compare(series.workload(size), 1, budget, names)
        out.print(table(compared))
        yield {"size": size, **compared.row()}
        names = [m.contender for m in compared.measured if m.median <= budget]
        if not names:
            return


def table(compared: Compared) -> Table:
    """Fastest first; ratios are of the fastest's median."""
    workload, results = compared.workload, compared.measured
    fastest = min(measured.median for measured in results)
    shown = Table(title=f"{workload.name}: {workload.title}; {workload.tokens} tokens", title_justify="left")
    for column in (
        "contender",
        "median s",
        "spread s",
        "rounds",
        "ratio",
        "computed",
        "load s",
        "peak MB",
        "difference",
    ):
        shown.add_column(column, justify="left" if column == "contender" else "right")
    for m in sorted(results, key=lambda m: m.median):
        shown.add_row(
            f"{m.contender}{f' ({m.note})' if m.note else ''}",
            f"{m.median:.3f}",
            f"{min(m.seconds):.3f}-{max(m.seconds):.3f}",
            str(len(m.seconds)),
            f"{m.median / fastest:.2f}",
            str(m.computed),
            f"{min(m.load_seconds):.1f}",
            "?" if m.peak_bytes is None else f"{m.peak_bytes / 1e6:.0f}",
            "not compared" if m.difference is None else f"{m.difference:.1e}",
        )
    return shown


def install_all(entries: Sequence[Entry], cache: Path) -> None:
    """Make the environments; a line on stderr for each that can't be made."""
    for environment in dict.fromkeys(entry.environment for entry in entries if entry.environment):
        try:
            make_environment(environment, cache)
        except InstallError as error:
            click.echo(f"can't install {environment.name}: {error}", err=True)


def _environments(entries: Sequence[Entry], cache: Path) -> list[tuple[str, Path]]:
    found = {entry.environment.name: python_of(entry, cache) for entry in entries if entry.environment}
    return [(name, python) for name, python in found.items() if python]


if __name__ == "__main__":
    main()
