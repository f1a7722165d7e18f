"""The command `rfprm`. Its commands take input, call the library and print; nothing else."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import Any

import click

from rfprm_lite import __version__
from rfprm_lite.cli.best_of_n import best_of_n
from rfprm_lite.cli.demo import demo
from rfprm_lite.cli.doctor import doctor
from rfprm_lite.cli.evaluate import evaluate
from rfprm_lite.cli.filter import filter_traces
from rfprm_lite.cli.models import models
from rfprm_lite.cli.score import score
from rfprm_lite.cli.shared import say
from rfprm_lite.cli.view import view


def buffer_output() -> None:
    """Put a buffer before standard output where PYTHONUNBUFFERED took it away: Python drops what one write leaves over.

    On a disk that is nearly full a file takes half of a line, and no error comes. A buffer writes the rest, or fails.
    """
    out = sys.stdout
    if isinstance(out, io.TextIOWrapper) and isinstance(out.buffer, io.FileIO):
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(out.buffer), out.encoding, out.errors, line_buffering=True)


class Commands(click.Group):
    """A group whose standard output may be full: that is one line, as any other error."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command."""
        buffer_output()
        try:
            try:
                return super().main(*args, **options)
            finally:
                if sys.stdout is not None:  # closed by `>&-`
                    sys.stdout.flush()  # here, where what is wrong can still be told
        except OSError as error:
            if isinstance(sys.stdout, io.TextIOWrapper):
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python's own end writes it again
            if not isinstance(error, BrokenPipeError):  # whoever read, as `head`, has enough
                what = f"{error.filename} can't be used" if error.filename else "standard output can't be written"
                with suppress(OSError):
                    say(f"error: {what}: {error.strerror or error}")
            sys.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="rfprm-lite")
def main() -> None:
    """Process reward models: reward every step of a reasoning trace.

    Exit codes: 0 done, 1 an error of the input, the model or the machine, 2 a wrong option, 3 done but for rows that
    could not be scored or evaluated, or without a row that is kept.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console or pipe that knows few characters loses none
        sys.stdout.reconfigure(errors="backslashreplace")


for command in (best_of_n, demo, doctor, evaluate, filter_traces, models, score, view):
    main.add_command(command)
