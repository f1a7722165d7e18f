"""rfprm-lite, with and without prefix sharing, from token ids on."""

from __future__ import annotations

import numpy as np

from contender import ModelPaths, Rewards
from rfprm_lite.bundle import HubOptions, open_bundle
from rfprm_lite.device import DeviceSpec
from rfprm_lite.encoding import TokenSequence
from rfprm_lite.engine import Engine
from rfprm_lite.scorer import SequenceRewards, score_sequences
from workloads import Sequence


class Rfprm:
    def __init__(self, variant: str, share: bool) -> None:
        self._variant, self._share = variant, share

    def load(self, model: ModelPaths, threads: int) -> None:
        bundle = open_bundle(model.bundle, self._variant, "cpu", HubOptions(), verify=False)
        self._engine = Engine.open(bundle, DeviceSpec("cpu"), threads)

    def score(self, call: list[Sequence]) -> tuple[Rewards, int]:
        sequences = [TokenSequence(np.array(s.ids, np.int64), np.array(s.reads, np.int64)) for s in call]
        results: list[SequenceRewards] = []
        for group in [sequences] if self._share else [[s] for s in sequences]:
            results += score_sequences(self._engine, group)
        return [r.rewards.tolist() for r in results], sum(r.computed for r in results)
