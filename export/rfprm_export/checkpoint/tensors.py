"""A Hugging Face checkpoint: its dimensions, the shapes of its tensors, and these in blocks of rows.

In: a folder with config.json and safetensors shards. Out: an `Architecture`, checked to be one that the graph
writer knows, and float32 blocks. Runs no code of the checkpoint; never holds more than a block of a tensor.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from rfprm_export.errors import CheckpointError

BLOCK_BYTES = 64 << 20
HEAD_SIZE_STEP, MOST_HEAD_SIZE = 16, 256
"""What GroupQueryAttention's kernels take: its rotary embedding the step, its CUDA kernel the maximum."""
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""Where tensors are: in one file, or in those that the index names."""

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A Qwen2 backbone, as config.json describes it.

    Attributes:
        name: The config's architectures[0].
        num_layers: Layers.
        hidden_size: Features of the residual stream.
        intermediate_size: Features within the MLP.
        num_heads: Query heads.
        num_kv_heads: Heads of keys and values.
        head_size: Features of a head.
        vocab_size: Rows of the embedding table.
        max_positions: Tokens of a text, at most.
        rope_theta: Base of the rotary embedding's wavelengths.
        norm_epsilon: Added to mean squares by norms.
    """

    name: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    max_positions: int
    rope_theta: float
    norm_epsilon: float

    @property
    def q_size(self) -> int:
        """Features of all query heads."""
        return self.num_heads * self.head_size

    @property
    def kv_size(self) -> int:
        """Features of all heads of keys, or of values."""
        return self.num_kv_heads * self.head_size

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Architecture:
        """Check a config.json.

        Raises:
            CheckpointError: It asks for what the graph does not do, or lacks something.
        """
        _require(config, "model_type", "qwen2")
        _require(config, "hidden_act", "silu")
        if config.get("use_sliding_window"):
            raise CheckpointError("config.json: use_sliding_window is true; only full attention is exported")
        if config.get("quantization_config"):
            raise CheckpointError("config.json: the checkpoint is quantised; export from the original weights")
        try:
            heads = int(config["num_attention_heads"])
            hidden = int(config["hidden_size"])
            architecture = cls(
                name=str(config["architectures"][0]),
                num_layers=int(config["num_hidden_layers"]),
                hidden_size=hidden,
                intermediate_size=int(config["intermediate_size"]),
                num_heads=heads,
                num_kv_heads=int(config["num_key_value_heads"]),
                head_size=int(config.get("head_dim") or hidden // heads),
                vocab_size=int(config["vocab_size"]),
                max_positions=int(config["max_position_embeddings"]),
                rope_theta=_rope_theta(config),
                norm_epsilon=float(config["rms_norm_eps"]),
            )
        except CheckpointError:
            raise
        except KeyError as error:
            raise CheckpointError(f"config.json lacks {error}") from error
        except (IndexError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"config.json holds a value that is not as expected: {error}") from error
        if architecture.head_size % HEAD_SIZE_STEP or architecture.head_size > MOST_HEAD_SIZE:
            raise CheckpointError(
                f"config.json: heads of {architecture.head_size}; GroupQueryAttention takes multiples of "
                f"{HEAD_SIZE_STEP} up to {MOST_HEAD_SIZE}"
            )
        return architecture

    def backbone(self) -> dict[str, Shape]:
        """List name and shape of every tensor of the backbone."""
        h, q, kv, inner = self.hidden_size, self.q_size, self.kv_size, self.intermediate_size
        layer = {
            "input_layernorm.weight": (h,),
            "self_attn.q_proj.weight": (q, h),
            "self_attn.q_proj.bias": (q,),
            "self_attn.k_proj.weight": (kv, h),
            "self_attn.k_proj.bias": (kv,),
            "self_attn.v_proj.weight": (kv, h),
            "self_attn.v_proj.bias": (kv,),
            "self_attn.o_proj.weight": (h, q),
            "post_attention_layernorm.weight": (h,),
            "mlp.gate_proj.weight": (inner, h),
            "mlp.up_proj.weight": (inner, h),
            "mlp.down_proj.weight": (h, inner),
        }
        shapes: dict[str, Shape] = {
            "model.embed_tokens.weight": (self.vocab_size, h),
            "model.norm.weight": (h,),
        }
        for i in range(self.num_layers):
            shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
        return shapes


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of a checkpoint before its weights are there.

    Attributes:
        folder: With its config and tokenizer at least.
        architecture: The backbone.
        shapes: Of its tensors, by name.
        still_to_come: Bytes of weights that are not on this machine.
    """

    folder: Path
    architecture: Architecture
    shapes: dict[str, Shape]
    still_to_come: int = 0

    def check_shapes(self, expected: dict[str, Shape], ignored: frozenset[str]) -> None:
        """Check the tensors' names and shapes.

        Args:
            expected: What the checkpoint must hold.
            ignored: What it may hold besides.

        Raises:
            CheckpointError: It lacks a tensor, holds another, or one has another shape.
        """
        missing = sorted(expected.keys() - self.shapes.keys())
        if missing:
            raise CheckpointError(f"the checkpoint lacks {_listed(missing)}; it has {_listed(sorted(self.shapes))}")
        surplus = sorted(self.shapes.keys() - expected.keys() - ignored)
        if surplus:
            raise CheckpointError(f"the checkpoint holds tensors that no recipe accounts for: {_listed(surplus)}")
        for name, shape in expected.items():
            actual = self.shapes[name]
            if actual != shape:
                raise CheckpointError(f"{name} has shape {list(actual)}, the recipe and config.json say {list(shape)}")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened checkpoint.

    Attributes:
        folder: Where it is.
        architecture: The backbone.
        shards: The safetensors file of each tensor.
    """

    folder: Path
    architecture: Architecture
    shards: dict[str, Path]

    @classmethod
    def open(cls, folder: Path) -> Checkpoint:
        """Open a folder.

        Raises:
            CheckpointError: A file is missing or not as expected.
        """
        return cls(folder, load_architecture(folder), _find_shards(folder))

    def outline(self) -> Outline:
        """Tell what the checkpoint holds."""
        return Outline(self.folder, self.architecture, {name: self.shape(name) for name in self.shards})

    def shape(self, name: str) -> Shape:
        """Tell the shape of a tensor."""
        with self._opened(name) as shard:
            return tuple(shard.get_slice(name).get_shape())

    def blocks(self, name: str) -> Iterator[NDArray[np.float32]]:
        """Load a tensor in float32, in blocks of at most BLOCK_BYTES along its first axis."""
        shape = self.shape(name)
        rows = max(1, BLOCK_BYTES // (4 * max(1, int(np.prod(shape[1:])))))
        for start in range(0, shape[0], rows):
            # Opened anew for each block: a mapped shard counts as resident memory as far as it was read.
            with self._opened(name) as shard:
                yield shard.get_slice(name)[start : start + rows].float().numpy()

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Load a whole tensor in float32."""
        return np.concatenate(list(self.blocks(name)))

    def _opened(self, name: str) -> safe_open:
        return safe_open(self.shards[name], framework="pt")


def load_architecture(folder: Path) -> Architecture:
    """Load the architecture of a checkpoint's folder.

    Raises:
        CheckpointError: config.json is missing or not as expected.
    """
    return Architecture.from_config(load_json(folder / "config.json"))


def load_json(path: Path) -> dict[str, Any]:
    """Load a JSON object.

    Raises:
        CheckpointError: The file is missing or no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} holds no JSON object")
    return value


def load_shards(index: Path) -> dict[str, str]:
    """Load from an index the file of each tensor, both by name.

    Raises:
        CheckpointError: The index is not as expected.
    """
    weight_map = load_json(index).get("weight_map")
    if not isinstance(weight_map, dict):
        raise CheckpointError(f"{index} has no weight_map")
    for name, file in weight_map.items():
        if not isinstance(file, str) or Path(file).name != file:
            raise CheckpointError(f"{index}: {name} is in {file!r}, which is no file beside it")
    return weight_map


def _find_shards(folder: Path) -> dict[str, Path]:
    if (folder / INDEX).is_file():
        shards = {name: folder / file for name, file in load_shards(folder / INDEX).items()}
    elif (folder / SINGLE).is_file():
        shards = dict.fromkeys(_names(folder / SINGLE), folder / SINGLE)
    else:
        raise CheckpointError(f"{folder} has neither {SINGLE} nor {INDEX}")
    for path in sorted(set(shards.values())):
        named = {name for name, where in shards.items() if where == path}
        absent = named - _names(path)
        if absent:
            raise CheckpointError(f"{path} lacks {_listed(sorted(absent))}, which the index says it holds")
    return shards


def _names(path: Path) -> set[str]:
    try:
        with safe_open(path, framework="pt") as shard:
            return set(shard.keys())
    except FileNotFoundError as error:
        raise CheckpointError(f"the shard {path} is missing") from error
    except SafetensorError as error:
        raise CheckpointError(f"the shard {path} can't be read, it may be truncated: {error}") from error


def _rope_theta(config: dict[str, Any]) -> float:
    """Version 4 of transformers writes rope_theta and rope_scaling, version 5 rope_parameters."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind != "default":
        raise CheckpointError(f"config.json: rotary embeddings of type {kind!r}; only the default is exported")
    return float(parameters["rope_theta"] if "rope_theta" in parameters else config["rope_theta"])


def _require(config: dict[str, Any], key: str, value: str) -> None:
    if config.get(key) != value:
        raise CheckpointError(f"config.json: {key} is {config.get(key)!r}, only {value!r} is exported")


def _listed(names: list[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
