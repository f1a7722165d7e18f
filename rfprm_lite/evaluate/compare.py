"""Two judges on the same items: differences with paired intervals, agreement, and the items on which they part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rfprm_lite.errors import InputError
from rfprm_lite.evaluate import agreement
from rfprm_lite.evaluate.agreement import Differences, Pools, Swaps
from rfprm_lite.evaluate.judged import Judged, Rewards
from rfprm_lite.evaluate.processbench import first_below
from rfprm_lite.evaluate.result import Result, headline, in_words
from rfprm_lite.evaluate.statistics import Estimate, Path, difference, estimate, nested


@dataclass(frozen=True, slots=True)
class Parted:
    """An item on which two judges part.

    Attributes:
        row: Its place in the file.
        one: What the first judge says: the candidate that it chooses, or the first wrong step that it finds, from 0.
        other: What the other says; None for no wrong step.
    """

    row: int
    one: int | None
    other: int | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """How one judge differs from another, the reference.

    Attributes:
        name: The set.
        one: The judge.
        other: The reference.
        rows: Items that both judged.
        differences: How much higher each number of the first judge is, with paired intervals.
        rewards: Absolute differences of step rewards; None where they have no steps in common.
        tau: Kendall's tau of the candidates' rewards, the mean over pools; None without pools.
        same_choice: The share of the pools in which both choose the same; None without pools.
        swaps: How often pairs are put in another order, by the distance that the reference's rewards have: candidates
            of a pool, else steps of a trace.
        parted: The items on which they part.
        headline: The place of the number that the sentence tells.
    """

    name: str
    one: str
    other: str
    rows: int
    differences: Mapping[Path, Estimate]
    rewards: Differences | None
    tau: float | None
    same_choice: float | None
    swaps: Sequence[Swaps]
    parted: Sequence[Parted]
    headline: Path

    @property
    def sentence(self) -> str:
        """What the first judge costs or gains against the other, in points of the headline."""
        found = self.differences.get(self.headline)
        what = in_words(self.headline)
        if found is None or found.value is None or found.half_width is None:
            return f"{self.name}: {self.one} and {self.other} can't be compared by {what}."
        verb = "costs" if found.value <= 0 else "gains"
        points = f"{abs(found.value) * 100:.1f} ± {found.half_width * 100:.1f} points of {what}"
        return f"{self.name}: {self.one} {verb} {points} against {self.other}."

    def to_dict(self) -> dict[str, Any]:
        """The comparison in types that JSON has."""
        return {
            "judge": self.one,
            "against": self.other,
            "rows": self.rows,
            "sentence": self.sentence,
            "differences": nested({path: one.value for path, one in self.differences.items()}),
            "intervals": nested({path: [one.low, one.high] for path, one in self.differences.items()}),
            "rewards": None if self.rewards is None else asdict(self.rewards),
            "tau": self.tau,
            "same_choice": self.same_choice,
            "swaps": [asdict(one) for one in self.swaps],
            "parted": [asdict(one) for one in self.parted],
        }


def compare(one: Result, other: Result) -> Comparison:
    """Compare two judges on the items that both judged; the other is the reference.

    Raises:
        InputError: If they judged other sets, or have no item in common.
    """
    a, b = one.judged, other.judged
    rows = {item.row for item in a.items.items} & {item.row for item in b.items.items}
    if a.items.name != b.items.name or a.items.kind != b.items.kind or not rows:
        raise InputError(f"{a.judge} and {b.judge} have no items in common: {a.items.name} and {b.items.name}")
    a, b = a.only(rows), b.only(rows)
    problems = a.units[1]
    first, second = one.statistics_of(a), other.statistics_of(b)
    differences = {
        path: estimate(difference(statistic, second[path]), problems)
        for path, statistic in first.items()
        if path in second
    }
    pools = _pools(a, b)
    return Comparison(
        name=a.items.name,
        one=a.judge,
        other=b.judge,
        rows=len(rows),
        differences=differences,
        rewards=_differences(a, b),
        tau=agreement.tau(pools) if a.items.kind == "pools" else None,
        same_choice=agreement.same_choice(pools) if a.items.kind == "pools" else None,
        swaps=agreement.swaps(pools),
        parted=_parted(one, a, other, b, pools),
        headline=headline(a),
    )


def _differences(a: Judged, b: Judged) -> Differences | None:
    found = [
        steps - others
        for some, rest in zip(a.rewards, b.rewards, strict=True)
        for steps, others in zip(some, rest, strict=False)
        if len(steps) == len(others)
    ]
    return Differences.of(np.concatenate(found)) if found else None


def _pools(a: Judged, b: Judged) -> Pools:
    """What is put in order: the candidates of each pool, else the steps of each trace; the reference comes first."""
    if a.items.kind == "pools":
        return list(zip(b.totals(b.aggregate), a.totals(a.aggregate), strict=True))
    return [
        (others, steps)
        for some, rest in zip(a.rewards, b.rewards, strict=True)
        for steps, others in zip(some, rest, strict=False)
        if len(steps) == len(others)
    ]


def _parted(one: Result, a: Judged, other: Result, b: Judged, pools: Pools) -> list[Parted]:
    rows = [item.row for item in a.items.items]
    if a.items.kind == "pools":
        return [
            Parted(row, int(np.argmax(mine)), int(np.argmax(reference)))
            for row, (reference, mine) in zip(rows, pools, strict=True)
            if not agreement.is_same_choice(reference, mine)
        ]
    firsts = zip(rows, _found(a.rewards, one.threshold), _found(b.rewards, other.threshold), strict=True)
    return [Parted(*found) for found in firsts if found[1] != found[2]]


def _found(rewards: Sequence[Sequence[Rewards]], threshold: float | None) -> list[int | None]:
    """The first wrong step that a judge finds in each item's trace."""
    return [None if threshold is None else first_below(steps, threshold) for steps, *_ in rewards]
