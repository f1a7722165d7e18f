"""The table of backbones: what config.json says in other words, and what a transformer of that kind has or lacks.

A row is data. Everything else in the exporter goes by the `Architecture` that is read through it
(rfprm_export.checkpoint.architecture), in the words of Llama's checkpoints: `model.layers.0.self_attn.q_proj.weight`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

EMBEDDING, FINAL_NORM, LM_HEAD = "embed_tokens", "norm", "lm_head"
"""Our names of the modules outside the layers."""
ATTENTION_NORM, MLP_NORM = "input_layernorm", "post_attention_layernorm"
"""Our names of a layer's norms before attention and MLP."""
QUERY_NORM, KEY_NORM = "self_attn.q_norm", "self_attn.k_norm"
"""Our names of the norms within each head."""
ATTENTION_POST_NORM, MLP_POST_NORM = "self_attn.post_norm", "mlp.post_norm"
"""Our names of the norms that what attention and MLP add passes, in backbones that have them."""


@dataclass(frozen=True, slots=True)
class Backbone:
    """What transformers of one model_type have in common.

    Attributes:
        model_type: In config.json.
        qkv_bias: Whether queries, keys and values have biases.
        qk_norm: Whether each head of queries and keys passes a norm before it is rotated.
        norm_offset: Added to the weights of the norms outside the heads.
        post_norms: Whether what attention and MLP add to the residual stream passes norms of its own.
        scaled_embeddings: Whether embeddings are multiplied by the square root of the hidden size.
        windows: Which layers see no further back than `sliding_window`: none, all, or every second from the first on.
        activation: Key of the config for the MLP's activation.
        query_scale: Key for the number whose root divides the scores of attention; by default that is the head's size.
        softcap: Key for the bound that scores of attention stay within.
        defaults: What holds where the config leaves it out.
        only: Keys of the config whose one value can be exported.
        names: Our name of a module (Llama's, within a layer) -> this backbone's, where they differ.
        fused: Name of the module whose rows are the queries', keys' and values' of one head of keys and values after
            the other, instead of three modules.
        oracle: The model_type whose PyTorch model computes the same, where transformers has none of this one.
    """

    model_type: str
    qkv_bias: bool = False
    qk_norm: bool = False
    norm_offset: float = 0.0
    post_norms: bool = False
    scaled_embeddings: bool = False
    windows: Literal["none", "all", "alternate"] = "none"
    activation: str = "hidden_act"
    query_scale: str | None = None
    softcap: str | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    only: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    fused: str | None = None
    oracle: str | None = None

    def theirs(self, module: str) -> str:
        """Translate our name of a module within a layer, or outside the layers."""
        return self.names.get(module, module)

    @property
    def of_oracle(self) -> Backbone:
        """The row whose PyTorch model is the oracle."""
        return BACKBONES[self.oracle] if self.oracle else self


_ROWS = (
    Backbone("qwen2", qkv_bias=True, only={"use_sliding_window": False}),
    Backbone("llama", defaults={"rope_theta": 10_000.0}, only={"attention_bias": False, "mlp_bias": False}),
    Backbone("mistral", windows="all", defaults={"rope_theta": 10_000.0, "sliding_window": 4_096}),
    Backbone(
        "qwen3",
        qk_norm=True,
        defaults={"head_dim": 128},
        only={"use_sliding_window": False, "attention_bias": False},
    ),
    Backbone(
        "gemma2",
        norm_offset=1.0,
        post_norms=True,
        scaled_embeddings=True,
        windows="alternate",
        activation="hidden_activation",
        query_scale="query_pre_attn_scalar",
        softcap="attn_logit_softcapping",
        defaults={
            "head_dim": 256,
            "rope_theta": 10_000.0,
            "sliding_window": 4_096,
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 256,
            "attn_logit_softcapping": 50.0,
        },
        only={"attention_bias": False, "use_bidirectional_attention": False},
        names={
            MLP_NORM: "pre_feedforward_layernorm",
            ATTENTION_POST_NORM: "post_attention_layernorm",
            MLP_POST_NORM: "post_feedforward_layernorm",
        },
    ),
    Backbone(
        "internlm2",
        only={"bias": False},
        names={
            EMBEDDING: "tok_embeddings",
            LM_HEAD: "output",
            ATTENTION_NORM: "attention_norm",
            MLP_NORM: "ffn_norm",
            "self_attn.o_proj": "attention.wo",
            "mlp.gate_proj": "feed_forward.w1",
            "mlp.up_proj": "feed_forward.w3",
            "mlp.down_proj": "feed_forward.w2",
        },
        fused="attention.wqkv",
        oracle="llama",
    ),
)

BACKBONES = {row.model_type: row for row in _ROWS}
"""By model_type."""

ONLY = {"partial_rotary_factor": 1.0}
"""Keys of any config whose one value can be exported."""
