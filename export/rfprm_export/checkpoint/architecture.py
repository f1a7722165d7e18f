"""A checkpoint's dimensions: the backbones that the graph writer knows.

In: config.json. Out: an `Architecture`, or an error that says what can't be exported.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rfprm_export.errors import CheckpointError

HEAD_SIZE_STEP, MOST_HEAD_SIZE = 16, 256
"""What GroupQueryAttention's kernels take: its rotary embedding the step, its CUDA kernel the maximum."""


Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A Qwen2 backbone, as config.json describes it.

    Attributes:
        name: The config's architectures[0].
        model_type: The config's.
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
    model_type: str
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
                model_type=str(config["model_type"]),
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
