"""How little a variant changes the rewards, on real candidates: against the bundle's FP32 variant.

    python bench/fidelity/compare.py BUNDLE POOLS --variant int8

BUNDLE: of the checkpoint that make_prm.py made, so that activations are real and rewards mean something. POOLS: see
pools.py. Rewards are kept in the bundle's folder, a line a problem, so that an interrupted run goes on and the next
variant needs no FP32 again; remove them for other POOLS. Prints a table and one JSON object.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import pools
from numpy.typing import NDArray
from pools import Candidate
from rich.console import Console
from rich.progress import track
from rich.table import Table

from rfprm_lite.bundle import manifest as manifests
from rfprm_lite.bundle.open import open_bundle
from rfprm_lite.evaluate import agreement
from rfprm_lite.evaluate.agreement import Differences
from rfprm_lite.options import LoadOptions
from rfprm_lite.plan.call import Call
from rfprm_lite.scoring.wiring import open_engine

CANDIDATES = 16
BOUNDS = {"mean_difference": 0.01, "p99_difference": 0.05, "tau": 0.97, "same_choice": 0.97, "accuracy_change": 0.005}

Pools = list[list[Candidate]]
Rewards = list[list[NDArray[np.float32]]]


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.option("--variant", required=True)
@click.option("--problems", default=100, show_default=True, help="Of each file, from the first on.")
def main(bundle: Path, folder: Path, variant: str, problems: int) -> None:
    """Measure the variant."""
    read = list(pools.read(folder, bundle / "tokenizer.json", slice(0, problems), CANDIDATES))
    show(bundle, variant, read, rewards(bundle, variant, read))


def show(bundle: Path, variant: str, read: Pools, found: Rewards) -> None:
    """A table, and one JSON object, of how far what was found is from the bundle's FP32."""
    expected = rewards(bundle, "fp32", read)
    scheme = manifests.load(bundle / manifests.FILE_NAME).recipe.aggregate
    result = {"variant": variant, **compare(read, expected, found, lambda steps: scheme(steps, float(steps[-1])))}
    table = Table("measure", "value", "bound")
    for name, value in result.items():
        table.add_row(name, str(value) if isinstance(value, str | int) else f"{value:.4f}", str(BOUNDS.get(name, "")))
    Console().print(table)
    click.echo(json.dumps(result))


def compare(read: Pools, expected: Rewards, found: Rewards, total: Any) -> dict[str, Any]:
    """Differences of step rewards; agreement of candidates' rewards and of the choice, a problem at a time."""
    apart = Differences.of(
        np.concatenate([a - b for x, y in zip(expected, found, strict=True) for a, b in zip(x, y, strict=True)])
    )
    totals = [
        (np.array([total(s) for s in x]), np.array([total(s) for s in y])) for x, y in zip(expected, found, strict=True)
    ]
    correct = [np.array([c.correct for c in pool]) for pool in read]
    before = float(np.mean([c[np.argmax(a)] for c, (a, _) in zip(correct, totals, strict=True)]))
    after = float(np.mean([c[np.argmax(b)] for c, (_, b) in zip(correct, totals, strict=True)]))
    return {
        "problems": len(read),
        "steps": apart.rewards,
        "mean_difference": apart.mean,
        "p99_difference": apart.p99,
        "max_difference": apart.largest,
        "tau": agreement.tau(totals),
        "same_choice": agreement.same_choice(totals),
        "accuracy_fp32": before,
        "accuracy": after,
        "accuracy_change": abs(after - before),
        "accuracy_by_chance": float(np.mean([c.mean() for c in correct])),
    }


def rewards(bundle: Path, variant: str, read: Pools) -> Rewards:
    """Step rewards of every candidate of every pool, a pool a call. Those of earlier calls are not computed again."""
    kept = bundle / f"rewards-{variant}.jsonl"
    lines = kept.read_text(encoding="utf-8").splitlines() if kept.exists() else []
    if len(lines) < len(read):
        opened = open_bundle(bundle, LoadOptions(variant=variant, verify=False))
        engine = open_engine(opened, None)
        with kept.open("a", encoding="utf-8") as file:
            for pool in track(read[len(lines) :], variant):
                found = Call(engine).rewards([c.sequence for c in pool])
                lines.append(json.dumps([result.rewards.tolist() for result in found]))
                file.write(f"{lines[-1]}\n")
                file.flush()
    return [[np.array(steps, np.float32) for steps in json.loads(line)] for line in lines[: len(read)]]


if __name__ == "__main__":
    main()
