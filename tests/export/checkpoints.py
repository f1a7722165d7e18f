"""Checkpoints in the official layouts with random weights: small ones for tests, real shapes for the benchmark.

Shards in bfloat16, grouped-query attention, the real chat template of Qwen2.5 and the real separator; the tokenizer is
the demo model's. Weights are larger than at initialisation, so that rewards differ.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file

from rfprm_export.checkpoint.architecture import Architecture

ROOT = Path(__file__).parents[2]
DEMO_CHECKPOINT = ROOT / "examples" / "train_demo_prm" / "demo-prm"
TEMPLATE = (Path(__file__).parent / "data" / "qwen2.5_chat_template.jinja").read_text(encoding="utf-8")

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
DEFAULT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
MATH_SYSTEM = "Please reason step by step, and put your final answer within \\\\boxed{}."


@dataclass(frozen=True)
class Layout:
    """An official layout. template: the tokenizer's; head: in the shards, or in a pickle of its own. pickled: whether
    the shards are PyTorch's. prefix: what stands before the backbone's names. config: a null leaves the key out.
    """

    recipe: str
    architecture: str
    template: str = TEMPLATE
    pickled_head: bool = False
    tied: bool = False
    layers: int = 3
    shards: int = 2
    pickled: bool = False
    prefix: str = "model."
    config: dict[str, Any] = field(default_factory=dict)


LAYOUTS = {
    "reasonflux-prm-7b": Layout("reasonflux-prm-7b", "Qwen2ForProcessRewardModel"),
    "reasonflux-prm-1.5b": Layout("reasonflux-prm-1.5b", "Qwen2ForCausalLM", pickled_head=True, tied=True),
    "qwen2.5-math-prm": Layout(
        "qwen2.5-math-prm", "Qwen2ForProcessRewardModel", TEMPLATE.replace(DEFAULT_SYSTEM, MATH_SYSTEM)
    ),
}


def _backbone(model_type: str, *, shards: int = 2, tied: bool = False, **config: Any) -> Layout:
    """A backbone's layout. The class that its head is said to be of is Qwen's, since the recipe asks for that."""
    of_qwen2 = {"use_sliding_window": None, "sliding_window": None, "rope_theta": 10_000.0}
    return Layout(
        "reasonflux-prm-7b",
        "Qwen2ForProcessRewardModel",
        shards=shards,
        tied=tied,
        config={**of_qwen2, "model_type": model_type, **config},
    )


WINDOW = 48
BACKBONES = {
    "llama": _backbone("llama", rope_theta=5e5, rope_scaling=LLAMA3, attention_bias=False, mlp_bias=False, head_dim=16),
    "llama-tied": _backbone("llama", tied=True, head_dim=32, rope_theta=None, rms_norm_eps=1e-5),
    "mistral": _backbone("mistral", sliding_window=WINDOW, rms_norm_eps=1e-5),
    "qwen3": _backbone("qwen3", head_dim=32, attention_bias=False, use_sliding_window=False, rope_theta=1e6),
    "gemma2": _backbone(
        "gemma2",
        sliding_window=WINDOW,
        head_dim=32,
        query_pre_attn_scalar=24,
        hidden_act="gelu_pytorch_tanh",
        hidden_activation="gelu_pytorch_tanh",
        attn_logit_softcapping=5.0,
        tied=True,
    ),
    "internlm2": _backbone(
        "internlm2", shards=1, bias=False, rope_theta=1e6, rope_scaling={"type": "dynamic", "factor": 2.0}
    ),
}
"""Layouts of the backbones other than Qwen2, each with all that it has and Qwen2 lacks."""
if "qwen3" not in transformers.CONFIG_MAPPING:  # new in transformers 4.51
    del BACKBONES["qwen3"]
ALL_LAYOUTS = LAYOUTS | BACKBONES


def make_checkpoint(folder: Path, layout: Layout, seed: int = 0) -> Path:
    """Write the checkpoint to `folder`, which is made."""
    folder.mkdir(parents=True)
    config = {
        "architectures": [layout.architecture],
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": layout.layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 2048 + 32,  # more rows than tokens, as in the real ones
        "max_position_embeddings": 4096,
        "rope_theta": 1000000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": layout.tied,
        "use_sliding_window": False,
        "sliding_window": 32768,
        "torch_dtype": "bfloat16",
        **layout.config,
    }
    config = {key: value for key, value in config.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(config))
    _write_tokenizer(folder, layout)
    _write_weights(folder, layout, config, torch.Generator().manual_seed(seed))
    return folder


def _write_tokenizer(folder: Path, layout: Layout) -> None:
    shutil.copy(DEMO_CHECKPOINT / "tokenizer.json", folder)
    config = json.loads((DEMO_CHECKPOINT / "tokenizer_config.json").read_text())
    config["chat_template"] = layout.template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _write_weights(folder: Path, layout: Layout, config: dict[str, Any], random: torch.Generator) -> None:
    """Shard by shard: no more than one is in memory."""
    shapes = _shapes(layout, config)
    if layout.pickled_head:
        head = {part: shapes.pop(f"score.0.{part}") for part in ("weight", "bias")}
        drawn = {part: _draw(part, shape, random).float() for part, shape in head.items()}
        torch.save(drawn, folder / "reward_head.pt")
    names = list(shapes)
    weight_map, size = {}, 0
    for i in range(layout.shards):
        # By tensors: a layer may straddle two shards, as in the real ones.
        own = names[i * len(names) // layout.shards : (i + 1) * len(names) // layout.shards]
        drawn = {name: _draw(name, shapes[name], random) for name in own}
        shard = _official(drawn, config, layout.prefix)
        stem, ending = ("pytorch_model", "bin") if layout.pickled else ("model", "safetensors")
        file = f"{stem}-{i + 1:05}-of-{layout.shards:05}.{ending}"
        if layout.pickled:
            torch.save(shard, folder / file)
        else:
            save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
        size += sum(tensor.numel() * tensor.element_size() for tensor in shard.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / f"{stem}.{ending}.index.json").write_text(json.dumps(index))


def _official(drawn: dict[str, torch.Tensor], config: dict[str, Any], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors under the names that the backbone's own checkpoints have."""
    tables: dict[str, dict[str, str]] = {
        "gemma2": {
            ".post_attention_layernorm.": ".pre_feedforward_layernorm.",
            ".self_attn.post_norm.": ".post_attention_layernorm.",
            ".mlp.post_norm.": ".post_feedforward_layernorm.",
        },
        "internlm2": {
            "embed_tokens.": "tok_embeddings.",
            "lm_head.": "output.",
            ".input_layernorm.": ".attention_norm.",
            ".post_attention_layernorm.": ".ffn_norm.",
            ".self_attn.o_proj.": ".attention.wo.",
            ".mlp.gate_proj.": ".feed_forward.w1.",
            ".mlp.up_proj.": ".feed_forward.w3.",
            ".mlp.down_proj.": ".feed_forward.w2.",
        },
    }
    named: dict[str, torch.Tensor] = {}
    for name, tensor in drawn.items():
        official = name
        for ours, theirs in tables.get(config["model_type"], {}).items():
            if ours in name:
                official = name.replace(ours, theirs)
        named[official.replace("model.", prefix, 1) if name.startswith("model.") else official] = tensor
    if config["model_type"] == "internlm2":
        _fuse(named, config)
    return named


def _fuse(named: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
    """wqkv: of each head of keys and values its queries, its keys, its values."""
    groups, size = config["num_key_value_heads"], config["hidden_size"] // config["num_attention_heads"]
    for name in [name for name in named if name.endswith("self_attn.q_proj.weight")]:
        parts = [named.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        by_group = [part.reshape(groups, -1, size, part.shape[-1]) for part in parts]
        fused = torch.cat(by_group, dim=1).reshape(-1, parts[0].shape[-1])
        named[name.replace("self_attn.q_proj", "attention.wqkv")] = fused


def _shapes(layout: Layout, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    h, shapes = config["hidden_size"], Architecture.from_config(config).backbone()
    if layout.pickled_head:
        return shapes | {"score.0.weight": (1, h), "score.0.bias": (1,)}
    if not layout.tied:
        shapes["lm_head.weight"] = (config["vocab_size"], h)
    return shapes | {
        "score.0.weight": (h, h), "score.0.bias": (h,), "score.2.weight": (2, h), "score.2.bias": (2,)
    }  # fmt: skip


def _draw(name: str, shape: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    values = torch.randn(shape, generator=random)
    if name.endswith("bias"):
        return values.mul_(0.1 if name.startswith("score.") else 1).bfloat16()  # the head's must not decide all
    if len(shape) == 1:
        return values.mul_(0.2).add_(1).bfloat16()
    return values.mul_((2 / shape[-1]) ** 0.5).bfloat16()
