"""torchao's dynamic INT8 (a scale a token for activations, one an output channel for weights), compiled by inductor
with frozen weights; transformers' layers around it, and a prefix cache managed by hand.

Layers are compiled one by one: as a whole, a model of 24 layers was not ready after 6 minutes. One by one it takes 7 on
two cores of a Zen 4 (bench/log/2026-11-27-peers-of-the-same-arithmetic.md).
"""

from __future__ import annotations

from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

from contender import ModelPaths
from contenders.transformers_prefix import TransformersPrefix
from workloads import Sequence


class TorchaoInt8(TransformersPrefix):
    def load(self, model: ModelPaths, threads: int) -> None:
        import torch._dynamo.config as dynamo
        import torch._inductor.config as inductor

        inductor.freezing = True
        dynamo.recompile_limit = 200  # each layer's frozen weights count as one
        dynamo.accumulated_recompile_limit = 1000
        super().load(model, threads)
        quantize_(self._prm.model, Int8DynamicActivationInt8WeightConfig())
        for layer in self._prm.model.layers:
            layer.compile(dynamic=True)
        for shared, own in ((256, 128), (192, 64)):  # compiled now, and not in the first round
            prefix = list(range(shared))
            self.score([Sequence(prefix + list(range(first, first + own)), [shared]) for first in (1, 2)])
