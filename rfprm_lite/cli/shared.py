"""The parts that commands share: a PRM from options, errors as a line, standard output."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console

from rfprm_lite.aggregate import Aggregate, AggregateName
from rfprm_lite.data.row import Row
from rfprm_lite.data.rows import Read, ScoreRow
from rfprm_lite.errors import RfprmError
from rfprm_lite.options import LoadOptions, Truncate
from rfprm_lite.prm import PRM
from rfprm_lite.results import Score
from rfprm_lite.show.words import visible
from rfprm_lite.written.splitting import WHOLE

DONE_BUT = 3
"""Exit code where all is done, but some rows could not be scored, or none is kept."""
LONG_STEP = 400
"""Tokens of a step above which it is likely to be several."""
MANY = 0.2
"""The part of all traces above which long steps are spoken of."""


@dataclass(frozen=True, slots=True)
class Session:
    """The state of a command that scores.

    Attributes:
        prm: The loaded model.
        aggregate: What makes one reward of a trace's.
        as_json: Whether to print JSON in place of tables.
    """

    prm: PRM
    aggregate: Aggregate
    as_json: bool

    @property
    def reward_range(self) -> tuple[float, float]:
        """Lowest and highest reward that a trace can have; infinite where nothing bounds it."""
        return self.aggregate.range_over(self.prm.manifest.recipe.head.range)


class ModelName(click.types.StringParamType):
    """A bundle's folder, a hub id, or demo; where none is given, the error says so."""

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None = None) -> str:  # noqa: ARG002
        """The text of the error where no model is named."""
        return "A bundle's folder or a hub id is needed; --model demo is the bundled one, for grade-school arithmetic"


OPTIONS = (
    click.option("--model", type=ModelName(), required=True, help="A bundle's folder, a hub id, or demo."),
    click.option("--revision", help="Branch, tag or commit, where --model is a hub id."),
    click.option("--cache-dir", type=click.Path(path_type=Path), help="The hub's cache, in place of HF_HOME's."),
    click.option("--local-files-only", is_flag=True, help="Never touch the network."),
    click.option("--variant", help="Such as fp32; the bundle's default where not given."),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        help="Threads of one run; one a physical core that the process may use by default.",
    ),
    click.option("--aggregate", type=click.Choice(get_args(AggregateName)), help="The recipe's own where not given."),
    click.option("--alpha", type=float, help="Weight of the final reward in mean+final."),
    click.option("--final", type=click.Choice(["last", "response"]), help="What the final reward is."),
    click.option(
        "--truncate",
        type=click.Choice(get_args(Truncate)),
        help="What is done with a text that is too long; an error where not given.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print JSON lines in place of tables."),
)


def scores(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options above, and the Session that they describe as its first argument."""

    @functools.wraps(command)
    def run(model: str, aggregate: str | None, alpha: float | None, final: Any, as_json: bool, **others: Any) -> None:
        options = {field.name: others.pop(field.name) for field in fields(LoadOptions) if field.name in others}
        with reported_errors():
            prm = PRM.load(model, LoadOptions(**options))
            default = prm.manifest.recipe.aggregate
            name: Any = aggregate or default.name
            alpha = default.alpha if alpha is None else alpha
            chosen_aggregate = Aggregate(name, alpha, final or default.final, default.temperature)
            command(Session(prm, chosen_aggregate, as_json), **others)

    for option in reversed(OPTIONS):
        run = option(run)
    return run


def console() -> Console:
    """A console on standard output, as it is now: tests and pipes put others in its place."""
    return Console(file=sys.stdout, highlight=False)


@contextmanager
def reported_errors() -> Iterator[None]:
    """Report an error of ours, and that memory is short, as one line and exit code 1, not as a traceback."""
    try:
        yield
    except RfprmError as error:
        say(f"error: {error}{_notes(error)}")
        sys.exit(1)
    except MemoryError as error:
        say(f"error: memory is short: {str(error) or 'Python could not get any'}")
        sys.exit(1)


def say(text: str) -> None:
    """Print a line on standard error; nothing where it is empty."""
    if text:
        click.echo(visible(text), err=True)


def place_of(row: Row) -> dict[str, object]:
    """The line of a row, and its file where there are several, for JSON."""
    return {**({"file": row.file.name} if row.file.name else {}), "line": row.number}


def located(error: RfprmError, row: Row) -> RfprmError:
    """The error, which says where its row stands."""
    if row.place and row.place not in str(error):
        error.add_note(row.place)
    return error


def message_of(error: RfprmError, row: Row) -> str:
    """The message of a row's error, with its notes."""
    return f"{located(error, row)}{_notes(error)}"


def _notes(error: RfprmError) -> str:
    return "".join(f" ({note})" for note in getattr(error, "__notes__", ()))


@dataclass(slots=True)
class LongSteps:
    """Counts the traces that are one long step, which tells of steps that are separated in another way.

    Attributes:
        session: The model.
        traces: Traces that were seen.
        long: Those that are one step of more than LONG_STEP tokens.
    """

    session: Session
    traces: int = 0
    long: int = 0

    def add(self, one: Read[ScoreRow], result: Score | RfprmError) -> None:
        """Count a trace, if it has a score."""
        if isinstance(one.typed, ScoreRow) and isinstance(result, Score):
            self.traces += 1
            self.long += len(result.steps) == 1 and self.is_long(one.typed)

    def is_long(self, row: ScoreRow) -> bool:
        """Whether the one step of a trace is a long one."""
        if self.session.prm.manifest.recipe.split == WHOLE:
            return False
        count = self.session.prm.count_tokens
        return count(row.problem, row.response) - count(row.problem, steps=["."]) + 1 > LONG_STEP

    @property
    def in_words(self) -> str:
        """What to try, where it is more than MANY of all traces; else nothing."""
        return long_steps_in_words(self.long, self.traces)


def long_steps_in_words(long: int, traces: int) -> str:
    """What to try where many traces are one long step; else nothing."""
    if long <= MANY * traces:
        return ""
    return (
        f"{long} of {traces} traces are a single step of over {LONG_STEP} tokens: if their steps are not separated by "
        "blank lines, say by what, such as --step-separator lines or --step-separator '\\n'"
    )
