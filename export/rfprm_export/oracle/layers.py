"""The layers of a checkpoint in PyTorch, and texts that pass them.

In: a checkpoint and token ids. Out: the residual stream behind each layer, float32. The model is transformers' own for
the checkpoint's config; no code of the checkpoint.

One layer's weights are in memory at a time, whatever the model's size: a model of a single layer is given the weights
of each in turn, and all texts pass through it before the next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig, AutoModel

from rfprm_export.checkpoint.architecture import Architecture
from rfprm_export.checkpoint.rope import rope_parameters
from rfprm_export.checkpoint.tensors import Checkpoint, load_json
from rfprm_export.errors import CheckpointError
from rfprm_export.families.backbones import EMBEDDING, FINAL_NORM
from rfprm_export.oracle.device import CPU

OWN_WORDS = (
    "model_type",
    "auto_map",
    "rope_parameters",
    "rope_scaling",
    "torch_dtype",
    "dtype",
    "layer_types",
    "_attn_implementation",
    "attn_implementation",
)
"""Keys of a config that are not handed on. Each version of transformers passes over the other's way to write down
rotary embeddings, and takes its default; a precision would make the parameters in that; layer_types count the layers;
auto_map leads to code of the checkpoint."""


class Layers:
    """Texts on their way through the network, with one layer's weights in memory at a time.

    Attributes:
        checkpoint: Whose layers.
        hidden: The residual stream of each text, float32 [1, tokens, hidden_size], on the device.
    """

    @torch.inference_mode()
    def __init__(self, checkpoint: Checkpoint, ids: Sequence[torch.Tensor], device: torch.device = CPU) -> None:
        self.checkpoint = checkpoint
        self.hidden = [text.to(device) for text in _embed(checkpoint, ids)]
        architecture = checkpoint.architecture
        config = load_json(checkpoint.config_folder / "config.json")
        self._models = {w: _one_layer(config, architecture, w).to(device) for w in set(architecture.windows)}
        self._model = self._models[architecture.windows[0]]
        self._norm: torch.nn.Module = self._model.get_submodule(FINAL_NORM)
        for model in self._models.values():
            model.set_submodule(FINAL_NORM, torch.nn.Identity())
        self._next = 0

    @torch.inference_mode()
    def load(self) -> torch.nn.Module:
        """Load the weights of the next layer; returns the layer."""
        self._model = self._models[self.checkpoint.architecture.windows[self._next]]
        layer = self._model.get_submodule("layers.0")
        for name in self.checkpoint.architecture.layer():
            parameter = layer.get_parameter(oracle_name(self.checkpoint.architecture, name))
            _fill(parameter, self.checkpoint, f"model.layers.{self._next}.{name}")
        self._next += 1
        return layer

    @torch.inference_mode()
    def run(self) -> None:
        """Pass all texts through the layer that was loaded."""
        layer = self._model.get_submodule("layers.0")
        for i, hidden in enumerate(self.hidden):  # one at a time, so that they are not in memory twice
            hook = layer.register_forward_pre_hook(_Stream(hidden))
            self.hidden[i] = self._model(inputs_embeds=hidden, use_cache=False).last_hidden_state
            hook.remove()

    @torch.inference_mode()
    def norm(self) -> torch.nn.Module:
        """Load and return the final norm."""
        _fill(self._norm.get_parameter("weight"), self.checkpoint, f"model.{FINAL_NORM}.weight")
        return self._norm


class _Stream:
    """Gives a layer the residual stream itself: some models scale what they take for embeddings, in some versions."""

    def __init__(self, hidden: torch.Tensor) -> None:
        self._hidden = hidden

    def __call__(self, _module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._hidden, *inputs[1:])


def require_oracle(architecture: Architecture) -> None:
    """Check that this transformers has a model to compare with.

    Raises:
        CheckpointError: It has none.
    """
    model_type = architecture.kind.of_oracle.model_type
    try:
        AutoConfig.for_model(model_type)
    except ValueError as error:
        raise CheckpointError(
            f"transformers {transformers.__version__} has no {model_type} to compare with: install a newer one"
        ) from error


def oracle_name(architecture: Architecture, ours: str) -> str:
    """Translate a tensor's name within a layer from our words to those of the oracle's model."""
    module, _, tensor = ours.rpartition(".")
    return f"{architecture.kind.of_oracle.theirs(module)}.{tensor}"


def _one_layer(config: dict[str, Any], architecture: Architecture, window: int | None) -> torch.nn.Module:
    kind = architecture.kind.of_oracle
    rope = rope_parameters(config)
    plain = {key: value for key, value in config.items() if key not in OWN_WORDS}
    plain |= {"num_hidden_layers": 1, "vocab_size": 1, "use_sliding_window": False}
    plain |= dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id"))
    plain |= {"head_dim": architecture.head_size, "rope_theta": architecture.rope.theta}
    if kind.windows != "none":
        # One longer than any text is none, in every version.
        whole = None if kind.windows == "all" else architecture.max_positions
        plain["sliding_window"] = whole if window is None else window
    if architecture.rope.kind != "default":
        plain["rope_scaling"] = {**rope, "rope_theta": architecture.rope.theta}
        # Some versions take the most positions for the original ones.
        original = rope.get("original_max_position_embeddings") if architecture.rope.kind == "yarn" else None
        plain["max_position_embeddings"] = original or config["max_position_embeddings"]
    attention = "sdpa" if architecture.softcap is None else "eager"  # the other passes over a bound of its scores
    made = AutoConfig.for_model(kind.model_type, **plain)
    model: torch.nn.Module = AutoModel.from_config(made, attn_implementation=attention)  # type: ignore[no-untyped-call]
    if any(parameter.dtype != torch.float32 for parameter in model.parameters()):
        raise RuntimeError("transformers made the reference in another precision than float32")
    layer = model.get_submodule("layers.0")
    expected = {oracle_name(architecture, name) for name in architecture.layer()}
    if surplus := {name for name, _ in layer.named_parameters()} ^ expected:
        raise RuntimeError(f"transformers' layer and the table of backbones differ in {sorted(surplus)}")
    model.train(False)
    return model


def _fill(parameter: torch.nn.Parameter, checkpoint: Checkpoint, name: str) -> None:
    row = 0
    for block in checkpoint.blocks(name):
        parameter[row : row + len(block)].copy_(torch.from_numpy(block))
        row += len(block)
    if row != len(parameter):
        raise RuntimeError(f"{name} has {row} rows, transformers' model wants {len(parameter)}")
    if offset := checkpoint.architecture.offset(name):  # which transformers adds itself
        parameter.sub_(offset)


def _embed(checkpoint: Checkpoint, texts: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """[1, tokens, hidden_size] for each text; the table is read once, block by block."""
    ids = torch.cat([text[0] for text in texts]).numpy()
    embedded = np.empty((len(ids), checkpoint.architecture.hidden_size), np.float32)
    row = 0
    for block in checkpoint.blocks(f"model.{EMBEDDING}.weight"):
        here = (ids >= row) & (ids < row + len(block))
        embedded[here] = block[ids[here] - row]
        row += len(block)
    if (scale := checkpoint.architecture.embedding_scale) is not None:
        embedded *= np.float32(scale)
    split = torch.split(torch.from_numpy(embedded)[None], [text.shape[1] for text in texts], dim=1)
    return [text.clone() for text in split]  # each can be let go of by itself
