"""What the commands share: a PRM from options, errors as a line, standard output."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click
from rich.console import Console

from rfprm_lite.aggregate import Aggregate, AggregateName
from rfprm_lite.errors import InputError, RfprmError
from rfprm_lite.prm import PRM
from rfprm_lite.show.text import visible


@dataclass(frozen=True, slots=True)
class Model:
    """How a command opens its PRM. Plain data, so that another process can open the same."""

    model: str | None
    variant: str | None
    device: str
    threads: int | None
    revision: str | None
    cache_dir: Path | None
    local_files_only: bool

    def open(self) -> PRM:
        """Raises what `PRM.from_pretrained` raises."""
        return PRM.from_pretrained(
            self.model,
            variant=self.variant,
            device=self.device,
            threads=self.threads,
            revision=self.revision,
            cache_dir=self.cache_dir,
            local_files_only=self.local_files_only,
        )


@dataclass(frozen=True, slots=True)
class Session:
    """What every command that scores has: a PRM, and how its rewards are made one and shown."""

    model: Model
    prm: PRM
    aggregate: Aggregate
    as_json: bool


OPTIONS = (
    click.option("--model", help="A bundle's folder, a hub id, or demo. Default: demo, grade-school arithmetic only."),
    click.option("--revision", help="Branch, tag or commit, where --model is a hub id."),
    click.option("--cache-dir", type=click.Path(path_type=Path), help="The hub's cache, in place of HF_HOME's."),
    click.option("--local-files-only", is_flag=True, help="Never touch the network."),
    click.option("--variant", help="Such as fp32; the bundle's default where not given."),
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N."),
    click.option("--threads", type=click.IntRange(min=1), help="Threads of one run; one a physical core by default."),
    click.option("--aggregate", type=click.Choice(get_args(AggregateName)), help="The recipe's own where not given."),
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
            how_to_open = Model(model, variant, device, threads, revision, cache_dir, local_files_only)
            prm = how_to_open.open()
            default = prm.manifest.recipe.aggregate
            name: Any = aggregate or default.name
            how = Aggregate(name, default.alpha if alpha is None else alpha, final or default.final)
            command(Session(how_to_open, prm, how, as_json), **own)

    for option in reversed(OPTIONS):
        run = option(run)
    return run


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
        click.echo(visible(f"error: {error}{notes}"), err=True)
        sys.exit(1)


@contextmanager
def line_number(number: int | None) -> Iterator[None]:
    """Errors of a row say which line it stands on; None where the input has no rows."""
    try:
        yield
    except InputError as error:
        if number is not None:
            error.add_note(f"line {number}")
        raise
