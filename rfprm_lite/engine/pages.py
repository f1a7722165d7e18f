"""Pages of keys and values: who holds which, and who may write where. Bookkeeping alone; the arrays are elsewhere.

A page has room for the keys and values of a fixed number of tokens in all layers. The token at position p of a sequence
stands in slot p % page_tokens of its page, in every sequence that has it. So whatever shares a prefix shares its pages:
a fork, a rollback and a kept prefix are page ids.

Three laws:

1. A slot that somebody else can see is never written. A page is filled from its first slot on, and `claimed` counts
   the slots that are taken. Who goes on where the claims end writes into the same page; who branches off before that
   gets a page of its own, into which the slots before the branch are copied. These are the only copies.
2. A page holds the keys and values of all tokens of its holder's path up to the last that the holder has in it: those
   before a branch were copied. So a path is taken up by replacing its last page, without a copy.
3. A page is free as soon as nobody holds it. All there will ever be exist from the beginning.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.errors import EngineError
from rfprm_lite.plan.cancel import Cancellation

PATIENCE = 5.0
"""Seconds after which a call no longer waits for the pages of others, if none of them has done anything."""
TICK = 0.05
"""Seconds after which a waiting call looks whether it was cancelled."""

Reclaim = Callable[[int], None]
"""Lets go of so many bytes of kept tokens, if there are so many."""


class PagePool:
    """All pages of an engine. Several threads may use it.

    Args:
        count: Pages.
        page_tokens: Tokens that a page has room for.
        page_bytes: Bytes of a page in all layers.

    Attributes:
        reclaim: Asked for bytes when pages are short.
    """

    def __init__(self, count: int, page_tokens: int, page_bytes: int) -> None:
        self.count, self.page_tokens, self.page_bytes = count, page_tokens, page_bytes
        self.reclaim: Reclaim = lambda _nbytes: None
        self._condition = threading.Condition(threading.Lock())
        self._holders = np.zeros(count, np.int64)
        self._claimed = np.zeros(count, np.int64)
        self._own = np.zeros(count, np.int64)  # the first slot that was not copied
        self._free = deque(range(count))
        # What holds pages may end while the garbage collector runs, even within this lock: see `drop`.
        self._dropped: deque[Sequence[int]] = deque()
        self._calls: dict[int, int] = {}
        self._numbers = itertools.count()
        self._runs = self._waiting = 0
        self._last_sign = time.monotonic()

    @property
    def free(self) -> int:
        """Pages that nobody holds."""
        with self._condition:
            self._settle()
            return len(self._free)

    def pages_of(self, tokens: int) -> int:
        """Pages that so many tokens need."""
        return -(-tokens // self.page_tokens)

    def share(self, pages: Sequence[int]) -> None:
        """Hold pages that somebody holds already."""
        with self._condition:
            np.add.at(self._holders, list(pages), 1)

    def drop(self, pages: Sequence[int]) -> None:
        """Hold pages no more: now, or at the next use if the pool is in use.

        Safe wherever the garbage collector may run, even while this thread uses the pool.
        """
        self._dropped.append(pages)
        if self._condition.acquire(blocking=False):
            try:
                self._settle()
            finally:
                self._condition.release()

    def take(self, count: int, cancel: Cancellation | None = None) -> list[int]:
        """Hold pages that nobody holds. What is only kept for calls to come yields to them.

        Other calls may hold what they found kept, even while they wait: theirs are waited for, twice as long as a call
        waits to enter, so that those enter first.

        Raises:
            EngineError: If there are fewer.
            StoppedError: If the call was cancelled while it waited.
        """
        if count == 0:
            return []
        entered = time.monotonic()
        while (short := count - self.free) > 0:
            self.reclaim(short * self.page_bytes)
            with self._condition:
                self._settle()
                still = time.monotonic() - max(entered, self._last_sign)
                alone = len(self._calls) + self._waiting <= 1
                if count <= len(self._free) or alone or not (self._runs or still < 2 * PATIENCE):
                    break
                self._condition.wait(TICK)
            if cancel is not None:
                cancel.check()
        with self._condition:
            self._settle()
            if count > len(self._free):
                raise EngineError(
                    f"{count} pages of {self.page_tokens} tokens are needed, {len(self._free)} of {self.count} are "
                    "free: give the model a larger memory_bytes, or score fewer responses in one call"
                )
            pages = [self._free.popleft() for _ in range(count)]
            self._holders[pages] = 1
            self._claimed[pages] = 0
            self._own[pages] = 0
            return pages

    def claim(self, page: int, start: int, end: int) -> bool:
        """Take slots [start, end) of a page that the caller holds, to write there.

        Returns:
            Whether they are the caller's now. If not, somebody else may see what stands there.
        """
        with self._condition:
            self._settle()
            if self._holders[page] > 1 and self._claimed[page] != start:
                return False
            self._claimed[page] = end
            self._own[page] = min(self._own[page], start)
            return True

    def claim_copy(self, page: int, start: int, end: int) -> None:
        """Take slots of a page that was just taken, whose slots before `start` are copied into it."""
        with self._condition:
            self._claimed[page], self._own[page] = end, start

    def unclaim(self, page: int, start: int, end: int) -> None:
        """Give slots back that were not written after all, if nobody went on behind them."""
        with self._condition:
            if self._claimed[page] == end:
                self._claimed[page] = start

    def owned(self, pages: Sequence[int], start: int, end: int) -> int:
        """How many of the pages begin within slots [start, end), counted over all of them one after another.

        A page begins at its first slot that was not copied into it. So of all that hold parts of a page, one counts it.
        """
        with self._condition:
            begins = np.arange(len(pages)) * self.page_tokens + self._own[list(pages)]
            return int(((begins >= start) & (begins < end)).sum())

    @contextmanager
    def working(self) -> Iterator[None]:
        """Within this context a call computes: those that wait for pages go on waiting."""
        self._count_run(1)
        try:
            yield
        finally:
            self._count_run(-1)

    def enter(self, pages: int, cancel: Cancellation) -> int:
        """Wait until a call that may need so many pages fits beside those under way.

        It never waits for what stands still: a race that is open in the same thread, say.

        Returns:
            The number by which the call leaves.

        Raises:
            StoppedError: If it was cancelled.
        """
        entered = time.monotonic()
        with self._condition:
            self._waiting += 1
            try:
                while self._crowded(pages) and (
                    self._runs or time.monotonic() < max(entered, self._last_sign) + PATIENCE
                ):
                    self._condition.wait(TICK)
                    cancel.check()
            finally:
                self._waiting -= 1
            number = next(self._numbers)
            self._calls[number] = pages
            return number

    def _crowded(self, pages: int) -> bool:
        others = list(self._calls.values())  # at once: a call may leave meanwhile
        return bool(others) and sum(others) + pages > self.count

    def leave(self, number: int) -> None:
        """End the call of a number. Safe wherever the garbage collector may run."""
        self._calls.pop(number, None)
        self._last_sign = time.monotonic()

    def _count_run(self, by: int) -> None:
        with self._condition:
            self._runs += by
            self._last_sign = time.monotonic()
            self._condition.notify_all()

    def _settle(self) -> None:
        for _ in range(len(self._dropped)):  # the garbage collector may append meanwhile
            pages = list(self._dropped.popleft())
            np.subtract.at(self._holders, pages, 1)
            self._free.extend(page for page in dict.fromkeys(pages) if self._holders[page] == 0)


class PageBlock:
    """Tokens that are kept, as the pages that hold them. Never changes.

    So several threads may restore from one, and it lives on for a call that holds it when the cache drops it.

    Attributes:
        pages: Their ids, held as long as the block lives.
        offset: The slot of the first token in the first page.
        length: Its tokens.
        nbytes: Bytes of the pages that it counts as its own; a page that begins in another block is counted there.
    """

    def __init__(self, pool: PagePool, pages: Sequence[int], offset: int, length: int, own: int) -> None:
        self.pages, self.offset, self.length, self.nbytes = tuple(pages), offset, length, own * pool.page_bytes
        self._pool = pool
        pool.share(self.pages)
        weakref.finalize(self, pool.drop, self.pages).atexit = False

    def split(self, tokens: int) -> tuple[PageBlock, PageBlock]:
        """The first `tokens` tokens and the others; a page that both need is counted twice."""
        return self._part(0, tokens), self._part(tokens, self.length)

    def within(self, start: int, end: int) -> tuple[int, ...]:
        """The pages of tokens [start, end)."""
        size = self._pool.page_tokens
        return self.pages[(self.offset + start) // size : self._pool.pages_of(self.offset + end)]

    def _part(self, start: int, end: int) -> PageBlock:
        pages, offset = self.within(start, end), (self.offset + start) % self._pool.page_tokens
        return PageBlock(self._pool, pages, offset, end - start, len(pages))


class PageCache:
    """The keys and values of a path, up to `capacity` tokens. Owned by one call, used by one thread.

    Attributes:
        pages: The ids of its pages, in order.
        capacity: The most tokens that it can hold.
    """

    def __init__(self, pool: PagePool, capacity: int) -> None:
        self.capacity = capacity
        self.pages: list[int] = []
        self._pool = pool
        self._length = 0
        weakref.finalize(self, pool.drop, self.pages).atexit = False  # the list itself, as it is then

    @property
    def length(self) -> int:
        """Tokens that it holds."""
        return self._length

    def trim(self, length: int) -> None:
        """Roll back to the first `length` tokens.

        Raises:
            ValueError: If it holds fewer.
        """
        if not 0 <= length <= self._length:
            raise ValueError(f"can't roll a cache of {self._length} tokens back to {length}")
        self._length = length
        self._replace(self._pool.pages_of(length), [])

    def keep(self, start: int, end: int) -> PageBlock:
        """Tokens [start, end), without a copy.

        Raises:
            ValueError: If they are not all held.
        """
        if not 0 <= start <= end <= self._length:
            raise ValueError(f"tokens {start} to {end} are not among the {self._length} held")
        first = start // self._pool.page_tokens
        pages, before = self.pages[first : self._pool.pages_of(end)], first * self._pool.page_tokens
        own = self._pool.owned(pages, start - before, end - before)
        return PageBlock(self._pool, pages, start - before, end - start, own)

    def restore(self, block: PageBlock, start: int, end: int) -> None:
        """Append tokens [start, end) of a block, without a copy.

        Raises:
            ValueError: If the block has not all of them, if they stand in other slots, or if there is no room.
        """
        if not 0 <= start <= end <= block.length:
            raise ValueError(f"tokens {start} to {end} are not among the {block.length} of the block")
        self._require_room(end - start)
        size = self._pool.page_tokens
        if (block.offset + start) % size != self._length % size:
            raise ValueError(f"the block's tokens are not those behind token {self._length}: they stand in other slots")
        pages = block.within(start, end)
        if pages:
            self._pool.share(pages)
            self._replace(self._length // size, pages)
        self._length += end - start

    def _replace(self, at: int, pages: Sequence[int]) -> None:
        """Hold other pages from the page `at` on; the caller's hold on them becomes the cache's."""
        dropped = self.pages[at:]
        self.pages[at:] = pages
        if dropped:
            self._pool.drop(dropped)

    def _require_room(self, tokens: int) -> None:
        if self._length + tokens > self.capacity:
            raise ValueError(f"{self._length} + {tokens} tokens exceed the cache's capacity of {self.capacity}")


@dataclass(frozen=True, slots=True)
class Copy:
    """The first `slots` slots of page `source` are to be copied into page `target`."""

    source: int
    target: int
    slots: int


class Extension:
    """Room for tokens behind some caches, which a run is about to write.

    Within its context the caches have the tokens; after an error they are as they were.

    Attributes:
        copies: What must be copied before anything is written.
    """

    def __init__(
        self, pool: PagePool, appended: Sequence[tuple[PageCache, int]], cancel: Cancellation | None = None
    ) -> None:
        """Take the room.

        Args:
            pool: Whose pages the caches have.
            appended: Each cache with the tokens that it gets, at least one.
            cancel: Ends the wait for pages.

        Raises:
            ValueError: If a cache has no room for them.
            EngineError: If there are too few pages.
        """
        self.copies: list[Copy] = []
        self._pool = pool
        self._undo: list[tuple[PageCache, int, list[int]]] = []
        self._claims: list[tuple[int, int, int]] = []
        for cache, tokens in appended:
            cache._require_room(tokens)
        branching = [not self._go_on(cache, tokens) for cache, tokens in appended]
        wanted = [
            self._pages_behind(cache, tokens) + new for (cache, tokens), new in zip(appended, branching, strict=True)
        ]
        try:
            taken = iter(pool.take(sum(wanted), cancel))
        except BaseException:
            self._unclaim()
            raise
        for (cache, tokens), branches, count in zip(appended, branching, wanted, strict=True):
            self._extend(cache, tokens, list(itertools.islice(taken, count)), branches=branches)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        for cache, length, before in self._undo:
            if error is None:
                self._pool.drop(before)
            else:
                cache._length = length
                cache._replace(length // self._pool.page_tokens, before)
        if error is not None:
            self._unclaim()

    def _go_on(self, cache: PageCache, tokens: int) -> bool:
        """Claim the slots behind the cache in its last page; whether there is nothing to copy."""
        used = cache.length % self._pool.page_tokens
        if not used:
            return True
        end = min(used + tokens, self._pool.page_tokens)
        if not self._pool.claim(cache.pages[-1], used, end):
            return False
        self._claims.append((cache.pages[-1], used, end))
        return True

    def _pages_behind(self, cache: PageCache, tokens: int) -> int:
        return self._pool.pages_of(cache.length + tokens) - self._pool.pages_of(cache.length)

    def _extend(self, cache: PageCache, tokens: int, new: list[int], *, branches: bool) -> None:
        size, length = self._pool.page_tokens, cache.length
        used = length % size
        before = cache.pages[length // size :]  # the last page, if it is not full; held until the run is over
        self._undo.append((cache, length, before))
        if before:
            self._pool.share(before)
        if branches:
            self.copies.append(Copy(before[0], new[0], used))
            self._pool.claim_copy(new[0], used, min(used + tokens, size))
            cache._replace(length // size, new)
        else:
            cache.pages.extend(new)
        cache._length += tokens
        rest = length + tokens - self._pool.pages_of(length) * size
        for page in new[branches:]:
            self._pool.claim(page, 0, min(rest, size))
            rest -= size

    def _unclaim(self) -> None:
        for claim in self._claims:
            self._pool.unclaim(*claim)


def slots(cache: PageCache, start: int, page_tokens: int) -> NDArray[np.int32]:
    """Where the tokens from `start` to the cache's end stand, counted over all pages: int32 [tokens]."""
    at = np.arange(start, cache.length)
    return (np.array(cache.pages, np.int64)[at // page_tokens] * page_tokens + at % page_tokens).astype(np.int32)
