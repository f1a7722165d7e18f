"""The oracle: the PRM in PyTorch.

In: a checkpoint, its recipe, and the ids of texts. Out: step rewards in FP32, by plain PyTorch: the layers, the head,
its activation. No code of the checkpoint. That the ids are those of the authors' code is asserted in
`rfprm_export.oracle.assertions`, as far as the tokenizer can tell, and in the tests for each family.

One layer's weights are in memory at a time, whatever the model's size: a model of a single layer is given the weights
of each in turn, and all traces pass through it before the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase, Qwen2Config, Qwen2Model

from rfprm_export.checkpoint.head import Tensors, head_names
from rfprm_export.checkpoint.tensors import Checkpoint, load_json
from rfprm_export.errors import CheckpointError
from rfprm_lite.bundle.recipe import Head
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.trace import Problem, Trace

Rewards = NDArray[np.float32]


class Reference:
    """The oracle of one checkpoint. Each pass reads the weights anew.

    Attributes:
        checkpoint: The checkpoint.
        head: The tensors of its head, float32 by the names that graphs use.
    """

    def __init__(self, checkpoint: Checkpoint, head: Head, tensors: Tensors, encoder: Encoder) -> None:
        """`head`: the recipe's; `tensors`: its weights; `encoder`: the runtime's, for the checkpoint's tokenizer."""
        self.checkpoint, self.head = checkpoint, tensors
        self._encoder = encoder
        self._recipe = head
        self._head = _head(head, tensors)

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
        return Layers(self.checkpoint, ids)

    @torch.inference_mode()
    def head_rewards(self, layers: Layers) -> list[Rewards]:
        """Score texts that have passed all layers: float32 [tokens] of each."""
        norm = layers.norm()
        return [_rewards(self._recipe, self._head(norm(hidden))[0]).numpy() for hidden in layers.hidden]


def _rewards(head: Head, logits: torch.Tensor) -> torch.Tensor:
    """Outputs of the last layer, [tokens, outputs] -> rewards, [tokens]."""
    if head.activation == "softmax":
        logits = logits.softmax(-1)
    elif head.activation == "sigmoid":
        logits = logits.sigmoid()
    return ((logits @ torch.tensor(head.weights)) - head.mean) / head.std


def _head(head: Head, tensors: Tensors) -> torch.nn.Sequential:
    layers: list[torch.nn.Module] = []
    for weight, bias in head_names(head):
        linear = torch.nn.Linear(tensors[weight].shape[1], tensors[weight].shape[0])
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(tensors[weight]))
            linear.bias.copy_(torch.from_numpy(tensors[bias]))
        layers += [torch.nn.ReLU(), linear] if layers else [linear]
    return torch.nn.Sequential(*layers)


class Layers:
    """Texts on their way through the network, with one layer's weights in memory at a time.

    Attributes:
        checkpoint: Whose layers.
        hidden: The residual stream of each text, float32 [1, tokens, hidden_size].
    """

    @torch.inference_mode()
    def __init__(self, checkpoint: Checkpoint, ids: Sequence[torch.Tensor]) -> None:
        self.checkpoint = checkpoint
        self.hidden = _embed(checkpoint, ids)
        self._next = 0
        self._model = _one_layer(checkpoint)
        self._norm = self._model.norm
        self._model.set_submodule("norm", torch.nn.Identity())

    @torch.inference_mode()
    def load(self) -> torch.nn.Module:
        """Load the weights of the next layer; returns the layer."""
        layer: torch.nn.Module = self._model.layers[0]
        for name, parameter in layer.named_parameters():
            _fill(parameter, self.checkpoint, f"model.layers.{self._next}.{name}")
        self._next += 1
        return layer

    @torch.inference_mode()
    def run(self) -> None:
        """Pass all texts through the layer that was loaded."""
        for i, hidden in enumerate(self.hidden):  # one at a time, so that they are not in memory twice
            self.hidden[i] = self._model(inputs_embeds=hidden, use_cache=False).last_hidden_state

    @torch.inference_mode()
    def norm(self) -> torch.nn.Module:
        """Load and return the final norm."""
        _fill(self._norm.weight, self.checkpoint, "model.norm.weight")
        return self._norm


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


def _one_layer(checkpoint: Checkpoint) -> Qwen2Model:
    config = load_json(checkpoint.folder / "config.json")
    # Each version of transformers passes over the other's way to write down rotary embeddings, and takes its default;
    # all understand rope_theta. A precision would make the parameters in that, layer_types count the layers.
    unwanted = ("rope_parameters", "rope_scaling", "torch_dtype", "dtype", "layer_types")
    config = {key: value for key, value in config.items() if key not in unwanted}
    config |= {"rope_theta": checkpoint.architecture.rope_theta, "num_hidden_layers": 1}
    config |= {"vocab_size": 1, "pad_token_id": None, "use_sliding_window": False}
    model: Qwen2Model = Qwen2Model(Qwen2Config(**config))
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise RuntimeError("transformers made the reference in another precision than float32")
    model.train(False)
    return model


def _fill(parameter: torch.nn.Parameter, checkpoint: Checkpoint, name: str) -> None:
    row = 0
    for block in checkpoint.blocks(name):
        parameter[row : row + len(block)].copy_(torch.from_numpy(block))
        row += len(block)
    if row != len(parameter):
        raise RuntimeError(f"{name} has {row} rows, transformers' Qwen2Model wants {len(parameter)}")


def _embed(checkpoint: Checkpoint, texts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """[1, tokens, hidden_size] for each text; the table is read once, block by block."""
    ids = torch.cat([text[0] for text in texts]).numpy()
    embedded = np.empty((len(ids), checkpoint.architecture.hidden_size), np.float32)
    row = 0
    for block in checkpoint.blocks("model.embed_tokens.weight"):
        here = (ids >= row) & (ids < row + len(block))
        embedded[here] = block[ids[here] - row]
        row += len(block)
    split = torch.split(torch.from_numpy(embedded)[None], [text.shape[1] for text in texts], dim=1)
    return [text.clone() for text in split]  # each can be let go of by itself
