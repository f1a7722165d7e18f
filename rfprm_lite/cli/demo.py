"""The command `rfprm demo`."""

from __future__ import annotations

import json
from importlib.resources import files

import click

from rfprm_lite.bundle.open import DEMO
from rfprm_lite.cli.shared import console, reported_errors
from rfprm_lite.prm import PRM
from rfprm_lite.show.terminal import best_of_n_view, plain
from rfprm_lite.trace import Trace

EXAMPLE = files("rfprm_lite") / "models" / "example.json"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def demo(as_json: bool) -> None:
    """Score a bundled problem with three candidates: one right, one with a wrong operation, one with a wrong result.

    Example: rfprm demo
    """
    with reported_errors():
        prm = PRM.from_pretrained(DEMO)
        problem, candidates = example()
        best = prm.best_of_n(problem, candidates, exhaustive=True)
        if as_json:
            click.echo(json.dumps({"problem": problem, **best.to_dict()}))
            return
        out = console()
        out.print("[bold]problem[/bold]", plain(problem), "")
        out.print(best_of_n_view(best.record()))
        out.print(
            "[dim]The bundled demo model judges grade-school arithmetic only; it is not ReasonFlux-PRM. "
            "See rfprm-export for that.[/dim]"
        )


def example() -> tuple[str, list[Trace]]:
    """The bundled problem and its candidates."""
    bundled = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    return bundled["problem"], [Trace.from_steps(steps) for steps in bundled["candidates"]]
