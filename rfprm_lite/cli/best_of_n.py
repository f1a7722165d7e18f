"""The command `rfprm best-of-n`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import click
import msgspec

from rfprm_lite.cli.files import OnError, input_options
from rfprm_lite.cli.shared import DONE_BUT, Session, console, located, message_of, place_of, say, scores
from rfprm_lite.data.row import Row
from rfprm_lite.data.rows import PoolRow, Read, plain_text, read_text
from rfprm_lite.data.source import Source
from rfprm_lite.errors import InputError, MemoryLimitError, RfprmError
from rfprm_lite.results import BestOfN
from rfprm_lite.show.record import ScoreRecord
from rfprm_lite.show.terminal import best_of_n_view, plain, score_view


@click.command("best-of-n")
@input_options("problem", "candidates")
@click.option("--problem", help="Take each INPUT as one plain-text candidate, without its last line break.")
@click.option("--exhaustive", is_flag=True, help="Read all candidates to their ends, also those that can't win.")
@scores
def best_of_n(session: Session, source: Source, on_error: OnError, problem: str | None, exhaustive: bool) -> None:
    """Choose the best candidate for each problem in INPUT: rows with a problem and candidates.

    INPUT are files of JSON, CSV or Parquet, compressed or not, or -; with --problem, one text file a candidate. With
    --on-error skip, a candidate that can't be scored is the last of its row.

    Example: rfprm best-of-n --problem "What is 6 * 7?" answer1.txt answer2.txt
    """
    failed = 0
    for one in _rows(source, problem):
        result = _best(session, one, exhaustive, skip=on_error == "skip")
        failed += _show(session, one, result, rows=problem is None)
    if failed:
        sys.exit(DONE_BUT)


def _rows(source: Source, problem: str | None) -> Iterator[Read[PoolRow]]:
    if problem is not None:
        texts = [read_text(plain_text(path), source.reading) for path in source.names]
        yield Read(Row(1, {}), PoolRow(problem, texts))
        return
    source, rows, found = source.opened(pools=True)
    say(found)
    yield from source.pool_rows(rows)


def _best(session: Session, one: Read[PoolRow], exhaustive: bool, *, skip: bool) -> BestOfN | RfprmError:  # type: ignore[type-arg]
    try:
        if isinstance(one.typed, InputError):
            raise one.typed
        wrong = [(i, error) for i, error in enumerate(one.typed.candidates) if isinstance(error, InputError)]
        if wrong and not skip:
            raise _of_candidate(*wrong[0])
        return session.prm.best_of_n(
            one.typed.problem,
            one.typed.candidates,  # an error stands for what is no response
            aggregate=session.aggregate,
            exhaustive=exhaustive,
            on_error="return" if skip else "raise",
        )
    except (InputError, MemoryLimitError) as error:
        if skip:
            return error
        raise located(error, one.row) from None


def _of_candidate(i: int, error: InputError) -> InputError:
    error.add_note(f"candidate {i}")
    return error


def _show(session: Session, one: Read[PoolRow], result: BestOfN | RfprmError, *, rows: bool) -> int:  # type: ignore[type-arg]
    """Print a result; returns the number of rows or candidates that could not be scored."""
    problem = None if isinstance(one.typed, InputError) else one.typed.problem
    place = plain(one.row.place if rows else "", "bold")
    if isinstance(result, RfprmError):
        message = message_of(result, one.row)
        if session.as_json:
            click.echo(msgspec.json.encode({**place_of(one.row), "problem": problem, "error": message}))
        else:
            console().print(score_view(ScoreRecord(error=message), one.row.place), "")
        return 1
    errors = {i: error for i, error in enumerate(result.scores) if isinstance(error, RfprmError)}
    if session.as_json:
        click.echo(msgspec.json.encode({**place_of(one.row), "problem": problem, **result.to_dict()}))
    else:
        console().print(place, best_of_n_view(result.record()), "")
    for i, error in errors.items():
        say(f"{f'{one.row.place}, ' if rows else ''}candidate {i} could not be scored: {error}")
    return len(errors)
