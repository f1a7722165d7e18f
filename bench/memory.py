"""The memory that a call takes, against what was told before it started.

    python bench/memory.py 0.5b 2048 8192 32768

For each length one trace, and best of 16 behind a prompt of 512 tokens: resident memory at most (as Linux has it) above
the loaded model, and what rfprm_lite.plan.budget predicts. Prints a table and one JSON object.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from contenders.rfprm import Rfprm
from models import prepare
from rfprm_lite.bundle.manifest import FILE_NAME, load
from rfprm_lite.plan.budget import DEFAULT_BUDGET, Footprint
from rfprm_lite.scoring.wiring import sizes_of
from run import CACHE
from worker import peak_bytes, reset_peak
from workloads import Workload, best_of_n, long_trace


@click.command()
@click.argument("model")
@click.argument("lengths", nargs=-1, type=int)
@click.option("--variant", default="int8", show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), default=CACHE)
def main(model: str, lengths: tuple[int, ...], variant: str, threads: int, cache: Path) -> None:
    """Measure MODEL (a shape's name, or a bundle's folder) at LENGTHS, in tokens."""
    paths = prepare(model, cache)
    manifest = load(Path(paths.bundle) / FILE_NAME)
    footprint = Footprint(sizes_of(manifest, manifest.variant(variant)), 1, 0, None)
    contender = Rfprm(variant, "call")
    contender.load(paths, threads)
    contender.score(long_trace(64).calls[0])
    base = resident_bytes()
    found = [measure(contender, long_trace(n), footprint.bytes(n, 1), base) for n in lengths]
    used = DEFAULT_BUDGET.chunk_tokens // 128  # lanes that such candidates fill
    found.append(measure(contender, best_of_n(16, 512, 128), footprint.bytes(640, used), base))
    table = Table("workload", "measured MB", "predicted MB", "predicted / measured", "seconds")
    for row in found:
        measured, predicted = row["measured"], row["predicted"]
        table.add_row(
            row["title"],
            *(f"{n / 1e6:.0f}" for n in (measured, predicted)),
            f"{predicted / measured:.2f}",
            f"{row['seconds']:.1f}",
        )
    Console().print(table)
    click.echo(json.dumps(found))


def measure(contender: Rfprm, workload: Workload, predicted: int, base: int) -> dict[str, Any]:
    reset_peak()
    started = time.perf_counter()
    for call in workload.calls:
        contender.score(call)
    seconds = time.perf_counter() - started
    peak = peak_bytes()
    if peak is None:
        raise click.ClickException("this system does not tell how much memory a process takes")
    return {"title": workload.title, "measured": peak - base, "predicted": predicted, "seconds": seconds}


def resident_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))


if __name__ == "__main__":
    main()
