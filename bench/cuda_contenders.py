"""What bench/cuda_report.py runs, each in a process of its own: rfprm-lite, and transformers in three ways.

    python bench/cuda_contenders.py JSON

The argument says who, with what and on which calls; the last line on stdout is one JSON object.
"""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from transformers import DynamicCache

from contenders.torch_prm import TorchPRM
from rfprm_lite.bundle.open import open_bundle
from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine import cuda
from rfprm_lite.options import LoadOptions
from rfprm_lite.plan.cache import PrefixCache
from rfprm_lite.plan.call import Call
from rfprm_lite.plan.sequence import TokenSequence
from rfprm_lite.scoring.wiring import open_model
from workloads import Sequence, shared_length

BATCH = 16
"""Sequences that transformers gets at once, where it gets several."""
THREADS = 16
Rewards = list[list[float]]


class Contender(Protocol):
    def score(self, call: list[Sequence]) -> tuple[Rewards, int]:
        """Rewards, and how many tokens were run through the model."""

    def memory(self) -> int:
        """The most bytes of the card that were taken."""


class Rfprm:
    """share: prefixes of "nothing" or of each "call". Nothing is kept between calls."""

    def __init__(self, bundle: str, variant: str, device: str, share: str, memory_bytes: int | None = None) -> None:
        self._device, self._share = DeviceSpec.parse(device), share
        self._before = self._free()
        opened = open_bundle(bundle, LoadOptions(variant=variant, device=device, verify=False))
        self._model = open_model(opened, self._device, None, 0, memory_bytes)
        self._cache: PrefixCache[Any] = PrefixCache(0, self._model.split)

    def score(self, call: list[Sequence]) -> tuple[Rewards, int]:
        sequences = [TokenSequence(np.array(s.ids, np.int64), np.array(s.reads, np.int64)) for s in call]
        groups = [[s] for s in sequences] if self._share == "nothing" else [sequences]
        model = self._model
        results = [
            result
            for group in groups
            for result in Call(model.engine, self._cache, packing=model.packing, budget=model.budget).rewards(group)
        ]
        return [r.rewards.tolist() for r in results], sum(r.computed for r in results)

    def memory(self) -> int:
        return self._before - self._free()

    def _free(self) -> int:
        return cuda.card(self._device.index).free_bytes if self._device.kind == "cuda" else 0


class Transformers:
    """way: one "candidate" at a time; a "batch", padded on the right; or behind a shared "prefix", computed once."""

    def __init__(self, checkpoint: str, dtype: str, device: str, way: str) -> None:
        self._device, self._way = device, way
        self._prm = TorchPRM(checkpoint, torch.get_num_threads(), dtype)
        self._prm.model.to(device)
        self._prm.head.to(device)

    @torch.inference_mode()
    def score(self, call: list[Sequence]) -> tuple[Rewards, int]:
        size = 1 if self._way == "candidate" else BATCH
        shared = 0
        if self._way == "prefix":
            shared = min((shared_length(call[0].ids, other.ids) for other in call[1:]), default=0)
            shared = min(shared, *(min(s.reads) for s in call))  # so that all is read behind it
        past: DynamicCache | None = None
        if shared:
            past = DynamicCache()
            self._run([call[0].ids[:shared]], past)
        rewards: Rewards = []
        computed = shared
        for at in range(0, len(call), size):
            batch = call[at : at + size]
            own = [s.ids[shared:] for s in batch]
            cache = None
            if past is not None:
                cache = DynamicCache()
                for i, layer in enumerate(past.layers):
                    cache.update(*(x.repeat(len(batch), 1, 1, 1) for x in (layer.keys, layer.values)), i)
            hidden = self._run(own, cache)
            computed += len(own) * max(map(len, own))
            rewards += [self._prm.rewards(h[[r - shared for r in s.reads]]) for h, s in zip(hidden, batch, strict=True)]
        return rewards, computed

    def _run(self, ids: list[list[int]], cache: DynamicCache | None) -> torch.Tensor:
        """[batch, tokens, hidden_size]; what is padded stands behind, where no causal attention sees it."""
        longest = max(map(len, ids))
        padded = torch.tensor([own + [0] * (longest - len(own)) for own in ids], device=self._device)
        found: torch.Tensor = self._prm.model(
            input_ids=padded, past_key_values=cache, use_cache=cache is not None
        ).last_hidden_state
        return found

    def memory(self) -> int:
        return torch.cuda.max_memory_reserved() if self._device.startswith("cuda") else 0


CONTENDERS = {"rfprm": Rfprm, "transformers": Transformers}


def run(asked: dict[str, Any]) -> dict[str, Any]:
    """Load, warm up on the first call, then rounds over all; with `threads`, calls come from that many at once."""
    started = time.perf_counter()
    contender: Contender = CONTENDERS[asked["who"]](**asked["with"])
    loaded = time.perf_counter() - started
    calls = [[Sequence(**s) for s in call] for call in json.loads(Path(asked["calls"]).read_text(encoding="utf-8"))]
    contender.score(calls[0])
    first = time.perf_counter() - started
    seconds, results = [], []
    for _ in range(asked["rounds"]):
        begun = time.perf_counter()
        if asked.get("threads"):
            with ThreadPoolExecutor(asked["threads"]) as pool:
                results = list(pool.map(contender.score, calls))
        else:
            results = [contender.score(call) for call in calls]
        seconds.append(time.perf_counter() - begun)
    rewards = [reward for found, _ in results for sequence in found for reward in sequence]
    return {
        "load_seconds": loaded,
        "first_rewards_seconds": first,
        "seconds": seconds,
        "computed": sum(n for _, n in results),
        "peak_bytes": contender.memory(),
        "rewards": rewards,
    }


if __name__ == "__main__":
    print(json.dumps(run(json.loads(sys.argv[1]))))
