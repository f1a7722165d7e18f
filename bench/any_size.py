"""A checkpoint of a real shape, exported and scored with little memory: how much, and how long.

    python bench/any_size.py 7b

Makes random weights of that shape (7b: 15 GB), exports them by `rfprm-export --low-memory` and loads a variant, each in
a process of its own whose peak resident memory is read from Linux. Prints one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click

from models import RECIPE, checkpoint_of
from run import CACHE

STEPS = "The shop sells 3 pens for 4 dollars each. Together they cost 12 dollars."

SCORE = """
import sys, time
from pathlib import Path
from rfprm_lite import PRM
started = time.perf_counter()
prm = PRM.from_pretrained(sys.argv[1], variant=sys.argv[2], verify=False)
ready = time.perf_counter()
score = prm.score("How much are 3 pens?", steps=[sys.argv[3]] * 8)
print(ready - started, time.perf_counter() - ready, score.tokens.total, float(score.step_rewards[0]))
"""


@click.command()
@click.argument("model")
@click.option("--variants", default="int8,int4", show_default=True)
@click.option("--traces", default=24, show_default=True, help="For calibration and parity, as rfprm-export's.")
@click.option("--cache", type=click.Path(path_type=Path), default=CACHE)
@click.option("--layers", type=int, help="Of random weights, in place of the shape's own number.")
def main(model: str, variants: str, traces: int, cache: Path, layers: int | None) -> None:
    """Measure MODEL: a shape's name (0.5b, 1.5b, 7b) or a checkpoint's folder."""
    checkpoint = _made_apart(model, cache, layers)
    bundle = cache / "bundles" / f"{checkpoint.name}-low-memory"
    found: dict[str, Any] = {"model": model, "checkpoint_bytes": _bytes(checkpoint)}
    command = ["rfprm-export", str(checkpoint), str(bundle), "--recipe", RECIPE, "--variants", variants]
    if bundle.exists():
        click.echo(f"not exported again: {bundle} is there", err=True)
    else:
        found["export"], _ = measured([*command, "--low-memory", "--traces", str(traces)])
    for variant in variants.split(","):
        run, output = measured([sys.executable, "-c", SCORE, str(bundle), variant, STEPS])
        load, score, tokens, reward = output.split()
        run |= {"load_seconds": float(load), "score_seconds": float(score), "tokens": int(tokens)}
        run |= {"reward": float(reward), "weights_bytes": _bytes(bundle / variant)}
        found[variant] = run | {"memory_to_weights": run["peak_bytes"] / run["weights_bytes"]}
    click.echo(json.dumps(found, indent=2))


def _made_apart(model: str, cache: Path, layers: int | None) -> Path:
    """checkpoint_of in a process that ends: Linux counts what a process had in memory when it started another as that
    one's too."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        return apart.submit(checkpoint_of, model, cache, layers).result()


def measured(command: list[str]) -> tuple[dict[str, Any], str]:
    """Seconds and peak resident bytes of a process, and what it printed."""
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"{command[0]} ended with {process.returncode}")
    return {"seconds": time.perf_counter() - started, "peak_bytes": usage.ru_maxrss * 1024}, output


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
