"""transformers with a hand-managed prefix cache: what a careful user of the authors' recipe would write.

The prefix that all sequences of a call share is computed once; each candidate runs on top of it and is cropped off.
"""

from __future__ import annotations

import torch
from transformers import DynamicCache

from contender import Rewards
from contenders.torch_prm import TorchContender
from workloads import Sequence, shared_length

CHUNK = 512


class TransformersPrefix(TorchContender):
    @torch.inference_mode()
    def score(self, call: list[Sequence]) -> tuple[Rewards, int]:
        first = call[0].ids
        shared = min((shared_length(first, other.ids) for other in call[1:]), default=0)
        cache = DynamicCache()
        prefix = self._run(call[0].ids[:shared], cache)
        rewards: Rewards = []
        for sequence in call:
            own = self._run(sequence.ids[shared:], cache)
            hidden = torch.stack([prefix[r] if r < shared else own[r - shared] for r in sequence.reads])
            rewards.append(self._prm.rewards(hidden))
            if len(sequence.ids) > shared:
                cache.crop(shared - len(sequence.ids))  # a negative count takes so many off, in every version
        return rewards, shared + sum(len(s.ids) - shared for s in call)

    def _run(self, ids: list[int], cache: DynamicCache) -> torch.Tensor:
        """Hidden states of `ids` on top of the cache: [tokens, hidden_size]."""
        found = [
            self._prm.model(
                input_ids=torch.tensor([ids[at : at + CHUNK]]), past_key_values=cache, use_cache=True
            ).last_hidden_state[0]
            for at in range(0, len(ids), CHUNK)
        ]
        return torch.cat(found) if found else torch.empty(0)
