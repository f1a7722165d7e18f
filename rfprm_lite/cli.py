"""The command `rfprm`. Reads input, calls the library, prints; nothing else."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TextIO, TypeVar

import click
from rich.console import Console
from rich.table import Table

from rfprm_lite import PRM, InputError, RfprmError, __version__
from rfprm_lite.bundle import DEMO
from rfprm_lite.doctor import examine
from rfprm_lite.rows import BestOfNRow, ScoreRow, read_rows
from rfprm_lite.view import best_of_n_view, plain, score_view, tokens_view

EXAMPLE = Path(__file__).parent / "models" / "example.json"
ROWS_A_CALL = 64

F = TypeVar("F", bound=Callable[..., None])


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="rfprm-lite")
def main() -> None:
    """Process reward models: reward every step of a reasoning trace."""


def model_options(command: F) -> F:
    """The options of every command that loads a model."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON lines in place of tables."),
        click.option("--threads", type=click.IntRange(min=1), help="Threads of one run."),
        click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."),
        click.option("--variant", help="Such as fp32; the bundle's default where not given."),
        click.option("--aggregate", help="mean, min, product, last or mean+final; the recipe's own where not given."),
        click.option(
            "--model", help="A bundle's folder, a hub id, or demo. Default: demo, grade-school arithmetic only."
        ),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("input", type=click.File("r", encoding="utf-8"), default="-")
@click.option("--problem", help="Take INPUT as one plain-text response to this problem.")
@model_options
def score(
    input: TextIO,
    problem: str | None,
    model: str | None,
    aggregate: str | None,
    variant: str | None,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Score the responses in INPUT: JSON lines with problem and response (text or a list of steps).

    Example: rfprm score traces.jsonl --model bundles/reasonflux-7b --json > scores.jsonl
    """
    with reported_errors():
        prm = PRM.from_pretrained(model, variant=variant, device=device, threads=threads)
        for number, row in _score_rows(input, problem):
            pairs = [(r.problem, r.response) for r in row]
            for i, result in enumerate(prm.score_many(pairs, aggregate=aggregate)):
                if as_json:
                    click.echo(json.dumps({"line": number[i], **result.to_dict()}, ensure_ascii=False))
                else:
                    console().print(score_view(result, f"response {number[i]}"), tokens_view(result.tokens), "")


@main.command("best-of-n")
@click.argument("inputs", type=click.File("r", encoding="utf-8"), nargs=-1)
@click.option("--problem", help="Take each of INPUTS as one plain-text candidate for this problem.")
@model_options
def best_of_n(
    inputs: tuple[TextIO, ...],
    problem: str | None,
    model: str | None,
    aggregate: str | None,
    variant: str | None,
    device: str,
    threads: int | None,
    as_json: bool,
) -> None:
    """Choose the best candidate for each problem in INPUTS: JSON lines with problem and candidates.

    Example: rfprm best-of-n --problem "What is 6 * 7?" answer1.txt answer2.txt
    """
    with reported_errors():
        prm = PRM.from_pretrained(model, variant=variant, device=device, threads=threads)
        for number, row in _best_of_n_rows(inputs or (sys.stdin,), problem):
            result = prm.best_of_n(row.problem, row.candidates, aggregate=aggregate)
            if as_json:
                click.echo(json.dumps({"line": number, **result.to_dict()}, ensure_ascii=False))
            else:
                console().print(best_of_n_view(result))


@main.command()
def demo() -> None:
    """Score a bundled problem with candidates, one of them subtly wrong."""
    with reported_errors():
        example = json.loads(EXAMPLE.read_text(encoding="utf-8"))
        prm = PRM.from_pretrained(DEMO)
        best = prm.best_of_n(example["problem"], example["candidates"])
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
    """Show versions, providers, CPU and cached models, and what is wrong. Exit code 1 where something is."""
    report = examine()
    if as_json:
        click.echo(json.dumps(report.to_dict()))
    else:
        table = Table(box=None, show_header=False)
        table.add_row("python", f"{report.python} on {report.platform}")
        for name, version in report.packages.items():
            table.add_row(name, version)
        table.add_row("providers", ", ".join(report.providers))
        table.add_row("logical CPUs", str(report.logical_cpus))
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
    except (RfprmError, UnicodeDecodeError) as error:
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        click.echo(f"error: {error}{notes}", err=True)
        sys.exit(1)


def _score_rows(input: TextIO, problem: str | None) -> Iterator[tuple[list[int], list[ScoreRow]]]:
    """Line numbers and rows, ROWS_A_CALL at a time."""
    if problem is not None:
        yield [1], [ScoreRow(problem, input.read())]
        return
    rows = read_rows(input, ScoreRow)
    while batch := list(islice(rows, ROWS_A_CALL)):
        yield [number for number, _ in batch], [row for _, row in batch]


def _best_of_n_rows(inputs: tuple[TextIO, ...], problem: str | None) -> Iterator[tuple[int, BestOfNRow]]:
    if problem is not None:
        yield 1, BestOfNRow(problem, [file.read() for file in inputs])
        return
    if len(inputs) > 1:
        raise InputError(f"{len(inputs)} files: without --problem, one file of JSON lines is read")
    yield from read_rows(inputs[0], BestOfNRow)
