"""The layers of a checkpoint in PyTorch, and texts that pass them.

In: a checkpoint and token ids. Out: the residual stream behind each layer, float32. Plain transformers classes; no code
of the checkpoint.

One layer's weights are in memory at a time, whatever the model's size: a Qwen2Model of a single layer is given the
weights of each in turn, and all texts pass through it before the next.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import Qwen2Config, Qwen2Model

from rfprm_export.checkpoint.tensors import Checkpoint, load_json


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
