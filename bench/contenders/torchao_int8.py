"""torchao's dynamic INT8 (a scale a token for activations, one an output channel for weights), compiled by inductor
with frozen weights; transformers' layers around it, and a prefix cache managed by hand.

Of 24 layers this takes more than 6 minutes before the first reward, on two cores of a Zen 4; how long was not seen
(bench/log/2026-11-27-peers-of-the-same-arithmetic.md).
"""

from __future__ import annotations

import torch
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

from contender import ModelPaths
from contenders.transformers_prefix import TransformersPrefix
from workloads import Sequence


class TorchaoInt8(TransformersPrefix):
    def load(self, model: ModelPaths, threads: int) -> None:
        import torch._inductor.config as inductor

        inductor.freezing = True
        super().load(model, threads)
        quantize_(self._prm.model, Int8DynamicActivationInt8WeightConfig())
        self._prm.model = torch.compile(self._prm.model, dynamic=True)
        for shared, own in ((256, 128), (192, 64)):  # compiled now, and not in the first round
            prefix = list(range(shared))
            self.score([Sequence(prefix + list(range(first, first + own)), [shared]) for first in (1, 2)])
