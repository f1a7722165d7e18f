"""Checkpoints in the official layouts with random weights: small ones for tests, real shapes for the benchmark.

Sharded safetensors in bfloat16, grouped-query attention with biases, the real chat template of Qwen2.5 and the real
separator; the tokenizer is the demo model's. Weights are larger than at initialisation, so that rewards differ.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

ROOT = Path(__file__).parent.parent
DEMO_CHECKPOINT = ROOT / "examples" / "train_demo_prm" / "demo-prm"
TEMPLATE = (ROOT / "tests" / "data" / "qwen2.5_chat_template.jinja").read_text(encoding="utf-8")

DEFAULT_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
MATH_SYSTEM = "Please reason step by step, and put your final answer within \\\\boxed{}."


@dataclass(frozen=True)
class Layout:
    """An official layout. template: the tokenizer's; head: in the shards, or in a pickle of its own."""

    recipe: str
    architecture: str
    template: str = TEMPLATE
    pickled_head: bool = False
    tied: bool = False
    layers: int = 3
    config: dict[str, Any] = field(default_factory=dict)


LAYOUTS = {
    "reasonflux-prm-7b": Layout("reasonflux-prm-7b", "Qwen2ForProcessRewardModel"),
    "reasonflux-prm-1.5b": Layout("reasonflux-prm-1.5b", "Qwen2ForCausalLM", pickled_head=True, tied=True),
    "qwen2.5-math-prm": Layout(
        "qwen2.5-math-prm", "Qwen2ForProcessRewardModel", TEMPLATE.replace(DEFAULT_SYSTEM, MATH_SYSTEM)
    ),
}


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
    h, inner = config["hidden_size"], config["intermediate_size"]
    kv = h // config["num_attention_heads"] * config["num_key_value_heads"]

    def weight(*shape: int) -> torch.Tensor:
        return (torch.randn(shape, generator=random) * (2 / shape[-1]) ** 0.5).bfloat16()

    def bias(size: int) -> torch.Tensor:
        return torch.randn(size, generator=random).bfloat16()

    def norm() -> torch.Tensor:
        return (1 + 0.2 * torch.randn(h, generator=random)).bfloat16()

    first = {"model.embed_tokens.weight": weight(config["vocab_size"], h)}
    second = {"model.norm.weight": norm()}
    for i in range(layout.layers):
        layer = {
            "input_layernorm.weight": norm(),
            "post_attention_layernorm.weight": norm(),
            "self_attn.q_proj.weight": weight(h, h),
            "self_attn.q_proj.bias": bias(h),
            "self_attn.k_proj.weight": weight(kv, h),
            "self_attn.k_proj.bias": bias(kv),
            "self_attn.v_proj.weight": weight(kv, h),
            "self_attn.v_proj.bias": bias(kv),
            "self_attn.o_proj.weight": weight(h, h),
            "mlp.gate_proj.weight": weight(inner, h),
            "mlp.up_proj.weight": weight(inner, h),
            "mlp.down_proj.weight": weight(h, inner),
        }
        # A layer may straddle two shards, as in the real ones.
        for j, (name, tensor) in enumerate(layer.items()):
            (first if i + j < 5 else second)[f"model.layers.{i}.{name}"] = tensor
    if layout.pickled_head:
        torch.save({"weight": weight(1, h).float(), "bias": bias(1).float()}, folder / "reward_head.pt")
    else:
        second |= {"score.0.weight": weight(h, h), "score.0.bias": bias(h)}
        second |= {"score.2.weight": weight(2, h), "score.2.bias": bias(2)}
        if not layout.tied:
            second["lm_head.weight"] = weight(config["vocab_size"], h)
    shards = {"model-00001-of-00002.safetensors": first, "model-00002-of-00002.safetensors": second}
    for file, tensors in shards.items():
        save_file(tensors, folder / file, metadata={"format": "pt"})
    size = sum(t.numel() * t.element_size() for tensors in shards.values() for t in tensors.values())
    index = {
        "metadata": {"total_size": size},
        "weight_map": {name: file for file, tensors in shards.items() for name in tensors},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
