"""Step rewards of a set's traces: those that a PRM gives, or those that somebody has.

In: items, and a PRM or scores. Out: a `Judged`. With a ledger, a run that was stopped at any point goes on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.aggregate import Aggregate
from rfprm_lite.data.ledger import Key, Ledger, Scored
from rfprm_lite.data.selection import Selection
from rfprm_lite.data.tables import read_rows
from rfprm_lite.errors import InputError, RfprmError
from rfprm_lite.evaluate.items import Bad, Item, Items
from rfprm_lite.evaluate.statistics import units
from rfprm_lite.plan.usage import Usage
from rfprm_lite.scale import PROBABILITY, Scale
from rfprm_lite.trace import Problem, Response, Trace

if TYPE_CHECKING:
    from rfprm_lite.prm import PRM

Rewards = NDArray[np.float64]
Progress = Callable[[int], None]
"""Told how many traces were done since."""

RECORDED_TOGETHER = 64
"""Traces that are recorded as one batch: a killed run loses no more."""
CHECKED_TOGETHER = 512
"""Traces that are compared with their records at once."""
EVERYTHING = Selection(min_reward=-np.inf)
MEAN = Aggregate("mean")


@dataclass(frozen=True, slots=True)
class Cost:
    """What the rewards took.

    Attributes:
        tokens: Of all texts; computed or reused, as in `Usage`.
        seconds: That scoring took in this run.
        scored: Traces that this run scored; the others were recorded, or came with their scores.
    """

    tokens: Usage = field(default_factory=lambda: Usage(0, 0))
    seconds: float = 0.0
    scored: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A set with the step rewards of one judge.

    Attributes:
        judge: The judge's name.
        items: The set; its `bad` has also the rows that could not be judged.
        rewards: Of each item's candidates, float64 [num_steps] each.
        finals: Of each item's candidates, the final reward.
        aggregate: The judge's own way from step rewards to one; mean where nobody says.
        cost: What they took.
        scale: What a step's reward can be.
    """

    judge: str
    items: Items
    rewards: tuple[tuple[Rewards, ...], ...]
    finals: tuple[tuple[float, ...], ...]
    aggregate: Aggregate = MEAN
    cost: Cost = field(default_factory=Cost)
    scale: Scale = PROBABILITY

    @property
    def units(self) -> tuple[NDArray[np.intp], int]:
        """The problem of each item, by its index, and how many problems there are."""
        return units(item.problem if isinstance(item.problem, str) else str(item.problem) for item in self.items.items)

    def totals(self, aggregate: Aggregate) -> list[Rewards]:
        """The reward of each item's candidates by an aggregate."""
        pairs = zip(self.rewards, self.finals, strict=True)
        return [
            np.array([_total(aggregate, steps, final) for steps, final in zip(rewards, finals, strict=True)])
            for rewards, finals in pairs
        ]

    def only(self, rows: set[int]) -> Judged:
        """The same judge on these rows alone."""
        kept = [i for i, item in enumerate(self.items.items) if item.row in rows]
        items = replace(self.items, items=tuple(self.items.items[i] for i in kept))
        rewards, finals = tuple(self.rewards[i] for i in kept), tuple(self.finals[i] for i in kept)
        return replace(self, items=items, rewards=rewards, finals=finals)


def _total(aggregate: Aggregate, steps: Rewards, final: float) -> float:
    return aggregate(steps, final)  # type: ignore[arg-type]  # it computes in float64


def with_own_scores(items: Items, judge: str = "scores") -> Judged:
    """The set with the step scores that its rows have.

    Raises:
        InputError: If no row has any.
    """
    return _collected(judge, items, [[one.scores for one in item.candidates] for item in items.items])


def with_scores_of(path: Path, items: Items, *, judge: str | None = None, limit: int | None = None) -> Judged:
    """The set with the step scores of a file: a line for each row of the set.

    A line has `scores` or `step_rewards`: a list for the one trace of a row, or a list of lists, one a candidate. So
    do the lines that `rfprm score --json` and `rfprm evaluate -o` write. Lines with `row` belong to that row;
    otherwise they are in the order of the set's rows.

    Args:
        path: The file.
        items: The set.
        judge: What reports call the judge; the file's name where None.
        limit: The set was read up to so many rows, and further lines are of the others.

    Raises:
        InputError: If there is another number of lines than of rows, or if no line has scores that fit.
    """
    lines = [row.values for row in islice(read_rows([path]), limit)]
    rows = sorted([item.row for item in items.items] + [bad.row for bad in items.bad])
    own = [line.get("row") if isinstance(line, Mapping) else None for line in lines]
    if not all(isinstance(row, int) for row in own):
        if len(lines) != len(rows):
            raise InputError(f"{path} has {len(lines)} lines for {len(rows)} rows of {items.name}: one each is needed")
        own = list(rows)
    of_row = dict(zip(own, lines, strict=True))
    return _collected(judge or path.stem, items, [_scores_of(of_row.get(item.row)) for item in items.items])


def _scores_of(line: object) -> Sequence[Sequence[float] | None]:
    scores = line.get("scores", line.get("step_rewards")) if isinstance(line, Mapping) else None
    if not isinstance(scores, list) or not scores:
        return [None]
    return scores if isinstance(scores[0], list) else [scores]


def _collected(judge: str, items: Items, scores: Sequence[Sequence[Sequence[float] | None]]) -> Judged:
    """The items whose scores fit their traces; the others are bad."""
    good: list[Item] = []
    bad = list(items.bad)
    rewards: list[tuple[Rewards, ...]] = []
    for item, given in zip(items.items, scores, strict=True):
        wrong = _misfit(item, given)
        if wrong:
            bad.append(Bad(item.row, wrong))
            continue
        candidates = item.candidates[: len(given)] if items.kind == "prmbench" else item.candidates
        good.append(Item(item.row, item.problem, candidates, item.group, item.answer))
        rewards.append(tuple(np.array(steps, np.float64) for steps in given))
    if items.items and not good:
        raise InputError(f"no row of {items.name} has scores that fit it. Row {bad[-1].row}: {bad[-1].error}")
    finals = tuple(tuple(float(steps[-1]) for steps in some) for some in rewards)
    found = replace(items, items=tuple(good), bad=_ordered(bad))
    probabilities = all(bool(((steps >= 0) & (steps <= 1)).all()) for some in rewards for steps in some)
    scale = PROBABILITY if probabilities else Scale(-np.inf, np.inf, None)
    return Judged(judge, found, tuple(rewards), finals, scale=scale)


def _misfit(item: Item, given: Sequence[Sequence[float] | None]) -> str | None:
    """What is wrong with the scores of an item, in words."""
    pair = bool(item.group)  # of PRMBench: the scores of the original process may be missing
    if len(given) != len(item.candidates) and not (pair and len(given) == 1):
        return f"scores of {len(given)} traces for {len(item.candidates)} candidates: one list each is needed"
    for i, (one, steps) in enumerate(zip(item.candidates, given, strict=False)):
        if not isinstance(steps, Sequence) or not steps:
            return f"candidate {i} has no step scores"
        if not all(isinstance(score, int | float) and np.isfinite(score) for score in steps):
            return f"candidate {i}: step scores are finite numbers"
        if one.labels and len(steps) != len(one.labels):
            return f"candidate {i} has {len(steps)} step scores for {len(one.labels)} steps"
    return None


def judge(
    prm: PRM,
    items: Items,
    *,
    name: str | None = None,
    ledger: Ledger | None = None,
    progress: Progress = lambda _done: None,
) -> Judged:
    """Score every trace of a set.

    Args:
        prm: The judge.
        items: The set.
        name: What reports call the judge; its source and variant where None.
        ledger: Where rewards are recorded, and taken from; None for nowhere.
        progress: Told how many traces were done.

    Raises:
        LedgerError: If the ledger is of another set or judge.
    """
    found: list[Scored | RfprmError] = []
    scored, seconds = 0, 0.0
    recorded = {} if ledger is None else {entry.row: entry.scored for entry in ledger.entries(EVERYTHING)}
    rest = iter(enumerate(pair for item in items.items for pair in item.pairs))
    while chunk := list(islice(rest, CHECKED_TOGETHER)):
        known = _known(ledger, recorded, chunk)
        new = [(number, pair) for number, pair in chunk if number not in known]
        pairs = dict(new)
        progress(len(chunk) - len(new))
        started = time.perf_counter()
        for batch in _batches(_scores(prm, new)):
            seconds += time.perf_counter() - started
            scored += len(batch)
            known.update(batch)
            if ledger is not None:
                ledger.add(
                    [(number, Key.of(*_plain(pairs[number])), one) for number, one in batch if isinstance(one, Scored)]
                )
            progress(len(batch))
            started = time.perf_counter()
        found += [known[number] for number, _ in chunk]
    label = name or f"{prm.manifest.source.name} {prm.variant.name}"
    judged = _joined(label, items, found, prm.manifest.recipe.aggregate, Cost(Usage(0, 0), seconds, scored))
    return replace(judged, scale=prm.scale)


def _joined(label: str, items: Items, found: Sequence[Scored | RfprmError], aggregate: Aggregate, cost: Cost) -> Judged:
    good: list[Item] = []
    bad = list(items.bad)
    rewards, finals = [], []
    tokens = cost.tokens
    rest = iter(found)
    for item in items.items:
        scores = list(islice(rest, len(item.candidates)))
        whole = [one for one in scores if isinstance(one, Scored)]
        tokens = sum((one.tokens for one in whole), tokens)
        errors = [f"candidate {i}: {wrong}" for i, one in enumerate(scores) if (wrong := _wrong(one))]
        if errors:
            bad.append(Bad(item.row, errors[0]))
            continue
        good.append(item)
        rewards.append(tuple(one.step_rewards.astype(np.float64) for one in whole))
        finals.append(tuple(one.final for one in whole))
    judged = replace(items, items=tuple(good), bad=_ordered(bad))
    return Judged(label, judged, tuple(rewards), tuple(finals), aggregate, Cost(tokens, cost.seconds, cost.scored))


def _wrong(one: Scored | RfprmError) -> str:
    """What is wrong with the rewards of a trace, in words; empty if nothing is."""
    if isinstance(one, RfprmError):
        return str(one)
    return "" if np.isfinite(one.step_rewards).all() else "not every step has a reward"


def _ordered(bad: Iterable[Bad]) -> tuple[Bad, ...]:
    return tuple(sorted(bad, key=lambda one: one.row))


def _scores(
    prm: PRM, pairs: Sequence[tuple[int, tuple[Problem, Response]]]
) -> Iterator[tuple[int, Scored | RfprmError]]:
    results = prm.score_iter([pair for _, pair in pairs], on_error="return")
    for (number, _), one in zip(pairs, results, strict=True):
        if isinstance(one, RfprmError):
            yield number, one
        else:
            yield number, Scored(one.reward, one.final, one.step_rewards, one.tokens)


def _batches(results: Iterator[Any]) -> Iterator[list[Any]]:
    while batch := list(islice(results, RECORDED_TOGETHER)):
        yield batch


def _known(
    ledger: Ledger | None, recorded: Mapping[int, Scored], chunk: Sequence[tuple[int, tuple[Problem, Response]]]
) -> dict[int, Scored | RfprmError]:
    """The records of these traces that there are; an error where one is of another trace."""
    if ledger is None:
        return {}
    ledger.new({number: Key.of(*_plain(pair)) for number, pair in chunk})
    return {number: recorded[number] for number, _ in chunk if number in recorded}


def _plain(pair: tuple[Problem, Response]) -> tuple[object, object]:
    """A pair in types that JSON has."""
    problem, response = pair
    return problem, [step.text for step in response.steps] if isinstance(response, Trace) else response
