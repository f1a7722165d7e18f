"""A checkpoint's architecture: its row in the table of backbones, and the numbers of its config.

In: config.json. Out: an `Architecture`, or an error that says what can't be exported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rfprm_export.checkpoint.rope import Rope
from rfprm_export.errors import CheckpointError
from rfprm_export.families.backbones import (
    ATTENTION_NORM,
    ATTENTION_POST_NORM,
    BACKBONES,
    EMBEDDING,
    FINAL_NORM,
    KEY_NORM,
    MLP_NORM,
    MLP_POST_NORM,
    ONLY,
    QUERY_NORM,
    Backbone,
)

HEAD_SIZE_STEP, MOST_HEAD_SIZE = 16, 256
"""What GroupQueryAttention's kernels take: its rotary embedding the step, its CUDA kernel the maximum."""
MOST, MOST_LAYERS = 2**31 - 1, 1000
"""The largest size of a tensor's axis that is taken for one, and the most layers."""
ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
"""What the graph has a node for."""
NORMS = (ATTENTION_NORM, MLP_NORM, ATTENTION_POST_NORM, MLP_POST_NORM)
"""A layer's norms of whole rows."""
FULL, SLIDING = "full_attention", "sliding_attention"
"""What config.json calls layers that see all tokens, and those that see a window."""


Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Architecture:
    """A decoder, as config.json describes it.

    Attributes:
        kind: Its row in the table.
        name: The config's architectures[0].
        num_layers: Layers.
        hidden_size: Features of the residual stream.
        intermediate_size: Features within the MLP.
        num_heads: Query heads.
        num_kv_heads: Heads of keys and values.
        head_size: Features of a head.
        vocab_size: Rows of the embedding table.
        max_positions: Tokens of a text, at most.
        rope: Its rotary embedding.
        norm_epsilon: Added to mean squares by norms.
        activation: Of the MLP's gate, one of `ACTIVATIONS`.
        windows: How many tokens each layer sees, the token itself among them; None for all.
        query_scale: What scores of attention are multiplied with.
        softcap: What scores of attention stay within; None for no bound.
        embedding_scale: What embeddings are multiplied with; None for nothing.
    """

    kind: Backbone
    name: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_size: int
    vocab_size: int
    max_positions: int
    rope: Rope
    norm_epsilon: float
    activation: str
    windows: tuple[int | None, ...]
    query_scale: float
    softcap: float | None
    embedding_scale: float | None

    @property
    def q_size(self) -> int:
        """Features of all query heads."""
        return self.num_heads * self.head_size

    @property
    def kv_size(self) -> int:
        """Features of all heads of keys, or of values."""
        return self.num_kv_heads * self.head_size

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Architecture:
        """Check a config.json.

        Raises:
            CheckpointError: It asks for what the graph does not do, or lacks something.
        """
        kind = BACKBONES.get(str(config.get("model_type", "")))
        if kind is None:
            raise CheckpointError(
                f"config.json: model_type is {config.get('model_type')!r}; {', '.join(BACKBONES)} can be exported"
            )
        config = {**kind.defaults, **config}
        for key, value in {**ONLY, **kind.only}.items():
            if (config.get(key) or value) != value:
                raise CheckpointError(f"config.json: {key} is {config[key]!r}, only {value!r} is exported")
        if config.get(kind.activation) not in ACTIVATIONS:
            raise CheckpointError(
                f"config.json: {kind.activation} is {config.get(kind.activation)!r}, only {' and '.join(ACTIVATIONS)} "
                "are exported"
            )
        if config.get("quantization_config"):
            raise CheckpointError("config.json: the checkpoint is quantised; export from the original weights")
        try:
            architecture = cls._of(kind, config)
        except CheckpointError:
            raise
        except KeyError as error:
            raise CheckpointError(f"config.json lacks {error}") from error
        except (ArithmeticError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"config.json holds a value that is not as expected: {error}") from error
        if architecture.head_size % HEAD_SIZE_STEP or architecture.head_size > MOST_HEAD_SIZE:
            raise CheckpointError(
                f"config.json: heads of {architecture.head_size}; GroupQueryAttention takes multiples of "
                f"{HEAD_SIZE_STEP} up to {MOST_HEAD_SIZE}"
            )
        return architecture

    @classmethod
    def _of(cls, kind: Backbone, config: Mapping[str, Any]) -> Architecture:
        heads, hidden = _count(config, "num_attention_heads"), _count(config, "hidden_size")
        layers = _count(config, "num_hidden_layers", MOST_LAYERS)
        head_size = _count(config, "head_dim") if config.get("head_dim") else hidden // heads
        scale, softcap = (config[key] if key else None for key in (kind.query_scale, kind.softcap))
        return cls(
            kind=kind,
            name=str(config["architectures"][0]),
            num_layers=layers,
            hidden_size=hidden,
            intermediate_size=_count(config, "intermediate_size"),
            num_heads=heads,
            num_kv_heads=_count(config, "num_key_value_heads"),
            head_size=head_size,
            vocab_size=_count(config, "vocab_size"),
            max_positions=_count(config, "max_position_embeddings"),
            rope=Rope.from_config(config),
            norm_epsilon=float(config["rms_norm_eps"]),
            activation=str(config[kind.activation]),
            windows=_windows(kind, config, layers),
            query_scale=float(head_size if scale is None else scale) ** -0.5,
            softcap=None if softcap is None else float(softcap),
            embedding_scale=hidden**0.5 if kind.scaled_embeddings else None,
        )

    def offset(self, name: str) -> float:
        """Tell what is added to a tensor, by our name, so that it means what Llama's does."""
        module = name.removesuffix(".weight").split(".", 3)[-1] if name.startswith("model.layers.") else name
        return self.kind.norm_offset if module in NORMS or name == f"model.{FINAL_NORM}.weight" else 0.0

    def layer(self) -> dict[str, Shape]:
        """List name and shape of every tensor of a layer, in our words."""
        h, q, kv, inner = self.hidden_size, self.q_size, self.kv_size, self.intermediate_size
        sizes = {"q": q, "k": kv, "v": kv}
        shapes: dict[str, Shape] = {f"{ATTENTION_NORM}.weight": (h,)}
        for part, size in sizes.items():
            shapes[f"self_attn.{part}_proj.weight"] = (size, h)
            if self.kind.qkv_bias:
                shapes[f"self_attn.{part}_proj.bias"] = (size,)
        if self.kind.qk_norm:
            shapes |= {f"{norm}.weight": (self.head_size,) for norm in (QUERY_NORM, KEY_NORM)}
        shapes |= {
            "self_attn.o_proj.weight": (h, q),
            f"{MLP_NORM}.weight": (h,),
            "mlp.gate_proj.weight": (inner, h),
            "mlp.up_proj.weight": (inner, h),
            "mlp.down_proj.weight": (h, inner),
        }
        if self.kind.post_norms:
            shapes |= {f"{norm}.weight": (h,) for norm in (ATTENTION_POST_NORM, MLP_POST_NORM)}
        return shapes

    def backbone(self) -> dict[str, Shape]:
        """List name and shape of every tensor of the backbone, in our words."""
        shapes: dict[str, Shape] = {
            f"model.{EMBEDDING}.weight": (self.vocab_size, self.hidden_size),
            f"model.{FINAL_NORM}.weight": (self.hidden_size,),
        }
        layer = self.layer()
        for i in range(self.num_layers):
            shapes |= {f"model.layers.{i}.{name}": shape for name, shape in layer.items()}
        return shapes


def _count(config: Mapping[str, Any], key: str, most: int = MOST) -> int:
    value = config[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= most or value % 1:
        raise CheckpointError(f"config.json: {key} is {value!r:.80}, which is no whole number from 1 to {most}")
    return int(value)


def _windows(kind: Backbone, config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """The window of each layer; a window as long as the longest text is none."""
    window = config.get("sliding_window")
    sliding = {
        "none": [False] * layers,
        "all": [window is not None] * layers,
        "alternate": [window is not None and i % 2 == 0 for i in range(layers)],
    }[kind.windows]
    types = [SLIDING if slides else FULL for slides in sliding]
    if config.get("layer_types") not in (None, types):
        raise CheckpointError(
            f"config.json: layer_types are {config['layer_types']}, only {types} are exported of a {kind.model_type}"
        )
    matters = window is not None and int(window) < int(config["max_position_embeddings"])
    return tuple(int(config["sliding_window"]) if slides and matters else None for slides in sliding)
