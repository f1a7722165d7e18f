"""Token sequences to rewards: plan, walk, collect.

In: token sequences. Out: the reward at each of their reads, and the tokens that it took. Knows nothing of text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_lite.encoding import TokenSequence
from rfprm_lite.engine import C, Prefill
from rfprm_lite.prefix import Segment, plan

CHUNK_TOKENS = 512
"""Tokens of one run at most: what a run needs beside the cache grows with this, not with the trace."""
CHUNK_READS = 64
"""Read-outs of one run at most: the last layer holds attention scores for them over all cached tokens."""


@dataclass(frozen=True, slots=True, eq=False)
class SequenceRewards:
    """rewards: float32 [num_read] in [0, 1]. computed: tokens computed for this sequence first."""

    rewards: NDArray[np.float32]
    computed: int


def score_sequences(engine: Prefill[C], sequences: Sequence[TokenSequence]) -> list[SequenceRewards]:
    """Rewards of all sequences, every shared prefix computed once."""
    walk = plan(sequences)
    cache = engine.new_cache(walk.capacity)
    by_segment: list[NDArray[np.float32]] = []
    for segment in walk.segments:
        cache.trim(segment.start)
        by_segment.append(_prefill(engine, cache, segment))
    return [
        SequenceRewards(np.array([by_segment[r.segment][r.index] for r in readouts], np.float32), tokens)
        for readouts, tokens in zip(walk.readouts, walk.tokens_computed, strict=True)
    ]


def _prefill(engine: Prefill[C], cache: C, segment: Segment) -> NDArray[np.float32]:
    rewards = [engine.prefill(cache, ids, reads) for ids, reads in chunks(segment)]
    return np.concatenate(rewards)


def chunks(segment: Segment) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The segment's tokens in runs of at most CHUNK_TOKENS tokens and CHUNK_READS reads.

    Yields ids int64 [S] and reads int64 [R], positions within the run.
    """
    reads = segment.reads - segment.start
    at = 0
    while at < len(segment.ids):
        end = min(at + CHUNK_TOKENS, len(segment.ids))
        inside = reads[(reads >= at) & (reads < end)]
        if len(inside) > CHUNK_READS:
            inside = inside[:CHUNK_READS]
            end = int(inside[-1]) + 1
        yield segment.ids[at:end], inside - at
        at = end
