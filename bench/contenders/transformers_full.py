"""The authors' recipe: transformers, one candidate at a time, the prompt read again for each."""

from __future__ import annotations

import torch

from contender import Rewards
from contenders.torch_prm import TorchContender
from workloads import Sequence


class TransformersFull(TorchContender):
    @torch.inference_mode()
    def score(self, call: list[Sequence]) -> tuple[Rewards, int]:
        rewards: Rewards = []
        for sequence in call:
            hidden = self._prm.model(input_ids=torch.tensor([sequence.ids]), use_cache=False).last_hidden_state[0]
            rewards.append(self._prm.rewards(hidden[sequence.reads]))
        return rewards, sum(len(sequence.ids) for sequence in call)
