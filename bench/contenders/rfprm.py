"""rfprm-lite, with and without prefix sharing, from token ids on."""

from __future__ import annotations

from typing import Literal

import numpy as np

from contender import ModelPaths, Rewards
from rfprm_lite.bundle.open import open_bundle
from rfprm_lite.engine.kv import Block
from rfprm_lite.options import LoadOptions
from rfprm_lite.plan.cache import PrefixCache
from rfprm_lite.plan.call import Call
from rfprm_lite.plan.sequence import SequenceRewards, TokenSequence
from rfprm_lite.scoring.wiring import open_engine
from workloads import Sequence

CACHE_BYTES = 2**28


class Rfprm:
    """share: prefixes of "nothing", of each "call", or of all "calls"."""

    def __init__(self, variant: str, share: Literal["nothing", "call", "calls"]) -> None:
        self._variant, self._share = variant, share
        self.begin()

    def load(self, model: ModelPaths, threads: int) -> None:
        bundle = open_bundle(model.bundle, LoadOptions(variant=self._variant, verify=False))
        self._engine = open_engine(bundle, threads)

    def begin(self) -> None:
        self._cache = PrefixCache(CACHE_BYTES if self._share == "calls" else 0, Block.split)

    def score(self, call: list[Sequence]) -> tuple[Rewards, int]:
        sequences = [TokenSequence(np.array(s.ids, np.int64), np.array(s.reads, np.int64)) for s in call]
        results: list[SequenceRewards] = []
        for group in [[s] for s in sequences] if self._share == "nothing" else [sequences]:
            results += Call(self._engine, self._cache).rewards(group)
        return [r.rewards.tolist() for r in results], sum(r.computed for r in results)
