"""What lazy best-of-N saves on real candidates: tokens and seconds, against reading every candidate to its end.

    python bench/fidelity/lazy_best_of_n.py BUNDLE POOLS --variant int8

BUNDLE: of the checkpoint that make_prm.py made, so that rewards differ as a PRM's do. POOLS: see pools.py. Both ways by
turns, an empty cache before each; the choices must be the same. Prints a table and one JSON object.
"""

from __future__ import annotations

import gzip
import json
import statistics
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import track
from rich.table import Table

from rfprm_lite import PRM, BestOfN

CANDIDATES = 16
FILES = ("gsm8k_bon32_qwenprm.jsonl.gz", "math500_bon32_qwenprm.jsonl.gz")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--variant", default="int8", show_default=True)
@click.option("--problems", default=5, show_default=True, help="Of each file, evenly spread.")
@click.option("--aggregate", "aggregates", multiple=True, default=("min", "product", "mean", "mean+final"))
@click.option("--threads", default=2, show_default=True)
def main(bundle: Path, folder: Path, variant: str, problems: int, aggregates: tuple[str, ...], threads: int) -> None:
    """Measure it."""
    prm = PRM.from_pretrained(bundle, variant=variant, threads=threads, verify=False)
    found = [measure(prm, read(folder, problems), name) for name in aggregates]
    table = Table(*found[0])
    for row in found:
        table.add_row(*(value if isinstance(value, str) else f"{value:.2f}" for value in row.values()))
    Console().print(table)
    click.echo(json.dumps(found))


def read(folder: Path, problems: int) -> list[tuple[str, list[str]]]:
    """Problems with their candidates."""
    pools: list[tuple[str, list[str]]] = []
    for name in FILES:
        rows = [json.loads(line) for line in gzip.decompress((folder / name).read_bytes()).splitlines()]
        chosen = rows[:: len(rows) // problems][:problems]
        pools += [(row["question"], [c["response"] for c in row["candidates"][:CANDIDATES]]) for row in chosen]
    return pools


def measure(prm: PRM, pools: list[tuple[str, list[str]]], aggregate: str) -> dict[str, Any]:
    """speedup: of the seconds of all pools, and the median over pools. work: tokens computed, of those of reading
    all."""
    pairs = [
        [timed(prm, *pool, aggregate=aggregate, exhaustive=exhaustive) for exhaustive in (False, True)]
        for pool in track(pools, aggregate)
    ]
    for (lazy, _), (full, _) in pairs:
        if (lazy.index, lazy.score.reward) != (full.index, full.score.reward):
            raise click.ClickException(f"{aggregate}: lazy chose {lazy.index}, exhaustive {full.index}")
    return {
        "aggregate": aggregate,
        "speedup": sum(full for _, (_, full) in pairs) / sum(lazy for (_, lazy), _ in pairs),
        "median speedup": statistics.median(full / lazy for (_, lazy), (_, full) in pairs),
        "work": sum(lazy.tokens.computed for (lazy, _), _ in pairs) / sum(f.tokens.computed for _, (f, _) in pairs),
        "exhaustive seconds": sum(full for _, (_, full) in pairs),
    }


def timed(
    prm: PRM, problem: str, candidates: list[str], *, aggregate: str, exhaustive: bool
) -> tuple[BestOfN[str], float]:
    prm.clear_cache()
    started = time.perf_counter()
    best = prm.best_of_n(problem, candidates, aggregate=aggregate, exhaustive=exhaustive)
    return best, time.perf_counter() - started


if __name__ == "__main__":
    main()
