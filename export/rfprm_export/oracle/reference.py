"""The oracle: the PRM in PyTorch.

In: a checkpoint, its recipe, and the ids of texts. Out: step rewards in FP32, by plain PyTorch: the layers, the head,
its activation. No code of the checkpoint. That the ids are those of the authors' code is asserted in
`rfprm_export.oracle.assertions`, as far as the tokenizer can tell, and in the tests for each family.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from rfprm_export.checkpoint.head import Tensors, head_names
from rfprm_export.checkpoint.tensors import Checkpoint
from rfprm_export.errors import CheckpointError
from rfprm_export.oracle.device import CPU, to_numpy
from rfprm_export.oracle.layers import Layers
from rfprm_lite.bundle.recipe import Head
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.trace import Problem, Trace

Rewards = NDArray[np.float32]


class Reference:
    """The oracle of one checkpoint. Each pass reads the weights anew.

    Attributes:
        checkpoint: The checkpoint.
        head: The tensors of its head, float32 by the names that graphs use.
        device: Where it computes.
    """

    def __init__(
        self, checkpoint: Checkpoint, head: Head, tensors: Tensors, encoder: Encoder, device: torch.device = CPU
    ) -> None:
        """Make the oracle.

        Args:
            checkpoint: The checkpoint.
            head: The recipe's.
            tensors: The head's weights.
            encoder: The runtime's, for the checkpoint's tokenizer.
            device: Where it computes; see `rfprm_export.oracle.device.torch_device`.
        """
        self.checkpoint, self.head, self.device = checkpoint, tensors, device
        self._encoder = encoder
        self._recipe = head
        self._head = _head(head, tensors).to(device)

    def step_rewards(self, traces: Sequence[tuple[Problem, Trace]]) -> list[Rewards]:
        """Score traces.

        Returns:
            float32 [num_steps] for each problem and trace.
        """
        sequences = [self._encoder.step_sequences(problem, trace) for problem, trace in traces]
        ids = [torch.from_numpy(sequence.ids)[None] for of_trace in sequences for sequence in of_trace]
        rewards = iter(self.rewards(ids))
        return [np.concatenate([next(rewards)[sequence.read_at] for sequence in of_trace]) for of_trace in sequences]

    def rewards(self, ids: Sequence[torch.Tensor]) -> list[Rewards]:
        """Score texts at every position: int64 [1, tokens] of each -> float32 [tokens] of each."""
        layers = self.layers(ids)
        for _ in range(self.checkpoint.architecture.num_layers):
            layers.load()
            layers.run()
        return self.head_rewards(layers)

    def layers(self, ids: Sequence[torch.Tensor]) -> Layers:
        """Embed texts, int64 [1, tokens] each, before the first layer."""
        return Layers(self.checkpoint, ids, self.device)

    @torch.inference_mode()
    def head_rewards(self, layers: Layers) -> list[Rewards]:
        """Score texts that have passed all layers: float32 [tokens] of each."""
        norm = layers.norm()
        return [to_numpy(_rewards(self._recipe, self._head(norm(hidden))[0])) for hidden in layers.hidden]


def _rewards(head: Head, logits: torch.Tensor) -> torch.Tensor:
    """Outputs of the last layer, [tokens, outputs] -> rewards, [tokens]."""
    if head.activation == "softmax":
        logits = logits.softmax(-1)
    elif head.activation == "sigmoid":
        logits = logits.sigmoid()
    return ((logits @ torch.tensor(head.weights).to(logits.device)) - head.mean) / head.std


def _head(head: Head, tensors: Tensors) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for weight, bias in head_names(head):
        linear = torch.nn.Linear(tensors[weight].shape[1], tensors[weight].shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(tensors[weight]))
            linear.bias.copy_(torch.from_numpy(tensors[bias]))
        layers += [torch.nn.ReLU(), linear] if layers else [linear]
    return torch.nn.Sequential(*layers)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the checkpoint's own tokenizer, as the authors do, but without remote code.

    Raises:
        CheckpointError: There is none, or transformers can't load it.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # tokenizers raises Exception itself
        raise CheckpointError(f"transformers can't load the tokenizer of {folder}: {error}") from error
    return tokenizer
