"""The prefix cache: keys, values and rewards of token prefixes, kept for calls to come.

A radix tree of tokens. Each node keeps the KV of its tokens, as a block of which only the size matters here, and the
rewards that were read out among them. Bookkeeping alone: no engine, no arrays but token ids. Several threads may use
one cache.

Two budgets limit what is kept. What no lease pins stays within `capacity`; the least recently used goes first. What
leases hold stays within `pin_capacity`, or within what the call under way leaves (`limit_pins`); if it is exceeded, the
lanes that they left here go first, then the least recently used pins are lifted. Either way a prefix that went is
computed again when it is asked for, and rewards do not change.

A block that is dropped here lives on for a call that still holds it.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.plan.ports import B
from rfprm_lite.plan.tree import shared_length

UNLIMITED = 2**62
"""Bytes that no machine has."""


@dataclass(frozen=True, slots=True)
class BlockSlice(Generic[B]):
    """Part of a block: tokens [start, end) of a sequence are tokens [offset, offset + end - start) of the block."""

    start: int
    end: int
    block: B
    offset: int = 0

    def clipped(self, start: int, end: int) -> BlockSlice[B]:
        """The part within [start, end), which must not be empty."""
        first, last = max(start, self.start), min(end, self.end)
        return BlockSlice(first, last, self.block, self.offset + first - self.start)


def within(slices: Sequence[BlockSlice[B]], start: int, end: int) -> list[BlockSlice[B]]:
    """The parts of consecutive slices that are in [start, end)."""
    if start >= end:
        return []
    first = bisect_right(slices, start, key=lambda one: one.end)
    last = bisect_left(slices, end, key=lambda one: one.start)
    return [one.clipped(start, end) for one in slices[first:last]]


Place = weakref.ref[Any]
"""Where tokens are kept, while they are: what is behind them need not be looked up from the beginning."""


@dataclass(frozen=True, slots=True)
class Match(Generic[B]):
    """The kept part of a sequence, from its beginning or from a known place on.

    Attributes:
        length: So many first tokens are kept, with all rewards that were asked for.
        slices: Theirs, consecutive.
        rewards: Theirs, by position.
        places: Known places, by the position behind them. They may be behind `length`.
    """

    length: int
    slices: Sequence[BlockSlice[B]]
    rewards: Mapping[int, float]
    places: Mapping[int, Place]


class Store(Protocol[B]):
    """The place where a call looks prefixes up and leaves them: the cache itself, or a lease on it."""

    @property
    def enabled(self) -> bool:
        """Whether anything is ever kept."""

    def match(
        self, ids: NDArray[np.int64], read_at: NDArray[np.int64], *, behind: Place | None = None, start: int = 0
    ) -> Match[B]:
        """The longest prefix of `ids` that is kept with a reward at every position of `read_at` in it.

        behind: The place of the first `start` tokens, which are not looked up then; no read-out is among them.
        """

    def insert(
        self, ids: NDArray[np.int64], new: BlockSlice[B], rewards: Mapping[int, float], *, behind: Place | None = None
    ) -> Place | None:
        """Keep tokens [new.start, new.end), the last of `ids`, and the rewards among them.

        behind: What the insertion of the tokens just before them gave, of the same sequence.
        """


class _Branch(Generic[B]):
    """A branching of the tree: the nodes that hang there, by the first token of each."""

    def __init__(self) -> None:
        self.children: dict[int, _Node[B]] = {}


class _Node(_Branch[B]):
    """Consecutive tokens of a path, their KV, their rewards by position, and the leases that pin them."""

    def __init__(
        self, parent: _Branch[B], ids: NDArray[np.int64], kept: BlockSlice[B], rewards: dict[int, float]
    ) -> None:
        super().__init__()
        self._parent = weakref.ref(parent)  # no cycles: what is dropped is freed at once
        self.ids = ids
        self.kept = kept
        self.rewards = rewards
        self.leases: set[int] = set()
        parent.children[int(ids[0])] = self

    @property
    def nbytes(self) -> int:
        return self.kept.block.nbytes

    @property
    def parent(self) -> _Branch[B]:
        """Lives as long as the node is in a tree."""
        parent = self._parent()
        if parent is None:
            raise ReferenceError("a node of the prefix cache outlived its parent")
        return parent

    @parent.setter
    def parent(self, parent: _Branch[B]) -> None:
        self._parent = weakref.ref(parent)


class _Pool(Generic[B]):
    """Nodes by their last use, and their bytes. A use of a node is one of all before it, which so outlast it.

    Attributes:
        nodes: Each with the number of its children in this pool.
        nbytes: Bytes of all.
    """

    def __init__(self) -> None:
        self.nodes: dict[_Node[B], int] = {}
        self.nbytes = 0
        self._order: OrderedDict[_Node[B], None] = OrderedDict()  # by their own last use; but see `oldest`

    def add(self, node: _Node[B]) -> None:
        self.nodes[node] = sum(child in self.nodes for child in node.children.values())
        self.nbytes += node.nbytes
        self._order[node] = None
        if isinstance(node.parent, _Node) and node.parent in self.nodes:
            self.nodes[node.parent] += 1

    def remove(self, node: _Node[B]) -> None:
        was_oldest = next(iter(self._order)) is node
        del self.nodes[node]
        self.nbytes -= node.nbytes
        self._order.pop(node, None)
        parent = node.parent
        if isinstance(parent, _Node) and parent in self.nodes:
            self.nodes[parent] -= 1
            if not self.nodes[parent] and parent not in self._order:
                self._order[parent] = None
                self._order.move_to_end(parent, last=not was_oldest)

    def use(self, node: _Node[B]) -> None:
        self._order[node] = None
        self._order.move_to_end(node)

    def oldest(self) -> _Node[B]:
        """The least recently used node, which has no child here.

        A node with children is older than they are by its own last use alone: it leaves the order here, and comes back
        in the place of its last child.
        """
        while self.nodes[node := next(iter(self._order))]:
            del self._order[node]
        return node


class PrefixCache(Generic[B]):
    """Keys, values and rewards that calls computed, for the calls after them.

    Args:
        capacity: Bytes kept without a lease; with 0 nothing is.
        split: Makes two blocks of one, the first of so many tokens.
        pin_capacity: Bytes that all leases may pin together.
    """

    def __init__(self, capacity: int, split: Callable[[B, int], tuple[B, B]], pin_capacity: int = UNLIMITED) -> None:
        self._capacity = capacity
        self._pin_capacity = self._pin_room = pin_capacity
        self._split = split
        self._lock = threading.Lock()
        self._root: _Branch[B] = _Branch()
        self._free: _Pool[B] = _Pool()
        # The ancestors of a pinned node are pinned by the same leases: only whole subtrees are ever dropped.
        self._pinned: _Pool[B] = _Pool()
        self._lease_numbers = itertools.count()
        # Lanes that wait for the next call of their lease, with their bytes; the least recently used first.
        self._idle: OrderedDict[int, tuple[Any, int]] = OrderedDict()
        # A lease may end while the garbage collector runs, even within this lock: it is settled at the next use.
        self._ended: deque[int] = deque()

    @property
    def enabled(self) -> bool:
        """Whether anything is kept without a lease."""
        return self._capacity > 0

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values kept now, pinned ones included."""
        with self._lock:
            self._settle()
            return self._free.nbytes + self._pinned.nbytes

    @property
    def pinned_bytes(self) -> int:
        """Bytes of the prefixes that leases pin now."""
        with self._lock:
            self._settle()
            return self._pinned.nbytes

    @property
    def held_bytes(self) -> int:
        """Bytes that leases hold now: pinned prefixes, and the lanes that they left here."""
        with self._lock:
            self._settle()
            return self._pinned.nbytes + self._idle_bytes

    def clear(self) -> None:
        """Forget everything that no lease pins."""
        with self._lock:
            self._settle()
            self._evict(0)

    def give_back(self, nbytes: int) -> None:
        """Forget so many bytes, or all there are: first what no lease pins, then idle lanes, then pins are lifted."""
        with self._lock:
            self._settle()
            kept = self._free.nbytes
            self._evict(max(0, kept - nbytes))
            if (missing := nbytes - kept) > 0:
                self._idle.clear()
                wanted = max(0, self._pinned.nbytes - missing)
                while self._pinned.nbytes > wanted:
                    self._move(self._pinned.oldest(), set())
                self._evict(0)

    def lease(self) -> Lease[B]:
        """A new hold on prefixes: those that are matched or inserted through it stay until it ends."""
        return Lease(self, next(self._lease_numbers))

    def limit_pins(self, most: int) -> None:
        """Let leases hold at most `most` bytes while a call runs, and no more than `pin_capacity`."""
        with self._lock:
            self._settle()
            self._pin_room = min(most, self._pin_capacity)
            self._lift()
            self._evict(self._capacity)

    def match(
        self,
        ids: NDArray[np.int64],
        read_at: NDArray[np.int64],
        lease: int | None = None,
        *,
        behind: Place | None = None,
        start: int = 0,
    ) -> Match[B]:
        """The longest prefix of `ids` that is kept with a reward at every position of `read_at` in it.

        A kept token has no hidden state any more, so that a reward which was never read out there can't be had without
        computing the token again: the match ends before it.

        Args:
            ids: int64 [num_tokens].
            read_at: int64 [num_readouts], ascending.
            lease: The number of the lease that pins the prefix.
            behind: The place of the first `start` tokens, which are not looked up then; no read-out is among them.
            start: Tokens before those that are looked up.
        """
        slices: list[BlockSlice[B]] = []
        known: dict[int, float] = {}
        places: dict[int, Place] = {}
        with self._lock:
            self._settle()
            last, length = self._end(behind, start)
            path = list(self._path(ids, last, length))
            for node, shared in path:
                slices.append(node.kept.clipped(node.kept.start, node.kept.start + shared))
                known |= node.rewards
                if shared == len(node.ids):
                    places[node.kept.end] = weakref.ref(node)
            if path:
                last, shared = path[-1]
                if lease is not None and shared < len(last.ids):
                    last = self._cut(last, last.kept.start + shared)  # pin no more than is shared
                self._use(last, lease)
                self._lift()
                self._evict(self._capacity)
        length = slices[-1].end if slices else length
        length = min([length, *(at for at in read_at.tolist() if at < length and at not in known)])
        return Match(length, within(slices, 0, length), {at: r for at, r in known.items() if at < length}, places)

    def insert(
        self,
        ids: NDArray[np.int64],
        new: BlockSlice[B],
        rewards: Mapping[int, float],
        lease: int | None = None,
        *,
        behind: Place | None = None,
    ) -> Place | None:
        """Keep the KV of tokens [new.start, new.end), the last of `ids`, and the rewards among them.

        What is kept already stays. Where the tokens before `new.start` are not kept, neither are these.

        Args:
            ids: int64 [num_tokens], the sequence up to `new.end`.
            new: The tokens to keep, with their block.
            rewards: Rewards by their positions in the sequence.
            lease: The number of the lease that pins them; without one they fall under the cache's capacity.
            behind: What the insertion of the tokens just before `new.start` gave, of the same sequence.

        Returns:
            Where the tokens are kept now; None where nothing is.
        """
        if not self.enabled and lease is None:
            return None
        with self._lock:
            self._settle()
            last, length = self._end(behind, new.start)
            for node, shared in self._path(ids, last, length):
                node.rewards |= {at: r for at, r in rewards.items() if length <= at < length + shared}
                last, length = node, length + shared
            if new.start <= length < new.end:
                own = self._own_block(new.clipped(length, new.end))
                if isinstance(last, _Node) and length < last.kept.end:
                    last = self._cut(last, length)
                later = {at: r for at, r in rewards.items() if at >= length}
                last = _Node(last, ids[length:].copy(), own, later)
                self._free.add(last)
            self._use(last, lease)
            self._lift()
            self._evict(self._capacity)
            whole = isinstance(last, _Node) and length >= new.start and last.kept.end == new.end
            return weakref.ref(last) if whole else None

    def end_lease(self, lease: int) -> None:
        """Lift all pins of a lease: now, or at the cache's next use if it is in use.

        Safe wherever the garbage collector may run, even while this thread uses the cache.
        """
        self._ended.append(lease)
        if self._lock.acquire(blocking=False):
            try:
                self._settle()
            finally:
                self._lock.release()

    def leave_lanes(self, lease: int, lanes: Any, nbytes: int) -> None:
        """Leave lanes for the next call of a lease, unless there are some or they have no room beside what is pinned.

        The call is over, so that leases may hold `pin_capacity` again.
        """
        with self._lock:
            self._settle()
            self._pin_room = self._pin_capacity
            if self._pinned.nbytes + nbytes <= self._pin_room:
                self._idle.setdefault(lease, (lanes, nbytes))
                self._lift()

    def take_lanes(self, lease: int) -> Any:
        """The lanes that a call of the lease left, which now are the caller's; None if there are none any more."""
        with self._lock:
            lanes, _ = self._idle.pop(lease, (None, 0))
            return lanes

    def _end(self, place: Place | None, at: int) -> tuple[_Branch[B], int]:
        """The node of a place where tokens up to `at` are kept, and `at`; the root and 0 where they are no longer."""
        node = None if place is None else place()
        if isinstance(node, _Node) and node.kept.end == at and node in self._pool(node).nodes:
            return node, at
        return self._root, 0

    def _path(
        self, ids: NDArray[np.int64], branch: _Branch[B] | None = None, at: int = 0
    ) -> Iterator[tuple[_Node[B], int]]:
        """The nodes that `ids` pass through behind a branching at `at`, and how many tokens of each they share."""
        branch = branch or self._root
        while at < len(ids) and (node := branch.children.get(int(ids[at]))) is not None:
            shared = shared_length(node.ids, ids[at:])
            yield node, shared
            if shared < len(node.ids):
                return
            branch, at = node, at + shared

    def _cut(self, node: _Node[B], at: int) -> _Node[B]:
        """Split a node in two, before token `at` of the sequence; returns the upper one."""
        shared = at - node.kept.start
        first, second = self._split(node.kept.block, shared)  # before anything changes: memory may be short
        pool = self._pool(node)
        pool.remove(node)
        known = {position: r for position, r in node.rewards.items() if position < at}
        upper = _Node(node.parent, node.ids[:shared], BlockSlice(node.kept.start, at, first), known)
        upper.leases = set(node.leases)
        node.rewards = {position: r for position, r in node.rewards.items() if position >= at}
        node.parent, node.ids, node.kept = upper, node.ids[shared:], BlockSlice(at, node.kept.end, second)
        upper.children[int(node.ids[0])] = node
        pool.add(node)
        pool.add(upper)
        return upper

    def _own_block(self, kept: BlockSlice[B]) -> BlockSlice[B]:
        """The same slice with a block of just its tokens."""
        block, tokens = kept.block, kept.end - kept.start
        if kept.offset:
            _, block = self._split(block, kept.offset)
        if block.length > tokens:
            block, _ = self._split(block, tokens)
        return BlockSlice(kept.start, kept.end, block)

    def _pool(self, node: _Node[B]) -> _Pool[B]:
        return self._pinned if node.leases else self._free

    def _use(self, node: _Branch[B], lease: int | None) -> None:
        """A node and all before it are used, and pinned if there is a lease."""
        if not isinstance(node, _Node):
            return
        unpinned: _Branch[B] = node
        while lease is not None and isinstance(unpinned, _Node) and lease not in unpinned.leases:
            self._move(unpinned, unpinned.leases | {lease})
            unpinned = unpinned.parent  # one that has the lease stands below such ones alone
        self._pool(node).use(node)

    def _move(self, node: _Node[B], leases: set[int]) -> None:
        """Change which leases pin a node, and with that its pool, where it counts as just used."""
        before = self._pool(node)
        if bool(leases) == bool(node.leases):
            node.leases = leases
            before.use(node)
            return
        before.remove(node)
        node.leases = leases
        self._pool(node).add(node)

    def _settle(self) -> None:
        """Lift the pins of leases that have ended."""
        count = len(self._ended)
        if not count:
            return
        ended = {self._ended[i] for i in range(count)}  # by index: the garbage collector may append meanwhile
        for lease in ended:
            self._idle.pop(lease, None)
        for node in list(self._pinned.nodes):
            if node.leases & ended:
                self._move(node, node.leases - ended)
        for _ in range(count):  # last: after an interrupt it is done again
            self._ended.popleft()
        self._evict(self._capacity)

    @property
    def _idle_bytes(self) -> int:
        return sum(nbytes for _, nbytes in self._idle.values())

    def _lift(self) -> None:
        """Keep what leases hold within its room. Lanes go first: to fill them again is to copy, not to compute."""
        while self._idle and self._pinned.nbytes + self._idle_bytes > self._pin_room:
            self._idle.popitem(last=False)
        while self._pinned.nbytes > self._pin_room:
            self._move(self._pinned.oldest(), set())

    def _evict(self, most: int) -> None:
        while self._free.nbytes > most:
            oldest = self._free.oldest()
            self._free.remove(oldest)
            del oldest.parent.children[int(oldest.ids[0])]


class Lease(Generic[B]):
    """A hold on prefixes of a cache, as long as it lives: a `Store` that pins. Ends by `end`, or when nobody has it."""

    def __init__(self, cache: PrefixCache[B], number: int) -> None:
        self._cache = cache
        self._number = number
        self._finalizer = weakref.finalize(self, cache.end_lease, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.end()

    @property
    def enabled(self) -> bool:
        """Always True: a lease keeps tokens whatever the cache's own capacity is."""
        return True

    def match(
        self, ids: NDArray[np.int64], read_at: NDArray[np.int64], *, behind: Place | None = None, start: int = 0
    ) -> Match[B]:
        """The longest kept prefix, pinned; see `PrefixCache.match`."""
        return self._cache.match(ids, read_at, self._number, behind=behind, start=start)

    def insert(
        self, ids: NDArray[np.int64], new: BlockSlice[B], rewards: Mapping[int, float], *, behind: Place | None = None
    ) -> Place | None:
        """Keep tokens, pinned; see `PrefixCache.insert`."""
        return self._cache.insert(ids, new, rewards, self._number, behind=behind)

    def leave_lanes(self, lanes: Any, nbytes: int) -> None:
        """Leave lanes for the lease's next call; see `PrefixCache.leave_lanes`. They must not hold the lease."""
        self._cache.leave_lanes(self._number, lanes, nbytes)

    def take_lanes(self) -> Any:
        """The lanes that a call left, if they are still there; see `PrefixCache.take_lanes`."""
        return self._cache.take_lanes(self._number)

    def end(self) -> None:
        """Lift all pins."""
        self._finalizer()
