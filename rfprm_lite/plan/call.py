"""One call's hold on an engine: lanes, a store of prefixes, limits, and the request to end it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic

from rfprm_lite.errors import MemoryLimitError
from rfprm_lite.plan.budget import DEFAULT_BUDGET, RunBudget
from rfprm_lite.plan.cache import PrefixCache, Store
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.packing import ALWAYS, Packing
from rfprm_lite.plan.ports import L, Prefill
from rfprm_lite.plan.schedule import Lane, Schedule
from rfprm_lite.plan.sequence import SequenceRewards, TokenSequence
from rfprm_lite.plan.tree import plan

GROWTH = 2
"""Lanes that have become too short are replaced by lanes of so many times their length: text that grows is copied a
bounded number of times."""

Admit = Callable[[int], int]
"""Given the tokens of the longest sequence: how many lanes may be used. Raises MemoryLimitError if not one may."""


class Call(Generic[L]):
    """Gives rewards for sequences, every shared prefix computed once and none that the store has.

    Lanes live as long as the call: a later `rewards` finds in them what an earlier one computed. One thread at a time
    may use it.

    Args:
        engine: What computes.
        store: The prefix cache or a lease on it; nothing is kept where None.
        admit: Asked at every `rewards`, before anything is computed; None for as many lanes as the engine has.
        packing: When a further lane pays.
        budget: The most that one run computes.
        cancel: Ends the call from another thread.
        capacity: Tokens that each lane has room for from the beginning, where it is known.
    """

    def __init__(
        self,
        engine: Prefill[L],
        store: Store[Any] | None = None,
        *,
        admit: Admit | None = None,
        packing: Packing = ALWAYS,
        budget: RunBudget = DEFAULT_BUDGET,
        cancel: Cancellation | None = None,
        capacity: int = 0,
    ) -> None:
        self._engine = engine
        self._store: Store[Any] = PrefixCache(0, _never_split) if store is None else store
        self._admit: Admit = (lambda _longest: engine.max_lanes) if admit is None else admit
        self._packing = packing
        self._budget = budget
        self._cancel = cancel or Cancellation()
        self._capacity = capacity
        self._opened: L | None = None
        self._lanes: list[Lane[Any]] = []

    @property
    def lane_tokens(self) -> int:
        """Tokens that all lanes have room for."""
        return len(self._lanes) * self._capacity

    def rewards(self, sequences: Sequence[TokenSequence]) -> list[SequenceRewards]:
        """The rewards at the read-outs of each sequence, and the tokens that were computed for it.

        Raises:
            MemoryLimitError: If it would take too much memory. Nothing was computed.
            StoppedError: If the call was cancelled. The store has what was computed until then.
            NumericalError: If a reward is no number.
            EngineError: If the engine failed.
        """
        tree = plan(sequences)
        admitted = self._admit(tree.capacity)
        schedule: Schedule[Any] = Schedule(tree, sequences, self._store, self._budget)
        if schedule.num_open:
            opened = self._open(min(admitted, self._engine.max_lanes, schedule.num_open), tree.capacity)
            schedule.start(self._lanes[:admitted], self._packing)
            while run := schedule.next_run():
                self._cancel.check()
                schedule.collect(self._engine.prefill(opened, run, self._cancel))
        return schedule.results()

    def _open(self, count: int, capacity: int) -> L:
        """Lanes, at least `count` with room for `capacity` tokens: those that there are, or new ones in their place."""
        if self._opened is None or count > len(self._lanes) or capacity > self._capacity:
            if self._lanes and capacity > self._capacity:
                capacity = self._roomy(count, capacity)
            self._capacity = max(capacity, self._capacity)
            self._lanes, self._opened = [], None  # let go of before there are others
            self._opened = self._engine.new_lanes(count, self._capacity)
            self._lanes = [Lane(i, cache) for i, cache in enumerate(self._opened.caches)]
        return self._opened

    def _roomy(self, count: int, capacity: int) -> int:
        """A capacity beyond what is needed now, if memory allows as many lanes of it."""
        roomy = max(capacity, GROWTH * self._capacity)
        try:
            return roomy if self._admit(roomy) >= count else capacity
        except MemoryLimitError:
            return capacity


def _never_split(_block: Any, _tokens: int) -> tuple[Any, Any]:
    raise AssertionError("a cache without capacity keeps no block")
