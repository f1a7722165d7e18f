"""What copying keys and values costs, against reading the weights: the number behind rfprm_lite.plan.packing.

    python bench/copying.py 0.5b

Times a run of 8 tokens, which takes as long as its weights take to be read, and copies of a long prefix into a lane.
Prints one JSON object.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

import click
import numpy as np

from models import prepare
from rfprm_lite.bundle.open import open_bundle
from rfprm_lite.options import LoadOptions
from rfprm_lite.plan import packing
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.ports import Chunk
from rfprm_lite.scoring.wiring import open_engine, packing_of
from run import CACHE

ROUNDS = 9
PAST = 4096


@click.command()
@click.argument("model")
@click.option("--variant", default="int8", show_default=True)
@click.option("--threads", default=2, show_default=True)
@click.option("--cache", type=click.Path(path_type=Path), default=CACHE)
def main(model: str, variant: str, threads: int, cache: Path) -> None:
    """Measure MODEL: a shape's name, or a bundle's folder."""
    bundle = open_bundle(prepare(model, cache).bundle, LoadOptions(variant=variant, verify=False))
    engine = open_engine(bundle, threads)
    ids, nothing = np.arange(8), np.zeros(0, np.int64)
    runs, copies = [], []
    block = engine.new_lanes(1, PAST).caches[0]
    block.advance(PAST)
    kept = block.keep(0, PAST)
    for _ in range(ROUNDS):
        lanes = engine.new_lanes(1, PAST + 8)  # fresh memory, as in a call
        started = time.perf_counter()
        lanes.caches[0].restore(kept, 0, PAST)
        copies.append(time.perf_counter() - started)
        lanes.caches[0].trim(0)
        started = time.perf_counter()
        engine.prefill(lanes, [Chunk(0, ids, nothing)], Cancellation())
        runs.append(time.perf_counter() - started)
    run, copy = statistics.median(runs), statistics.median(copies)
    predicted = packing_of(bundle.manifest, bundle.variant).run_tokens
    measured = PAST * run / copy
    found = {
        "run_seconds": run,
        "copy_seconds_a_token": copy / PAST,
        "run_tokens": measured,
        "predicted_run_tokens": predicted,
        "copy_cost": packing.COPY_COST * predicted / measured,
    }
    click.echo(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
