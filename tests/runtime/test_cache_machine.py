"""The prefix cache under any order of its uses, memory that runs out within them included: its tree stays whole."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fakes import TOKEN_BYTES, FakeBlock, FakeEngine, FakeLanes, expected_rewards
from rfprm_lite.plan.budget import RunBudget
from rfprm_lite.plan.cache import Lease, PrefixCache, _Branch, _Node
from rfprm_lite.plan.call import Call
from rfprm_lite.plan.packing import Packing
from rfprm_lite.plan.sequence import TokenSequence

MOST_LEASES = 4
ids = st.lists(st.integers(0, 2), min_size=1, max_size=12)
cases = st.lists(st.tuples(ids, st.lists(st.integers(0, 11), min_size=1, max_size=3)), min_size=1, max_size=3)


class CacheMachine(RuleBasedStateMachine):
    """Some leases with a call each, whose lanes outlive its uses, and calls without a lease."""

    @initialize(tokens=st.integers(0, 25), pinned=st.integers(0, 40))
    def start(self, tokens: int, pinned: int) -> None:
        self.capacity, self.pin_capacity = tokens * TOKEN_BYTES, pinned * TOKEN_BYTES
        self.splits_left = -1
        self.cache: PrefixCache[FakeBlock] = PrefixCache(self.capacity, self.split, self.pin_capacity)
        self.leases: dict[int, Lease[FakeBlock]] = {}
        self.calls: dict[int, Call[FakeLanes]] = {}

    def split(self, block: FakeBlock, tokens: int) -> tuple[FakeBlock, FakeBlock]:
        self.splits_left -= 1
        if self.splits_left == 0:
            raise MemoryError
        return block.split(tokens)

    def some_lease(self, data: st.DataObject) -> int:
        return data.draw(st.sampled_from(sorted(self.leases)))

    @precondition(lambda self: len(self.leases) < MOST_LEASES)
    @rule(lanes=st.integers(1, 3))
    def lease(self, lanes: int) -> None:
        lease = self.cache.lease()
        self.leases[lease._number] = lease
        self.calls[lease._number] = Call(FakeEngine(lanes), lease, budget=RunBudget(3), packing=Packing(5.0))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), how=st.sampled_from(["end", "drop", "cycle"]))
    def end(self, data: st.DataObject, how: str) -> None:
        number = self.some_lease(data)
        lease, call = self.leases.pop(number), self.calls.pop(number)
        if how == "end":
            lease.end()
        elif how == "cycle":
            cycle = [lease, call]
            cycle.append(cycle)
            del cycle
        del lease, call
        gc.collect()

    @rule(data=st.data(), cases=cases, splits=st.integers(0, 3))
    def call(self, data: st.DataObject, cases: list[tuple[list[int], list[int]]], splits: int) -> None:
        number = data.draw(st.sampled_from([None, *self.calls]))
        call = Call(FakeEngine(2), self.cache, budget=RunBudget(4)) if number is None else self.calls[number]
        sequences = [(ids, sorted({at % len(ids) for at in read_at})) for ids, read_at in cases]
        self.splits_left = splits  # 0: none fails
        try:
            results = call.rewards([TokenSequence(np.array(ids), np.array(read_at)) for ids, read_at in sequences])
        except MemoryError:
            return
        finally:
            self.splits_left = -1
        for case, result in zip(sequences, results, strict=True):
            assert result.rewards.tolist() == np.array(expected_rewards(*case), np.float32).tolist()

    @rule(data=st.data(), ids=ids)
    def match(self, data: st.DataObject, ids: list[int]) -> None:
        number = data.draw(st.sampled_from([None, *self.leases]))
        store = self.cache if number is None else self.leases[number]
        store.match(np.array(ids), np.array([], np.int64))

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), tokens=st.integers(0, 20))
    def leave(self, data: st.DataObject, tokens: int) -> None:
        self.leases[self.some_lease(data)].leave_lanes("lanes", tokens * TOKEN_BYTES)

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        lease = self.leases[self.some_lease(data)]
        assert lease.take_lanes() in ("lanes", None)
        assert lease.take_lanes() is None

    @rule()
    def clear(self) -> None:
        self.cache.clear()
        assert self.cache._free.nbytes == 0

    @rule(tokens=st.integers(0, 40))
    def lift(self, tokens: int) -> None:
        self.cache.limit_pins(tokens * TOKEN_BYTES)
        assert self.cache.held_bytes <= tokens * TOKEN_BYTES

    @invariant()
    def nodes_are_where_they_belong(self) -> None:
        nodes = list(below(self.cache._root))
        pools = (self.cache._free, self.cache._pinned)
        assert {id(node) for node in nodes} == {id(node) for pool in pools for node in pool.nodes}
        for pool in pools:
            assert pool.nbytes == sum(node.nbytes for node in pool.nodes)
            assert all(
                count == sum(child in pool.nodes for child in node.children.values())
                for node, count in pool.nodes.items()
            )
            assert {*pool._order} >= {node for node, count in pool.nodes.items() if not count}
        assert not any(node.leases for node in self.cache._free.nodes)
        assert all(set() < node.leases <= set(self.leases) for node in self.cache._pinned.nodes)

    @invariant()
    def budgets_are_kept(self) -> None:
        assert self.cache.nbytes - self.cache._pinned.nbytes <= self.capacity
        assert self.cache.held_bytes <= self.pin_capacity
        assert self.leases or self.cache.held_bytes == 0


def below(branch: _Branch[FakeBlock]) -> Iterator[_Node[FakeBlock]]:
    """All nodes of a tree, each one checked against its parent."""
    for token, node in branch.children.items():
        assert node.parent is branch
        assert node.ids[0] == token
        assert node.kept.end - node.kept.start == len(node.ids) == node.kept.block.length
        if isinstance(branch, _Node):
            assert node.kept.start == branch.kept.end
            assert branch.leases >= node.leases
        yield node
        yield from below(node)


CacheMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=25)
TestCache = CacheMachine.TestCase
