"""One call's hold on an engine: lanes, a store of prefixes, limits, and the request to end it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol

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


class Admission(Protocol):
    """The memory that a call may take."""

    def lanes(self, longest: int, most: int) -> int:
        """How many lanes may be used, up to `most`, with room for `longest` tokens each. Pins are lifted for one.

        Raises:
            MemoryLimitError: If not one may.
        """

    def grows(self, longest: int, lanes: int) -> bool:
        """Whether so many lanes may be as long without lifting a pin. If so, the room is theirs."""


class Unlimited:
    """Memory for everything."""

    def lanes(self, longest: int, most: int) -> int:  # noqa: ARG002
        """All."""
        return most

    def grows(self, longest: int, lanes: int) -> bool:  # noqa: ARG002
        """Always True."""
        return True


@dataclass(frozen=True, slots=True)
class HeldLanes(Generic[L]):
    """Lanes with all that is known of them.

    Attributes:
        opened: The engine's.
        lanes: What each holds.
        capacity: Tokens that each has room for.
    """

    opened: L
    lanes: Sequence[Lane[Any]]
    capacity: int


UNLIMITED: Final = Unlimited()


class Call(Generic[L]):
    """Gives rewards for sequences, every shared prefix computed once and none that the store has.

    Lanes live as long as the call, or longer if another goes on with them: a later `rewards` finds in them what an
    earlier one computed. One thread at a time may use it.

    Args:
        engine: What computes.
        store: The prefix cache or a lease on it; nothing is kept where None.
        admission: Asked at every `rewards`, before anything is computed.
        packing: When a further lane pays.
        budget: The most that one run computes.
        cancel: Ends the call from another thread.
        capacity: Tokens that each lane has room for from the beginning, where it is known.

    Attributes:
        held: The lanes, once there are any. Another call may go on with them.
    """

    def __init__(
        self,
        engine: Prefill[L],
        store: Store[Any] | None = None,
        *,
        admission: Admission = UNLIMITED,
        packing: Packing = ALWAYS,
        budget: RunBudget = DEFAULT_BUDGET,
        cancel: Cancellation | None = None,
        capacity: int = 0,
    ) -> None:
        self.held: HeldLanes[L] | None = None
        self._engine = engine
        self._store: Store[Any] = PrefixCache(0, _never_split) if store is None else store
        self._admission = admission
        self._packing = packing
        self._budget = budget
        self._cancel = cancel or Cancellation()
        self._least_capacity = capacity

    def rewards(self, sequences: Sequence[TokenSequence]) -> list[SequenceRewards]:
        """The rewards at the read-outs of each sequence, and the tokens that were computed for it.

        Raises:
            MemoryLimitError: If it would take too much memory. Nothing was computed.
            StoppedError: If the call was cancelled. The store has what was computed until then.
            NumericalError: If a reward is no number.
            EngineError: If the engine failed.
        """
        tree = plan(sequences)
        useful = max(1, len(tree.segments), 0 if self.held is None else len(self.held.lanes))
        longest = max(tree.capacity, self._capacity)
        admitted = self._admission.lanes(longest, min(useful, self._engine.max_lanes))
        schedule: Schedule[Any] = Schedule(tree, sequences, self._store, self._budget)
        if schedule.num_open:
            held = self._open(min(admitted, schedule.num_open), admitted, tree.capacity)
            schedule.start(held.lanes, self._packing)
            while run := schedule.next_run():
                self._cancel.check()
                schedule.collect(self._engine.prefill(held.opened, run, self._cancel))
        return schedule.results()

    @property
    def _capacity(self) -> int:
        """Tokens that a lane has room for now, or will have at least."""
        return self._least_capacity if self.held is None else self.held.capacity

    def _open(self, least: int, most: int, capacity: int) -> HeldLanes[L]:
        """From `least` to `most` lanes with room for `capacity` tokens: those that there are, or new ones."""
        if self.held is not None and least <= len(self.held.lanes) <= most and capacity <= self.held.capacity:
            return self.held
        if self.held is not None and capacity > self.held.capacity:
            roomy = max(capacity, GROWTH * self.held.capacity)
            capacity = roomy if self._admission.grows(roomy, least) else capacity
        capacity = max(capacity, self._capacity)
        self.held = None  # let go of before there are others
        opened = self._engine.new_lanes(least, capacity)
        self.held = HeldLanes(opened, [Lane(i, cache) for i, cache in enumerate(opened.caches)], capacity)
        return self.held


def _never_split(_block: Any, _tokens: int) -> tuple[Any, Any]:
    raise AssertionError("a cache without capacity keeps no block")
