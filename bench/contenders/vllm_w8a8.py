"""vLLM's CPU backend with INT8 weights (a scale an output channel) and activations (a scale a token), by the PRM's own
class there.

Its pooling is ALL, so that any position can be read out. With it, as with STEP, vLLM computes shared prefixes anew,
though it is told to cache them.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from contender import ModelPaths, Rewards
from contenders.numpy_head import read_checkpoint
from workloads import Sequence

LONGEST = 8192
"""Tokens of a sequence and of a run: pooling takes a sequence in one run."""
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


class VllmW8A8:
    def __init__(self, dtype: str) -> None:
        self._dtype = dtype

    def load(self, model: ModelPaths, threads: int) -> None:
        folder = Path(model.converted) / "vllm-w8a8"
        if not (folder / "model.safetensors").exists():
            convert(model, folder)
        os.environ.update(SETTINGS, VLLM_CPU_OMP_THREADS_BIND=f"0-{threads - 1}")  # read when vllm is imported
        from vllm import LLM
        from vllm.config import PoolerConfig

        self._llm = LLM(
            model=str(folder),
            runner="pooling",
            pooler_config=PoolerConfig(tok_pooling_type="ALL"),
            dtype=self._dtype,
            max_model_len=LONGEST,
            max_num_batched_tokens=LONGEST,
            enable_prefix_caching=True,
            enforce_eager=True,
            skip_tokenizer_init=True,
            disable_log_stats=True,
            seed=0,
        )

    def score(self, call: list[Sequence]) -> tuple[Rewards, int]:
        prompts = [{"prompt_token_ids": sequence.ids} for sequence in call]
        outputs = self._llm.encode(prompts, pooling_task="token_classify", use_tqdm=False)
        computed = sum(len(output.prompt_token_ids) - (output.num_cached_tokens or 0) for output in outputs)
        rewards = [o.outputs.data[s.reads][:, 1].float().tolist() for o, s in zip(outputs, call, strict=True)]
        return rewards, computed


def convert(model: ModelPaths, folder: Path) -> None:
    """The checkpoint in compressed-tensors' format. vLLM quantises the PRM's head whatever the config says of it."""
    import torch
    from safetensors.torch import save_file

    source = Path(model.checkpoint)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder)
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    config.pop("auto_map", None)
    config["quantization_config"] = _quantization()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = {}
    for name, array in read_checkpoint(model):
        value = torch.from_numpy(array)
        if name.endswith("_proj.weight") or (name.startswith("score.") and name.endswith(".weight")):
            scale = value.abs().amax(1, keepdim=True) / 127
            tensors[name], tensors[f"{name}_scale"] = torch.round(value / scale).to(torch.int8), scale
        elif name != "lm_head.weight":
            tensors[name] = value.to(torch.bfloat16)
    save_file(tensors, folder / "model.safetensors.partial", metadata={"format": "pt"})
    (folder / "model.safetensors.partial").rename(folder / "model.safetensors")


def _quantization() -> dict[str, Any]:
    whole = {"num_bits": 8, "type": "int", "symmetric": True}
    group = {
        "targets": ["Linear"],
        "weights": {**whole, "strategy": "channel", "dynamic": False},
        "input_activations": {**whole, "strategy": "token", "dynamic": True},
    }
    return {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": group},
    }
