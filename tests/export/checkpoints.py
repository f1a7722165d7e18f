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

from rfprm_export.checkpoint.architecture import Architecture

ROOT = Path(__file__).parents[2]
DEMO_CHECKPOINT = ROOT / "examples" / "train_demo_prm" / "demo-prm"
TEMPLATE = (Path(__file__).parent / "data" / "qwen2.5_chat_template.jinja").read_text(encoding="utf-8")

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
    shards: int = 2
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
        shard = {name: _draw(name, shapes[name], random) for name in own}
        file = f"model-{i + 1:05}-of-{layout.shards:05}.safetensors"
        save_file(shard, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(own, file)
        size += sum(tensor.numel() * tensor.element_size() for tensor in shard.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


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
