"""The prefix cache: what earlier calls computed, kept within a number of bytes.

A radix tree of tokens. Each node keeps the KV of its tokens, as a block that it knows nothing of but its size, and the
rewards that were read among them. What was used least recently goes first. Bookkeeping alone: no engine, no arrays but
token ids. Several threads may use one.

A block that is dropped here lives on for a call that still holds it.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.plan.ports import B
from rfprm_lite.plan.tree import shared_length


@dataclass(frozen=True, slots=True)
class BlockSlice(Generic[B]):
    """Tokens [start, end) of a sequence are tokens [offset, offset + end - start) of the block."""

    start: int
    end: int
    block: B
    offset: int = 0

    def clipped(self, start: int, end: int) -> BlockSlice[B]:
        """The part within [start, end), which must not be empty."""
        first, last = max(start, self.start), min(end, self.end)
        return BlockSlice(first, last, self.block, self.offset + first - self.start)


def within(pieces: Sequence[BlockSlice[B]], start: int, end: int) -> list[BlockSlice[B]]:
    """The parts of consecutive pieces that are in [start, end)."""
    return [piece.clipped(start, end) for piece in pieces if max(piece.start, start) < min(piece.end, end)]


@dataclass(frozen=True, slots=True)
class Match(Generic[B]):
    """What is kept of a sequence: its first `length` tokens, in consecutive pieces, and all rewards read in them."""

    length: int
    pieces: Sequence[BlockSlice[B]]
    rewards: Mapping[int, float]


class _Branch(Generic[B]):
    """Where nodes hang: by the first token of each."""

    def __init__(self) -> None:
        self.children: dict[int, _Node[B]] = {}


class _Node(_Branch[B]):
    """piece: of the node's own tokens, counted from the sequence's beginning. rewards: those read among them."""

    def __init__(
        self, parent: _Branch[B], ids: NDArray[np.int64], piece: BlockSlice[B], rewards: dict[int, float]
    ) -> None:
        super().__init__()
        self._parent = weakref.ref(parent)  # no cycles: what is dropped is freed at once
        self.ids = ids
        self.piece = piece
        self.rewards = rewards
        parent.children[int(ids[0])] = self

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


class PrefixCache(Generic[B]):
    """Keeps at most `capacity` bytes; with 0, nothing. split: makes two blocks of one, the first of so many tokens."""

    def __init__(self, capacity: int, split: Callable[[B, int], tuple[B, B]]) -> None:
        self._capacity = capacity
        self._split = split
        self._lock = threading.Lock()
        self.clear()

    @property
    def enabled(self) -> bool:
        """Whether anything is ever kept."""
        return self._capacity > 0

    @property
    def nbytes(self) -> int:
        """Bytes kept now."""
        return self._nbytes

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._root: _Branch[B] = _Branch()
            # Nodes by their last use. A parent is used after its children, so that the first has none.
            self._by_use: OrderedDict[_Node[B], None] = OrderedDict()
            self._nbytes = 0

    def match(self, ids: NDArray[np.int64], read_at: NDArray[np.int64]) -> Match[B]:
        """The longest prefix of `ids` that is kept with a reward at every position of `reads` (ascending) in it."""
        pieces: list[BlockSlice[B]] = []
        known: dict[int, float] = {}
        with self._lock:
            path = list(self._path(ids))
            for node, shared in path:
                pieces.append(node.piece.clipped(node.piece.start, node.piece.start + shared))
                known |= node.rewards
            if path:
                self._use(path[-1][0])
        length = pieces[-1].end if pieces else 0
        length = min([length, *(r for r in read_at.tolist() if r < length and r not in known)])
        return Match(length, within(pieces, 0, length), {at: r for at, r in known.items() if at < length})

    def take(self, other: PrefixCache[B], ids: NDArray[np.int64]) -> None:
        """Keep what another cache has of a sequence. The two share its blocks."""
        nothing = np.zeros(0, np.int64)
        match, kept = other.match(ids, nothing), self.match(ids, nothing)
        start = min([kept.length, *(at for at in match.rewards if at not in kept.rewards)])
        for piece in within(match.pieces, start, match.length):
            own = {at: r for at, r in match.rewards.items() if piece.start <= at < piece.end}
            self.insert(ids[: piece.end], piece, own)

    def insert(self, ids: NDArray[np.int64], piece: BlockSlice[B], rewards: Mapping[int, float]) -> None:
        """Keep the KV of tokens [piece.start, piece.end), the last of `ids`, and rewards read among them. What is kept
        already stays; where the tokens before `piece.start` are not kept, neither are these."""
        if not self.enabled:
            return
        with self._lock:
            last, length = self._root, 0
            for node, shared in self._path(ids):
                node.rewards |= {at: r for at, r in rewards.items() if length <= at < length + shared}
                last, length = node, length + shared
            if piece.start <= length < piece.end:
                if isinstance(last, _Node) and length < last.piece.end:
                    last = self._cut(last, length)
                own = {at: r for at, r in rewards.items() if at >= length}
                last = _Node(last, ids[length:].copy(), self._own(piece.clipped(length, piece.end)), own)
                self._by_use[last] = None
                self._nbytes += last.piece.block.nbytes
            self._use(last)
            self._evict()

    def _path(self, ids: NDArray[np.int64]) -> Iterator[tuple[_Node[B], int]]:
        """The nodes that `ids` pass through, and how many of each one's tokens they share."""
        branch, at = self._root, 0
        while at < len(ids) and (node := branch.children.get(int(ids[at]))) is not None:
            shared = shared_length(node.ids, ids[at:])
            yield node, shared
            if shared < len(node.ids):
                return
            branch, at = node, at + shared

    def _cut(self, node: _Node[B], at: int) -> _Node[B]:
        """Split a node in two, before token `at` of the sequence; returns the upper one."""
        shared = at - node.piece.start
        first, second = self._split(node.piece.block, shared)
        known = {p: r for p, r in node.rewards.items() if p < at}
        upper = _Node(node.parent, node.ids[:shared], BlockSlice(node.piece.start, at, first), known)
        node.rewards = {p: r for p, r in node.rewards.items() if p >= at}
        node.parent, node.ids, node.piece = upper, node.ids[shared:], BlockSlice(at, node.piece.end, second)
        upper.children[int(node.ids[0])] = node
        self._by_use[upper] = None
        return upper

    def _own(self, piece: BlockSlice[B]) -> BlockSlice[B]:
        """The same with a block of just its tokens."""
        block, tokens = piece.block, piece.end - piece.start
        if piece.offset:
            _, block = self._split(block, piece.offset)
        if block.length > tokens:
            block, _ = self._split(block, tokens)
        return BlockSlice(piece.start, piece.end, block)

    def _use(self, node: _Branch[B]) -> None:
        while isinstance(node, _Node):
            self._by_use.move_to_end(node)
            node = node.parent

    def _evict(self) -> None:
        while self._nbytes > self._capacity:
            oldest, _ = self._by_use.popitem(last=False)
            self._nbytes -= oldest.piece.block.nbytes
            del oldest.parent.children[int(oldest.ids[0])]
