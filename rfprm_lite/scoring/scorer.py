"""A loaded model as calls see it: text to requests, requests to rewards, within the limits of memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rfprm_lite.aggregate import AggregateLike, AnyAggregate, as_aggregate
from rfprm_lite.bundle.open import Bundle
from rfprm_lite.device import DeviceSpec
from rfprm_lite.errors import ContextLengthError, ForkError, InputTypeError, RfprmError
from rfprm_lite.lists import iterated, listed
from rfprm_lite.options import LoadOptions, Truncate
from rfprm_lite.plan.cache import Lease, PrefixCache
from rfprm_lite.plan.call import Call
from rfprm_lite.plan.cancel import Cancellation
from rfprm_lite.plan.sequence import Rewards, TokenSequence
from rfprm_lite.results import Score
from rfprm_lite.scale import Scale
from rfprm_lite.scoring.request import Request, joined
from rfprm_lite.scoring.truncation import require, shortened
from rfprm_lite.scoring.wiring import open_model
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.trace import Problem, Response, Trace, as_trace
from rfprm_lite.written.splitting import require_splitter


class Scorer:
    """A loaded model with all that calls need of it. Several threads may use one.

    Args:
        bundle: The variant that is loaded.
        device: Where it runs.
        options: How it runs, how text is split, and what is done with one that is too long.
    """

    def __init__(self, bundle: Bundle, device: DeviceSpec, options: LoadOptions) -> None:
        require(options.truncate)
        self._truncate = options.truncate
        manifest = bundle.manifest
        self.encoder = Encoder.from_file(bundle.tokenizer, manifest.recipe, manifest.max_tokens)
        model = open_model(bundle, device, options.threads, options.cache_bytes, options.memory_bytes)
        self.footprint, self._engine, self._budget = model.footprint, model.engine, model.budget
        self._packing = model.packing
        self.cache: PrefixCache[Any] = PrefixCache(self.footprint.cache_bytes, model.split, self.footprint.pin_capacity)
        model.reclaim_from(self.cache)
        self._default = manifest.recipe.aggregate
        head = manifest.recipe.head
        self.scale = Scale(*head.range, head.good_above)
        self._splitter = require_splitter(manifest.recipe.split if options.splitter is None else options.splitter)
        self._process = os.getpid()

    def aggregate(self, value: AggregateLike | None) -> AnyAggregate:
        """The aggregate that a caller named or gave; the recipe's own where None."""
        return as_aggregate(value, self._default)

    def trace(self, response: Response | None, steps: Iterable[str] | None = None) -> Trace:
        """A response, or the steps of one, as a trace. Raises as `as_trace` does."""
        return as_trace(response, steps, splitter=self._splitter)

    def request(
        self, problem: Problem, trace: Trace, aggregate: AnyAggregate, truncate: Truncate | None = None
    ) -> Request:
        """The request of a trace, refused before anything runs where it is too long for the model or for memory.

        Args:
            problem: The question.
            trace: The trace.
            aggregate: What makes one reward of its rewards.
            truncate: How it is shortened where it is too long for the model; as the PRM was loaded where None.
        """
        self.require_own_process()  # before the tokenizer: another thread may have held its locks at the fork
        require(truncate)
        way = truncate or self._truncate
        try:
            request = Request.of(self.encoder, problem, trace, aggregate, self.scale)
        except ContextLengthError:
            if way is None:
                raise
            request = shortened(self.encoder, problem, trace, aggregate, self.scale, way)
        self.footprint.lanes(request.longest)
        return request

    def requests(self, pairs: Iterable[tuple[Problem, Response]], aggregate: AnyAggregate) -> list[Request]:
        """The requests of all pairs; the first wrong one raises, with a note that names it."""
        requests: list[Request] = []
        for i, pair in enumerate(iterated("pairs", pairs)):
            try:
                requests.append(self.pair_request(pair, aggregate))
            except RfprmError as error:
                error.add_note(f"in response {i} of this call")
                raise
        return requests

    def pair_request(self, pair: tuple[Problem, Response], aggregate: AnyAggregate) -> Request:
        """The request of a pair of problem and response."""
        both = listed("the problem and the response of a pair", pair)
        if len(both) != 2:
            raise InputTypeError(f"a pair of problem and response is needed, not {type(pair).__name__} {pair!r:.60}")
        return self.request(both[0], self.trace(both[1]), aggregate)

    def call(
        self,
        cancel: Cancellation | None = None,
        lease: Lease[Any] | None = None,
        *,
        capacity: int = 0,
        pins: int = 0,
    ) -> Call[Any]:
        """A call on the engine.

        Args:
            cancel: Ends it from another thread.
            lease: The lease that pins its prefixes; without one they go to the shared cache.
            capacity: Tokens that its lanes have room for from the beginning, where it is known.
            pins: Bytes that it will pin, where it is known.
        """
        self.require_own_process()
        return Call(
            self._engine,
            self.cache if lease is None else lease,
            admission=_Admission(self, pins),
            packing=self._packing,
            budget=self._budget,
            cancel=cancel,
            capacity=capacity,
        )

    def score(self, requests: Sequence[Request], cancel: Cancellation | None = None) -> list[Score]:
        """The scores of requests, planned together."""
        rewards = grouped(self.call(cancel), [request.sequences for request in requests])
        return [request.score(*pair) for request, pair in zip(requests, rewards, strict=True)]

    def require_own_process(self) -> None:
        """Raise ForkError in a process that was forked from the one where the model was loaded."""
        if os.getpid() != self._process:
            raise ForkError(
                f"this PRM was loaded in process {self._process} and can't be used in {os.getpid()}, which was forked "
                "from it: load it there, or start processes by 'spawn' and send it to them"
            )


def grouped(call: Call[Any], groups: Sequence[Sequence[TokenSequence]]) -> list[tuple[Rewards, int]]:
    """The rewards of each group of sequences as one array, and the tokens computed for it; all planned together."""
    results = iter(call.rewards([sequence for group in groups for sequence in group]))
    return [joined(list(islice(results, len(group)))) for group in groups]


@dataclass(frozen=True, slots=True)
class _Admission:
    """The memory that one call of a scorer may take. pins: bytes that it will pin."""

    scorer: Scorer
    pins: int

    def lanes(self, longest: int, most: int) -> int:
        self.scorer.require_own_process()
        cache = self.scorer.cache
        lanes, room = self.scorer.footprint.admit(longest, max(cache.pinned_bytes, self.pins), most)
        cache.limit_pins(room)
        return lanes

    def grows(self, longest: int, lanes: int) -> bool:
        room = self.scorer.footprint.room(longest, lanes)
        if room < self.scorer.cache.pinned_bytes:
            return False
        self.scorer.cache.limit_pins(room)
        return True


class CallPool:
    """Calls for text that grows, each of which goes on in the lanes of the last one, if they were left.

    Several threads may use it: one finds the lanes, the others open their own.
    """

    def __init__(self, scorer: Scorer, lease: Lease[Any]) -> None:
        self._scorer = scorer
        self._lease = lease

    @contextmanager
    def call(self) -> Iterator[Call[Any]]:
        """Lend a call for one use. The tokens that it leaves in its lanes are there for the next use."""
        call = self._scorer.call(lease=self._lease)
        call.held = self._lease.take_lanes()
        try:
            yield call
        finally:
            if call.held is not None:
                nbytes = self._scorer.footprint.lane_bytes(call.held.capacity, len(call.held.lanes))
                self._lease.leave_lanes(call.held, nbytes)
