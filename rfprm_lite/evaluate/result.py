"""What a judge is worth on a set: its numbers, with intervals and with what they took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from rfprm_lite.evaluate import best_of_n, prmbench, processbench, steps
from rfprm_lite.evaluate.judged import Judged
from rfprm_lite.evaluate.statistics import Estimate, Path, Statistics, estimate, nested
from rfprm_lite.evaluate.steps import LabelledSteps

_OF_KIND: dict[str, Callable[[Judged, float | None], Statistics]] = {
    "processbench": processbench.statistics,
    "prmbench": prmbench.statistics,
    "pools": lambda judged, _threshold: best_of_n.statistics(judged),
    "steps": lambda _judged, _threshold: {},
}
"""The numbers of each kind, besides those of labelled steps."""


@dataclass(frozen=True)
class Result:
    """A judge's numbers on one set.

    Attributes:
        judged: The set, with the judge's rewards.
        given: The reward below which a step is taken for wrong; None for the judge's own.
        chosen_on: The set on which the threshold was chosen; None where it was given.
        keep: The share of right steps that a threshold is looked for to keep.
    """

    judged: Judged
    given: float | None = None
    chosen_on: str | None = None
    keep: float = steps.KEPT

    @property
    def threshold(self) -> float | None:
        """The reward below which a step is taken for wrong; None where nobody says, and there is no F1 then."""
        return self.judged.scale.good_above if self.given is None else self.given

    @cached_property
    def numbers(self) -> Mapping[Path, Estimate]:
        """Every number by its place, such as ("processbench", "f1"), with its interval."""
        problems = self.judged.units[1]
        return {path: estimate(one, problems) for path, one in self.statistics_of(self.judged).items()}

    @cached_property
    def labelled(self) -> LabelledSteps:
        """The steps whose labels are known."""
        return LabelledSteps.of(self.judged)

    def statistics_of(self, judged: Judged) -> Statistics:
        """The statistics of these rewards, by this result's threshold."""
        labelled = LabelledSteps.of(judged)
        own = _OF_KIND[judged.items.kind](judged, self.threshold)
        return {**own, **(steps.statistics(labelled) if len(labelled.rewards) else {})}

    @property
    def headline(self) -> Path:
        """The place of the number that stands for all."""
        return headline(self.judged)

    def value(self, *path: str) -> float | None:
        """The number at a place; None where there is none."""
        found = self.numbers.get(path)
        return None if found is None else found.value

    def to_dict(self) -> dict[str, Any]:
        """The result in types that JSON has."""
        judged, cost = self.judged, self.judged.cost
        about: dict[str, Any] = {
            "kind": judged.items.kind,
            "source": judged.items.source,
            "judge": judged.judge,
            "rows": len(judged.items.items),
            "problems": judged.units[1],
            "traces": sum(len(item.candidates) for item in judged.items.items),
            "bad_rows": [asdict(bad) for bad in judged.items.bad],
            "threshold": self.threshold,
            "threshold_chosen_on": self.chosen_on,
            "tokens": cost.tokens.to_dict(),
            "seconds": cost.seconds,
            "traces_scored_now": cost.scored,
        }
        found = nested({path: one.value for path, one in self.numbers.items()})
        found["intervals"] = nested({path: [one.low, one.high] for path, one in self.numbers.items()})
        if len(self.labelled.rewards):
            found["keeping"] = steps.keeping(self.labelled, self.keep)
            found["reliability"] = [asdict(one) for one in steps.reliability(self.labelled)]
        if judged.items.kind == "pools":
            found["aggregate"] = str(judged.aggregate)
            found["vote_draws"] = best_of_n.DRAWS
            found["tied_for_best"] = {
                one.name: best_of_n.tied(judged.totals(one)) for one in best_of_n.aggregates(judged.aggregate)
            }
        return {**about, **found}


def in_words(path: Path) -> str:
    """What a headline is called in a sentence."""
    if path[0] == best_of_n.BEST_OF_N:
        return f"best of {path[1]} by {path[2]}"
    return {"f1": "F1", "score": "PRMScore", "auc": "AUC"}[path[1]]


def headline(judged: Judged) -> Path:
    """The place of the number that stands for a set: best of all candidates by the judge's own aggregate, for pools."""
    if judged.items.kind == "pools":
        most = max((len(item.candidates) for item in judged.items.items), default=0)
        return (best_of_n.BEST_OF_N, str(most), judged.aggregate.name)
    return {"processbench": ("processbench", "f1"), "prmbench": ("prmbench", "score")}.get(
        judged.items.kind, ("steps", "auc")
    )
