"""The command `rfprm filter`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from rfprm_lite.cli.files import OnError, input_options
from rfprm_lite.cli.shared import DONE_BUT, LongSteps, Session, console, long_steps_in_words, say, scores
from rfprm_lite.data import filtering
from rfprm_lite.data.filtering import Outputs, Summary
from rfprm_lite.data.ledger import Ledger, Scored
from rfprm_lite.data.selection import Selection
from rfprm_lite.data.source import Source
from rfprm_lite.data.spool import spooled
from rfprm_lite.errors import InputError, RfprmError
from rfprm_lite.show.terminal import plain
from rfprm_lite.trace import Problem, Response

STOPPED = 130
"""Exit code after an interrupt, as shells have it: 128 + SIGINT."""
FILE = click.Path(path_type=Path, dir_okay=False)


def require_top(_context: click.Context, _option: click.Parameter, top: str | None) -> str | None:
    """Check the value of --top before a model is loaded.

    Raises:
        click.BadParameter: If it makes no sense.
    """
    try:
        Selection.of(top, 0.0, None)
    except InputError as error:
        raise click.BadParameter(str(error)) from error
    return top


@click.command("filter")
@input_options("problem", "response", "thinking", "steps", "messages", on_error="skip", required=True)
@click.option("-o", "--output", type=FILE, required=True, help="Where the kept rows go: .jsonl, .csv or .parquet.")
@click.option("--top", callback=require_top, help="Keep the best so many traces, 500, or such a part of them, 10%.")
@click.option("--min-reward", type=float, help="Keep traces with at least this reward.")
@click.option("--per-problem", type=click.IntRange(min=1), help="Keep at most so many traces of a problem, the best.")
@click.option("--rewards", type=FILE, help="Also write every row, kept or not, with its rewards here.")
@click.option("--ledger", type=FILE, help="What is scored is recorded here; OUTPUT.ledger where not given.")
@click.option("--restart", is_flag=True, help="Forget what an earlier run has scored.")
@scores
def filter_traces(
    session: Session,
    source: Source,
    on_error: OnError,
    output: Path,
    top: str | None,
    min_reward: float | None,
    per_problem: int | None,
    rewards: Path | None,
    ledger: Path | None,
    restart: bool,
) -> None:
    """Score the traces in INPUT and keep the best: rows with a problem and a response.

    INPUT is JSON, CSV or Parquet by the end of its name, compressed or not; a folder or pattern of them; or -. The
    columns of well-known data sets are found; the options name others.

    A trace's reward is its aggregate's: the paper's mean of step rewards + alpha * final for ReasonFlux-PRM-7B. Of
    --per-problem, --min-reward and --top each narrows what the one before left. Rows keep their order and columns.

    What is scored is recorded in OUTPUT.ledger as it comes: interrupted or killed, the same command goes on from there,
    and another selection costs no scoring. Rows that can't be scored go to OUTPUT.aside.jsonl, and the exit code is 3.

    Example: rfprm filter traces.jsonl --model bundles/reasonflux-7b --top 10% --per-problem 1 -o kept.parquet
    """
    selection = Selection.of(top, min_reward, per_problem)
    outputs = Outputs(output, rewards)
    filtering.check(source, outputs)
    with spooled(source, output, restart=restart) as spool:
        found, rows, words = spool.source.opened()
        del rows
        say(words)
        outputs = filtering.prepare(found, outputs)
        recorded = ledger or output.with_name(f"{output.name}.ledger")
        with closing(Ledger(recorded, _job(session, found), restart=restart)) as record:
            found = replace(spool.keep(), columns=found.columns)
            try:
                _score(outputs, filtering.score_rows(found, _score_all(session), record, skip=on_error == "skip"))
            except KeyboardInterrupt:
                say(f"stopped: the same command goes on behind {record.totals().rows} recorded rows")
                sys.exit(STOPPED)
            is_long = LongSteps(session).is_long
            summary = filtering.write(found, outputs, record, selection, session.reward_range, is_long)
    if session.as_json:
        click.echo(json.dumps(summary.to_dict()))
    else:
        console().print(summary.histogram.view(), _summary(summary, outputs))
    if selection.keeps_all:
        say("every row is kept: --top 10%, --top 500, --min-reward 0.7 or --per-problem 1 select")
    say(long_steps_in_words(summary.long_steps, summary.scored))
    if not summary.kept:
        say(f"no row is kept: {outputs.kept} is empty")
    if summary.aside or not summary.kept:
        sys.exit(DONE_BUT)


def _score_all(session: Session) -> filtering.ScoreAll:

    def score_all(pairs: Sequence[tuple[Problem, Response]]) -> Iterator[Scored | RfprmError]:
        for score in session.prm.score_iter(pairs, aggregate=session.aggregate, on_error="return"):
            if isinstance(score, RfprmError):
                yield score
            else:
                yield Scored(score.reward, score.final, score.step_rewards, score.tokens)

    return score_all


def _job(session: Session, source: Source) -> dict[str, str]:
    """All that the rewards depend on, in words; see `Ledger`."""
    manifest, variant = session.prm.manifest, session.prm.variant
    return {
        "model": f"{manifest.source.name} {variant.name}",
        "weights": " ".join(file.sha256 for file in variant.files),
        "recipe": manifest.recipe.name,
        "aggregate": session.aggregate.name,
        "alpha": repr(float(session.aggregate.alpha)),
        "final": session.aggregate.final,
        "columns": source.columns.in_words(),
        "steps": repr(source.reading),
    }


def _score(outputs: Outputs, run: Iterator[filtering.Progress]) -> None:
    """Score all rows, with a bar on standard error where that is a terminal."""
    stderr = Console(stderr=True)
    bar = Progress(
        TextColumn("scoring"),
        *(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn()),
        TextColumn("{task.fields[aside]}"),
        console=stderr,
        disable=not stderr.is_terminal,
        speed_estimate_period=3600,
    )
    with bar:
        task = bar.add_task("", total=outputs.rows, aside="")
        for progress in run:
            aside = f"{progress.aside} could not be scored" if progress.aside else ""
            bar.update(task, completed=progress.rows, aside=aside)


def _summary(summary: Summary, outputs: Outputs) -> Table:
    table = Table(box=None, show_header=False)
    table.add_row("kept", plain(f"{summary.kept} of {summary.scored} traces, in {outputs.kept}"))
    if summary.lowest_kept is not None:
        table.add_row("rewards kept", f"{summary.lowest_kept:.3f} and more, {summary.mean_kept:.3f} on average")
        table.add_row("rewards of all", f"{summary.mean_reward:.3f} on average")
    if summary.tokens:
        saved = 1 - summary.computed / summary.tokens
        table.add_row("tokens", f"{summary.tokens}, of which {saved:.0%} were shared and not computed")
    if summary.aside:
        table.add_row("not scored", plain(f"{summary.aside}, with what is wrong in {outputs.aside}"))
    return table
