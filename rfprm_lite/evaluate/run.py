"""The evaluation of a judge on items. Wiring only."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rfprm_lite.errors import InputError
from rfprm_lite.evaluate import processbench
from rfprm_lite.evaluate.items import Item, Items, Kind
from rfprm_lite.evaluate.judged import judge
from rfprm_lite.evaluate.result import Result

if TYPE_CHECKING:
    from rfprm_lite.prm import PRM


def evaluate(
    prm: PRM, items: Items | Iterable[Item], *, kind: Kind | None = None, threshold: float | None = None
) -> Result:
    """How good a PRM is on items.

    Args:
        prm: The judge.
        items: A set, as `read` gives it; or items of yours.
        kind: What is asked of items of yours; told from what is known of them where None.
        threshold: The reward below which a step is taken for wrong; the PRM's own where None.

    Returns:
        The numbers, each with an interval of 95 %.

    Raises:
        InputError: If there are no items, or if what is asked can't be told.
    """
    if not isinstance(items, Items):
        found = tuple(items)
        items = Items("items", kind or _kind(found), found)
    if not items.items:
        raise InputError("there are no items to evaluate")
    return Result(judge(prm, items), threshold)


def with_threshold_of(results: Iterable[Result], chosen_on: str) -> list[Result]:
    """The same results with the threshold that does best on one of the sets; that one keeps its own.

    Args:
        results: Of one judge.
        chosen_on: The name of the set on which it is chosen.

    Raises:
        InputError: If there is no such set, or if none can be chosen on it.
    """
    all_results = list(results)
    chosen = next((one for one in all_results if one.judged.items.name == chosen_on), None)
    if chosen is None or chosen.judged.items.kind != "processbench":
        names = ", ".join(one.judged.items.name for one in all_results if one.judged.items.kind == "processbench")
        raise InputError(
            f"no threshold can be chosen on {chosen_on!r}: there are {names or 'no sets with first errors'}"
        )
    threshold = processbench.best_threshold(chosen.judged)
    return [one if one is chosen else Result(one.judged, threshold, chosen_on, one.keep) for one in all_results]


def _kind(items: tuple[Item, ...]) -> Kind:
    if all(len(item.candidates) == 1 and item.candidates[0].labels for item in items):
        return "steps" if any(_labelled_after_the_first_error(item) for item in items) else "processbench"
    if all(one.correct is not None for item in items for one in item.candidates):
        return "pools"
    raise InputError("what is asked of these items can't be told: give kind, and labels or correctness of every trace")


def _labelled_after_the_first_error(item: Item) -> bool:
    candidate = item.candidates[0]
    first = candidate.first_error
    return first is not None and any(label is not None for label in candidate.labels[first + 1 :])
