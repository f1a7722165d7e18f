"""What a race saves: the part of a generator's tokens that need not be written, on real pools of candidates.

    python bench/race.py

Candidates of 40 problems with real step rewards (tests/data/step_scores.json) are written again, in three orders:

- together: all grow by a step at a time;
- one first: the first is written to its end, then the others together;
- four at a time: as a generator with a batch of four writes them.

Whoever can't win any more is written no further. Prints a table and one JSON object.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from rfprm_lite.aggregate import Aggregate
from rfprm_lite.plan.usage import Usage
from rfprm_lite.results import Score
from rfprm_lite.scale import PROBABILITY
from rfprm_lite.scoring.race import Race

DATA = Path(__file__).parent.parent / "tests" / "data" / "step_scores.json"
AGGREGATES = ("min", "product", "mean", "last", "mean+final")
ORDERS = {"together": None, "one first": 1, "four at a time": 4}


class KnownTrace:
    """A live trace whose steps are their own rewards, written as text."""

    scale = PROBABILITY

    def __init__(self, aggregate: Aggregate) -> None:
        self.aggregate = aggregate
        self.steps: tuple[str, ...] = ()

    def fork(self) -> KnownTrace:
        return KnownTrace(self.aggregate)

    @property
    def step_rewards(self) -> tuple[float, ...]:
        return tuple(float(step) for step in self.steps)

    def score(self) -> Score:
        rewards = np.array(self.step_rewards, np.float32)
        final = float(rewards[-1])
        return Score(rewards, self.aggregate, (), Usage(0, 0), self.aggregate(rewards, final), final)

    @staticmethod
    def append_all(steps: dict[int, tuple[KnownTrace, str]], *, thinking: bool) -> dict[int, float]:  # noqa: ARG004
        for trace, step in steps.values():
            trace.steps += (step,)
        return {i: float(step) for i, (_, step) in steps.items()}


def written(pool: Sequence[dict[str, Any]], aggregate: Aggregate, batch: int | None) -> int:
    """Tokens that are written until the winner is known."""
    rewards = [candidate["scores"] for candidate in pool]
    race = Race(KnownTrace(aggregate), len(pool), aggregate, max(map(len, rewards)))  # type: ignore[arg-type]
    tokens = 0
    for i in turns(race, len(pool), batch):
        at = len(race.trace(i).steps)
        if at == len(rewards[i]):
            race.finish(i)
        else:
            tokens += pool[i]["tokens"][at]
            race.append(i, repr(float(np.float32(rewards[i][at]))))
    totals = [aggregate(np.array(own, np.float32), float(np.float32(own[-1]))) for own in rewards]
    if race.winner != int(np.argmax(totals)):
        raise ValueError(f"the race was won by {race.winner}, the highest reward is that of {int(np.argmax(totals))}")
    return tokens


def turns(race: Race, count: int, batch: int | None) -> Iterator[int]:
    """Whose step is written next. batch: so many at a time, the first one alone; None for all together."""
    waiting = list(range(count))
    running = [waiting.pop(0) for _ in range(batch or count)]
    while race.winner is None:
        for i in list(running):
            if race.winner is not None:
                return
            if i in race.alive and i not in race.scores:
                yield i
            if i in race.scores or i not in race.alive:
                running.remove(i)
                if batch == 1:  # the first is complete: all others together
                    running += waiting
                    waiting = []
                elif waiting:
                    running.append(waiting.pop(0))


@click.command()
def main() -> None:
    """Measure every aggregate in every order."""
    pools = [pool["candidates"] for pool in json.loads(DATA.read_text(encoding="utf-8"))["pools"]]
    everything = sum(sum(candidate["tokens"]) for pool in pools for candidate in pool)
    saved = {
        name: {
            order: 1 - sum(written(pool, Aggregate(name), batch) for pool in pools) / everything  # type: ignore[arg-type]
            for order, batch in ORDERS.items()
        }
        for name in AGGREGATES
    }
    table = Table("aggregate", *ORDERS, title=f"tokens saved of {everything}, {len(pools)} pools")
    for name, by_order in saved.items():
        table.add_row(name, *(f"{part:.0%}" for part in by_order.values()))
    Console().print(table)
    click.echo(json.dumps(saved))


if __name__ == "__main__":
    main()
