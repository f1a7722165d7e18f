"""The command `rfprm`. Reads input, calls the library, prints; nothing else."""

from __future__ import annotations

import functools
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import click
from rich.console import Console
from rich.table import Table

from rfprm_lite import PRM, Aggregate, InputError, InputTypeError, RfprmError, Score, __version__
from rfprm_lite.bundle import DEMO
from rfprm_lite.doctor import examine
from rfprm_lite.rows import BestOfNRow, ScoreRow, batches, read_rows, read_text
from rfprm_lite.view import best_of_n_view, plain, score_view, tokens_view

EXAMPLE = Path(__file__).parent / "models" / "example.json"


@dataclass(frozen=True, slots=True)
class Session:
    """What every command that scores has: a loaded PRM, and how its rewards are made one and shown."""

    prm: PRM
    aggregate: Aggregate
    as_json: bool


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="rfprm-lite")
def main() -> None:
    """Process reward models: reward every step of a reasoning trace."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console or pipe that knows few characters loses none
        sys.stdout.reconfigure(errors="backslashreplace")


OPTIONS = (
    click.option("--model", help="A bundle's folder, a hub id, or demo. Default: demo, grade-school arithmetic only."),
    click.option("--revision", help="Branch, tag or commit, where --model is a hub id."),
    click.option("--cache-dir", type=click.Path(path_type=Path), help="The hub's cache, in place of HF_HOME's."),
    click.option("--local-files-only", is_flag=True, help="Never touch the network."),
    click.option("--variant", help="Such as fp32; the bundle's default where not given."),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."),
    click.option("--threads", type=click.IntRange(min=1), help="Threads of one run; one a physical core by default."),
    click.option("--aggregate", help="mean, min, product, last or mean+final; the recipe's own where not given."),
    click.option("--alpha", type=float, help="Weight of the final reward in mean+final."),
    click.option("--final", type=click.Choice(["last", "response"]), help="What the final reward is."),
    click.option("--json", "as_json", is_flag=True, help="Print JSON lines in place of tables."),
)


def scores(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options above, and the Session that they ask for as its first argument."""

    @functools.wraps(command)
    def run(
        model: str | None,
        aggregate: str | None,
        alpha: float | None,
        final: Any,
        as_json: bool,
        variant: str | None,
        device: str,
        threads: int | None,
        revision: str | None,
        cache_dir: Path | None,
        local_files_only: bool,
        **own: object,
    ) -> None:
        with reported_errors():
            prm = PRM.from_pretrained(
                model,
                variant=variant,
                device=device,
                threads=threads,
                revision=revision,
                cache_dir=cache_dir,
                local_files_only=local_files_only,
            )
            default = prm.manifest.recipe.aggregate
            name: Any = aggregate or default.name
            how = Aggregate(name, default.alpha if alpha is None else alpha, final or default.final)
            command(Session(prm, how, as_json), **own)

    for option in reversed(OPTIONS):
        run = option(run)
    return run


@main.command()
@click.argument("input", type=click.File("rb"), default="-")
@click.option("--problem", help="Take INPUT as one plain-text response to this problem, without its last line break.")
@scores
def score(session: Session, input: BinaryIO, problem: str | None) -> None:
    """Score the responses in INPUT: JSON lines with problem and response (text or a list of steps).

    Example: rfprm score traces.jsonl --model bundles/reasonflux-7b --json > scores.jsonl
    """
    rows = read_rows(input, ScoreRow) if problem is None else iter([(1, ScoreRow(problem, read_text(input)))])
    for batch in batches(rows):
        for number, result in _scored(session, batch):
            if session.as_json:
                click.echo(json.dumps({"line": number, **result.to_dict()}))
            else:
                console().print(score_view(result, f"response {number}"), tokens_view(result.tokens), "")


@main.command("best-of-n")
@click.argument("inputs", type=click.File("rb"), nargs=-1)
@click.option("--problem", help="Take each of INPUTS as one plain-text candidate, without its last line break.")
@click.option("--exhaustive", is_flag=True, help="Read all candidates to their ends, also those that can't win.")
@scores
def best_of_n(session: Session, inputs: Sequence[BinaryIO], problem: str | None, exhaustive: bool) -> None:
    """Choose the best candidate for each problem in INPUTS: JSON lines with problem and candidates.

    Example: rfprm best-of-n --problem "What is 6 * 7?" answer1.txt answer2.txt
    """
    for number, row in _best_of_n_rows(inputs or (sys.stdin.buffer,), problem):
        with line_number(number if problem is None else None):
            result = session.prm.best_of_n(
                row.problem, row.candidates, aggregate=session.aggregate, exhaustive=exhaustive
            )
        if session.as_json:
            click.echo(json.dumps({"line": number, **result.to_dict()}))
        else:
            console().print(f"[bold]line {number}[/bold]" if problem is None else "", best_of_n_view(result), "")


@main.command()
def demo() -> None:
    """Score a bundled problem with three candidates: one right, one with a wrong operation, one with a wrong result.

    Example: rfprm demo
    """
    with reported_errors():
        example = json.loads(EXAMPLE.read_text(encoding="utf-8"))
        prm = PRM.from_pretrained(DEMO)
        best = prm.best_of_n(example["problem"], example["candidates"], exhaustive=True)
        out = console()
        out.print("[bold]problem[/bold]", plain(example["problem"]), "")
        out.print(best_of_n_view(best))
        out.print(
            "[dim]The bundled demo model judges grade-school arithmetic only; it is not ReasonFlux-PRM. "
            "See rfprm-export for that.[/dim]"
        )


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(as_json: bool) -> None:
    """Show versions, providers, CPU and cached models, and what is wrong. Exit code 1 where something is.

    Example: rfprm doctor --json
    """
    report = examine()
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        table = Table(box=None, show_header=False)
        table.add_row("python", f"{report.python} on {report.platform}")
        for name, version in report.packages.items():
            table.add_row(name, version)
        table.add_row("providers", ", ".join(report.providers) or "none")
        table.add_row("threads", f"one a physical core by default, of {report.logical_cpus} logical ones")
        known = report.instructions
        table.add_row(
            "instructions", "not known on this system" if known is None else ", ".join(known) or "none of note"
        )
        table.add_row("cached models", ", ".join(report.cached_models) or "none")
        table.add_row("problems", "\n".join(report.problems) or "none found")
        console().print(table)
    if report.problems:
        sys.exit(1)


def console() -> Console:
    """Standard output, as it is now: tests and pipes put others in its place."""
    return Console(file=sys.stdout, highlight=False)


@contextmanager
def reported_errors() -> Iterator[None]:
    """An error of ours as one line and exit code 1, not a traceback."""
    try:
        yield
    except RfprmError as error:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        click.echo(f"error: {error}{notes}", err=True)
        sys.exit(1)


@contextmanager
def line_number(number: int | None) -> Iterator[None]:
    """Errors of a row say which line it stands on; None where the input has no rows."""
    try:
        yield
    except (InputError, InputTypeError) as error:
        if number is not None:
            error.add_note(f"line {number}")
        raise


def _scored(session: Session, batch: Sequence[tuple[int, ScoreRow]]) -> Iterator[tuple[int, Score]]:
    """Line number and score of each row; a bad row raises only when those before it have been yielded."""
    pairs = [(row.problem, row.response) for _, row in batch]
    try:
        results = session.prm.score_many(pairs, aggregate=session.aggregate)
    except (InputError, InputTypeError):
        for number, row in batch:
            with line_number(number):
                result = session.prm.score(row.problem, row.response, aggregate=session.aggregate)
            yield number, result
        return
    yield from zip((number for number, _ in batch), results, strict=True)


def _best_of_n_rows(inputs: Sequence[BinaryIO], problem: str | None) -> Iterator[tuple[int, BestOfNRow]]:
    if problem is not None:
        yield 1, BestOfNRow(problem, [read_text(file) for file in inputs])
        return
    if len(inputs) > 1:
        raise InputError(f"{len(inputs)} files: without --problem, one file of JSON lines is read")
    yield from read_rows(inputs[0], BestOfNRow)
