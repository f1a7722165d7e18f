"""The command `rfprm evaluate`."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from rfprm_lite.cli.shared import console, reported_errors
from rfprm_lite.data.files import replaced
from rfprm_lite.data.ledger import Ledger
from rfprm_lite.data.tables import Format
from rfprm_lite.errors import InputError
from rfprm_lite.evaluate import report as reports
from rfprm_lite.evaluate.figures import figures_of
from rfprm_lite.evaluate.forms import FIELDS, FORMS
from rfprm_lite.evaluate.grade import GRADERS
from rfprm_lite.evaluate.items import Items
from rfprm_lite.evaluate.judged import Judged, judge, with_own_scores, with_scores_of
from rfprm_lite.evaluate.page import page_of
from rfprm_lite.evaluate.reading import Reading, read_sets
from rfprm_lite.evaluate.report import Report
from rfprm_lite.evaluate.result import Result
from rfprm_lite.evaluate.run import with_threshold_of
from rfprm_lite.evaluate.sets import KnownSet
from rfprm_lite.evaluate.steps import KEPT
from rfprm_lite.options import LoadOptions
from rfprm_lite.prm import PRM
from rfprm_lite.show.chart import svg_text
from rfprm_lite.show.terminal import plain

DONE_BUT = 3
"""Exit code where all is done but rows that could not be evaluated."""
STOPPED = 130
"""Exit code after an interrupt, as shells have it: 128 + SIGINT."""


@dataclass(frozen=True, slots=True)
class Choices:
    """How results are made of rewards.

    Attributes:
        threshold: The reward below which a step is taken for wrong; the judge's own where None.
        threshold_from: The set on which it is chosen in its place.
        keep: The share of right steps that a threshold is looked for to keep.
    """

    threshold: float | None
    threshold_from: str | None
    keep: float

    def results(self, judged: Sequence[Judged]) -> tuple[Result, ...]:
        """The results of one judge."""
        found = [Result(one, self.threshold, keep=self.keep) for one in judged]
        return tuple(found if self.threshold_from is None else with_threshold_of(found, self.threshold_from))


@dataclass(frozen=True, slots=True)
class Place:
    """The folder of a report; nothing is written, and nothing recorded, where there is none.

    Attributes:
        folder: The folder, or None.
        restart: Whether to forget what an earlier run recorded.
    """

    folder: Path | None
    restart: bool

    @contextmanager
    def ledger(self, items: Items, prm: PRM) -> Iterator[Ledger | None]:
        """The record of a judge's rewards on a set."""
        if self.folder is None:
            yield None
            return
        names = f"{_file_name(items.name)}-{_file_name(_judge_name(prm))}.ledger"
        path = self.folder / "ledgers" / names
        path.parent.mkdir(parents=True, exist_ok=True)
        job = {
            "model": _judge_name(prm),
            "weights": " ".join(file.sha256 for file in prm.variant.files),
            "recipe": prm.manifest.recipe.name,
            "aggregate": str(prm.manifest.recipe.aggregate),
            "final": prm.manifest.recipe.aggregate.final,
        }
        with closing(Ledger(path, job, restart=self.restart)) as ledger:
            yield ledger


def _columns(command: Callable[..., None]) -> Callable[..., None]:
    for field, what in reversed(FIELDS.items()):
        command = click.option(f"--{field}-column", metavar="NAME", help=f"Where a row has {what}.")(command)
    return command


@click.command()
@click.argument("sets", metavar="SET...", nargs=-1, required=True)
@click.option("--model", "models", multiple=True, help="A bundle's folder, a hub id, or demo; several are compared.")
@click.option("--variant", "variants", help="Such as int8,fp32; several are compared. The default where not given.")
@click.option(
    "--scores",
    "score_files",
    type=click.Path(path_type=Path, exists=True),
    multiple=True,
    help="Step scores in place of a model: a file of lines, or a folder of them.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Take so many rows of each set, from the first on.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False), help="Write the report to this folder."
)
@click.option("--restart", is_flag=True, help="Forget what an earlier run with the same -o has scored.")
@click.option("--kind", type=click.Choice([*FORMS]), help="The form of a file's rows; by its columns where not given.")
@click.option("--format", type=click.Choice(get_args(Format)), help="Of files; by their names where not given.")
@click.option("--grader", help=f"Tells which answers are right: {', '.join(GRADERS)}, or module:name of yours.")
@click.option("--threshold", type=float, help="Rewards below it mean a wrong step; the judge's own where not given.")
@click.option("--threshold-from", metavar="SET", help="Choose the threshold on this set, and apply it to the others.")
@click.option(
    "--keep",
    type=click.FloatRange(0, 1),
    default=KEPT,
    show_default=True,
    help="The right steps a threshold is to keep.",
)
@click.option("--revision", help="Branch, tag or commit, where --model is a hub id.")
@click.option("--cache-dir", type=click.Path(path_type=Path), help="The hub's cache, in place of HF_HOME's.")
@click.option("--local-files-only", is_flag=True, help="Never touch the network.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    help="Threads of one run; one a physical core that the process may use by default.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of tables.")
@_columns
def evaluate(
    sets: tuple[str, ...],
    models: tuple[str, ...],
    variants: str | None,
    score_files: tuple[Path, ...],
    limit: int | None,
    output: Path | None,
    restart: bool,
    kind: str | None,
    format: Format | None,
    grader: str | None,
    threshold: float | None,
    threshold_from: str | None,
    keep: float,
    revision: str | None,
    cache_dir: Path | None,
    local_files_only: bool,
    device: str,
    threads: int | None,
    as_json: bool,
    **named: str | None,
) -> None:
    """Measure how good a judge is on each SET: a file, demo, processbench, prmbench, or a file on the hub.

    A set of labelled steps gives AUC, calibration and, by its kind, ProcessBench's F1 or PRMScore; pools of candidates
    give best of N. Of several judges each is compared with the last one. With -o an interrupted run goes on.

    Example: rfprm evaluate demo --model demo --limit 20
    """
    columns = {name.removesuffix("_column"): column for name, column in named.items() if column is not None}
    with reported_errors():
        hub = LoadOptions(cache_dir=cache_dir, local_files_only=local_files_only)
        loaded = read_sets(sets, hub, Reading(kind, columns, grader, limit, format))
        options = [
            (model, LoadOptions(name, device, threads, revision, cache_dir, local_files_only))
            for model in models
            for name in (variants.split(",") if variants else [None])
        ]
        own = "scores" in columns or not (models or score_files)
        choices = Choices(threshold, threshold_from, keep)
        try:
            judges = list(
                _judges(loaded.items, options, score_files, own=own, limit=limit, place=Place(output, restart))
            )
        except KeyboardInterrupt:
            recorded = "the same command goes on" if output else "nothing is recorded without -o"
            click.echo(f"stopped: {recorded}", err=True)
            sys.exit(STOPPED)
        report = _report([choices.results(judged) for judged in judges], loaded.known)
        if output is not None:
            _write(output, report)
        if as_json:
            click.echo(json.dumps(report.to_dict()))
        else:
            _show(report)
        if output is not None:
            click.echo(f"{output}: report.html, report.md, report.json, figures, rewards", err=True)
    if report.bad_rows:
        _tell_bad(report)
        sys.exit(DONE_BUT)


def _judges(
    sets: Sequence[Items],
    models: Sequence[tuple[str, LoadOptions]],
    score_files: Sequence[Path],
    *,
    own: bool,
    limit: int | None,
    place: Place,
) -> Iterator[list[Judged]]:
    """Each judge on all sets, one model in memory at a time."""
    for model, options in models:
        prm = PRM.load(model, options)
        yield [_judged(prm, items, place) for items in sets]
    for path in score_files:
        yield [with_scores_of(_scores_file(path, items, sets), items, judge=path.stem, limit=limit) for items in sets]
    if own:
        yield [_own_scores(items) for items in sets]


def _judged(prm: PRM, items: Items, place: Place) -> Judged:
    """A set with a model's rewards, with a bar on standard error where that is a terminal."""
    stderr = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        *(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()),
        console=stderr,
        disable=not stderr.is_terminal,
        speed_estimate_period=3600,
    )
    with place.ledger(items, prm) as ledger, bar:
        total = sum(len(item.candidates) for item in items.items)
        task = bar.add_task(f"{items.name}, {_judge_name(prm)}", total=total)
        return judge(prm, items, name=_judge_name(prm), ledger=ledger, progress=lambda done: bar.advance(task, done))


def _own_scores(items: Items) -> Judged:
    try:
        return with_own_scores(items)
    except InputError as error:
        raise InputError(f"{error}. Name a judge: --model, --scores, or --scores-column") from error


def _scores_file(path: Path, items: Items, sets: Sequence[Items]) -> Path:
    """The file of a set's scores: the one that was named, or the set's own in a folder."""
    if not path.is_dir():
        if len(sets) > 1:
            raise InputError(f"{path} is one file for {len(sets)} sets: give a folder that has a file for each")
        return path
    file = path / f"{_file_name(items.name)}.jsonl"
    if not file.is_file():
        raise InputError(f"{path} has no {file.name}, the scores of {items.name}")
    return file


def _report(results: Sequence[tuple[Result, ...]], known: Mapping[str, KnownSet]) -> Report:
    first, *others = results
    names: dict[str, tuple[Result, ...]] = {}
    for some in others:
        name = some[0].judged.judge
        names[name if name not in names and name != first[0].judged.judge else f"{name} ({len(names) + 2})"] = some
    return Report(first, names, known)


def _write(folder: Path, report: Report) -> None:
    texts = {
        "report.json": json.dumps(report.to_dict(), indent=1).encode(),
        "report.md": report.markdown().encode(),
        "report.html": page_of(report).encode(),
    }
    for result in report.results:
        for name, figure in figures_of(result):
            texts[f"figures/{_file_name(result.judged.items.name)}-{name}.svg"] = svg_text(figure)
    for results in (report.results, *report.others.values()):
        for result in results:
            judged = result.judged
            texts[f"rewards/{_file_name(judged.judge)}/{_file_name(judged.items.name)}.jsonl"] = _rewards(judged)
    for name, data in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced(path) as file:
            file.write(data)


def _rewards(judged: Judged) -> bytes:
    """A line for each row, as `--scores` reads them."""
    lines: dict[int, dict[str, object]] = {
        item.row: {"row": item.row, "step_rewards": [steps.tolist() for steps in some]}
        for item, some in zip(judged.items.items, judged.rewards, strict=True)
    }
    lines |= {bad.row: {"row": bad.row, "error": bad.error} for bad in judged.items.bad}
    return b"".join(msgspec.json.encode(lines[row]) + b"\n" for row in sorted(lines))


def _show(report: Report) -> None:
    out = console()
    for result in report.results:
        out.print(plain(f"{result.judged.items.name}: {result.judged.judge}"), style="bold")
        out.print(plain(reports.facts(result)), style="dim")
        for table in reports.tables(result):
            out.print(_table(table))
        out.print()
    for name, value in report.averages().items():
        out.print(plain(f"average over the parts of {name}: {value * 100:.1f}"))
    for table in report.published():
        out.print(_table(table))
    compared = report.comparisons()
    if compared:
        out.print(_table(reports.differences(compared)))
    if any(result.judged.items.kind == "pools" for result in report.results):
        out.print(plain(reports.TIES), style="dim")
    out.print(plain(reports.INTERVALS), style="dim")
    for one in compared:
        out.print(plain(one.sentence), style="bold")


def _table(table: reports.Table) -> Table:
    shown = Table(box=None, padding=(0, 1))
    for i, name in enumerate(table.columns):
        shown.add_column(plain(name), justify="right" if i else "left")
    for row in table.rows:
        shown.add_row(*(plain(cell) for cell in (row.name, *row.cells)))
    return shown


def _tell_bad(report: Report) -> None:
    for results in (report.results, *report.others.values()):
        for result in results:
            bad = result.judged.items.bad
            for one in bad[: reports.SHOWN_BAD]:
                click.echo(str(plain(f"{result.judged.items.name}, row {one.row}: {one.error}")), err=True)
            if len(bad) > reports.SHOWN_BAD:
                click.echo(f"{result.judged.items.name}: {len(bad) - reports.SHOWN_BAD} more bad rows", err=True)


def _judge_name(prm: PRM) -> str:
    return f"{prm.manifest.source.name} {prm.variant.name}"


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.")
