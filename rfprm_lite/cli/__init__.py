"""The command `rfprm`. Its commands take input, call the library and print; nothing else."""

from __future__ import annotations

import io
import sys

import click

from rfprm_lite import __version__
from rfprm_lite.cli.best_of_n import best_of_n
from rfprm_lite.cli.demo import demo
from rfprm_lite.cli.doctor import doctor
from rfprm_lite.cli.evaluate import evaluate
from rfprm_lite.cli.filter import filter_traces
from rfprm_lite.cli.models import models
from rfprm_lite.cli.score import score
from rfprm_lite.cli.view import view


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, package_name="rfprm-lite")
def main() -> None:
    """Process reward models: reward every step of a reasoning trace.

    Exit codes: 0 done, 1 an error of the input, the model or the machine, 2 a wrong option, 3 done but for rows that
    could not be scored or evaluated.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console or pipe that knows few characters loses none
        sys.stdout.reconfigure(errors="backslashreplace")


for command in (best_of_n, demo, doctor, evaluate, filter_traces, models, score, view):
    main.add_command(command)
