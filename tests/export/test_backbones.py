"""Backbones: every one gives the rewards of transformers' whole model, and is a row of one table."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, AutoTokenizer

from checkpoints import ALL_LAYOUTS, BACKBONES, WINDOW
from exporting import Exported
from rfprm_export.checkpoint.architecture import Architecture
from rfprm_export.errors import CheckpointError
from rfprm_export.families import backbones
from rfprm_export.oracle.layers import require_oracle
from rfprm_export.parity.probes import PROBES
from rfprm_lite import PRM, LoadOptions, Trace

Get = Callable[[str], Exported]
ROOT = Path(__file__).parents[2]
TRACES = [
    *PROBES[:3],
    ("A long one.", Trace.from_steps([f"{n} + {n} is {2 * n}." for n in range(60)])),
]


# --- parity ------------------------------------------------------------------------------------------------------


def whole_model(folder: Path) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    """transformers' own model with all its weights, loaded strictly, and the tensors of the head."""
    tensors: dict[str, torch.Tensor] = {}
    for shard in folder.glob("*.safetensors"):
        tensors |= {name: tensor.float() for name, tensor in load_file(shard).items()}
    config = json.loads((folder / "config.json").read_text())
    weights = {name.removeprefix("model."): tensors[name] for name in tensors if name.startswith("model.")}
    if config.pop("model_type") == "internlm2":
        weights = as_llama(weights, config)
        made = AutoConfig.for_model("llama", **{key: value for key, value in config.items() if key != "torch_dtype"})
    else:
        made = AutoConfig.from_pretrained(folder)
    attention = "eager" if "attn_logit_softcapping" in config else "sdpa"
    model = AutoModel.from_config(made, attn_implementation=attention).float().eval()
    model.load_state_dict(weights, strict=True)
    return model, {name: tensor for name, tensor in tensors.items() if name.startswith("score.")}


def as_llama(weights: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """InternLM2's tensors as Llama's: wqkv is [groups, queries a group + 2, size, hidden], as its authors split it."""
    kv, hidden = config["num_key_value_heads"], config["hidden_size"]
    found: dict[str, torch.Tensor] = {}
    for name, tensor in weights.items():
        if name.endswith("attention.wqkv.weight"):
            heads = tensor.reshape(kv, config["num_attention_heads"] // kv + 2, -1, hidden)
            parts = {"q": heads[:, :-2], "k": heads[:, -2], "v": heads[:, -1]}
            stem = name.removesuffix("attention.wqkv.weight")
            found |= {f"{stem}self_attn.{p}_proj.weight": part.reshape(-1, hidden) for p, part in parts.items()}
            continue
        for theirs, llamas in (
            ("tok_embeddings", "embed_tokens"),
            ("attention_norm", "input_layernorm"),
            ("ffn_norm", "post_attention_layernorm"),
            ("attention.wo", "self_attn.o_proj"),
            ("feed_forward.w1", "mlp.gate_proj"),
            ("feed_forward.w2", "mlp.down_proj"),
            ("feed_forward.w3", "mlp.up_proj"),
        ):
            name = name.replace(theirs, llamas)
        found[name] = tensor
    return found


@torch.inference_mode()
def whole_model_rewards(folder: Path, problem: str, trace: Trace) -> np.ndarray:
    """By the authors' way: the rendered chat, the whole model, softmax over the head at every separator."""
    model, head = whole_model(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "".join(f"{step.text}<extra_0>" for step in trace.steps)
    messages = [{"role": "user", "content": problem}, {"role": "assistant", "content": text}]
    ids = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), return_tensors="pt")["input_ids"]
    hidden = model(input_ids=ids).last_hidden_state[0]
    inner = (hidden @ head["score.0.weight"].T + head["score.0.bias"]).relu()
    rewards = (inner @ head["score.2.weight"].T + head["score.2.bias"]).softmax(-1)[:, 1]
    return rewards[ids[0] == tokenizer.convert_tokens_to_ids("<extra_0>")].numpy()


@pytest.mark.parametrize("layout", BACKBONES)
def test_rewards_are_those_of_the_whole_model(exported: Get, layout: str) -> None:
    """Of fp32 and of the exporter's own oracle. The last trace is longer than a window and than a run."""
    made = exported(layout)
    scores = made.prm.score_many(TRACES)
    assert scores[-1].tokens.total > 3 * WINDOW + 256
    for score, pair, oracle in zip(scores, TRACES, made.reference.step_rewards(TRACES), strict=True):
        whole = whole_model_rewards(made.checkpoint, *pair)
        np.testing.assert_allclose(oracle, whole, atol=1e-5)
        np.testing.assert_allclose(score.step_rewards, whole, atol=1e-4)
    assert np.std(np.concatenate([score.step_rewards for score in scores])) > 0.05


@pytest.mark.parametrize("variant", ["fp32", "int8"])
@pytest.mark.parametrize("layout", BACKBONES)
def test_what_is_cached_or_in_other_lanes_changes_no_reward(exported: Get, layout: str, variant: str) -> None:
    """To the bit, beyond the window too."""
    made = exported(layout)
    caching = PRM(made.opened(variant), LoadOptions(threads=2))
    problem, trace = TRACES[-1]
    cuts = [Trace.from_steps([*[step.text for step in trace.steps[:n]], f"{n} and no more."]) for n in (20, 33, 50)]
    together = caching.score_many([(problem, cut) for cut in cuts])
    for cut, score in zip(cuts, together, strict=True):
        assert made.variant(variant).score(problem, cut).step_rewards.tolist() == score.step_rewards.tolist()
        assert caching.score(problem, cut).step_rewards.tolist() == score.step_rewards.tolist()


@pytest.mark.parametrize("layout", ["mistral", "gemma2"])
def test_the_window_matters(exported: Get, layout: str, tmp_path: Path) -> None:
    """Otherwise the tests above could not see one that is wrong."""
    made = exported(layout)
    _, trace = TRACES[-1]
    whole = whole_model_rewards(made.checkpoint, "A long one.", trace)
    for path in made.checkpoint.iterdir():
        (tmp_path / path.name).symlink_to(path)
    config = json.loads((made.checkpoint / "config.json").read_text())
    for off in (WINDOW - 1, WINDOW + 1):
        (tmp_path / "config.json").unlink()
        (tmp_path / "config.json").write_text(json.dumps({**config, "sliding_window": off}))
        assert np.abs(whole_model_rewards(tmp_path, "A long one.", trace) - whole).max() > 1e-3


@pytest.mark.parametrize("layout", BACKBONES)
def test_all_variants_keep_what_random_weights_allow(exported: Get, layout: str) -> None:
    """As in Qwen2 of this size: random weights are the worst of inputs for quantising.

    What float16 does to a reward grows with the logits, and random weights draw any: the margin between both classes
    has a standard deviation of 2.67 in the tied Llama, 1.00 in the Llama, 0.57 in Qwen2. Relative to that float16 is
    off by 2.2e-3, 3.6e-3 and 3.1e-3; on average over rewards by 5.2e-4, 5.2e-4 and 3.0e-4, and at most by 6.2e-3,
    2.6e-3 and 1.3e-3. So the mean tells, and the largest is one read-out's.
    """
    measured = {variant.name: variant.parity for variant in exported(layout).prm.manifest.variants}
    assert measured["fp32"].max_abs_difference <= 1e-5
    assert measured["int8"].mean_abs_difference <= 0.02
    assert measured["fp16"].mean_abs_difference <= 1e-3
    assert measured["fp16"].max_abs_difference <= 1e-2
    assert measured["int4"].mean_abs_difference <= 0.2
    assert all(parity.num_rewards > 100 for parity in measured.values())


# --- the table ---------------------------------------------------------------------------------------------------


def test_no_other_module_names_a_model_type() -> None:
    names = "|".join(backbones.BACKBONES)
    quoted = re.compile(rf"""["']({names})["']|\b(?:{names})(?:For|Model|Config)""", re.IGNORECASE)
    modules = [*(ROOT / "rfprm_lite").rglob("*.py"), *(ROOT / "export" / "rfprm_export").rglob("*.py")]
    named = [str(path) for path in modules if quoted.search(path.read_text(encoding="utf-8"))]
    assert [path for path in named if Path(path).parent.name != "families"] == []
    assert len(modules) > 100


MINIMAL: dict[str, Any] = {
    "architectures": ["Any"],
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "rope_theta": 1e4,
}


@pytest.mark.parametrize(
    ("config", "attribute", "expected"),
    [
        ({"model_type": "qwen2", "sliding_window": 4096, "use_sliding_window": False}, "windows", (None,) * 4),
        ({"model_type": "qwen2", "layer_types": ["full_attention"] * 4}, "windows", (None,) * 4),
        ({"model_type": "mistral", "sliding_window": None}, "windows", (None,) * 4),
        ({"model_type": "mistral"}, "windows", (4096,) * 4),
        ({"model_type": "mistral", "sliding_window": 8192}, "windows", (None,) * 4),
        ({"model_type": "gemma2"}, "windows", (4096, None, 4096, None)),
        ({"model_type": "gemma2"}, "query_scale", 1 / 16),
        ({"model_type": "gemma2"}, "activation", "gelu_pytorch_tanh"),
        ({"model_type": "gemma2", "attn_logit_softcapping": None}, "softcap", None),
        ({"model_type": "gemma2"}, "embedding_scale", 8.0),
        ({"model_type": "qwen3"}, "head_size", 128),
        ({"model_type": "llama"}, "head_size", 16),
        ({"model_type": "llama", "head_dim": None}, "head_size", 16),
        ({"model_type": "llama", "head_dim": 64}, "q_size", 256),
        ({"model_type": "llama", "head_dim": 64}, "query_scale", 1 / 8),
    ],
)
def test_a_config_is_read_as_transformers_reads_it(config: dict[str, Any], attribute: str, expected: object) -> None:
    assert getattr(Architecture.from_config(MINIMAL | config), attribute) == expected


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"model_type": "qwen2_moe"}, "model_type is 'qwen2_moe'; qwen2, llama, mistral, qwen3"),
        ({}, "model_type is None"),
        ({"model_type": "llama", "attention_bias": True}, "attention_bias is True, only False"),
        ({"model_type": "llama", "mlp_bias": True}, "mlp_bias is True"),
        ({"model_type": "qwen3", "attention_bias": True}, "attention_bias is True"),
        ({"model_type": "qwen3", "use_sliding_window": True}, "use_sliding_window is True"),
        ({"model_type": "internlm2", "bias": True}, "bias is True"),
        ({"model_type": "llama", "hidden_act": "gelu"}, "hidden_act is 'gelu', only silu and gelu_pytorch_tanh"),
        ({"model_type": "llama", "partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5, only 1.0"),
        ({"model_type": "gemma2", "layer_types": ["full_attention"] * 4}, "layer_types .*'sliding_attention'"),
        ({"model_type": "llama", "head_dim": 24}, "heads of 24"),
    ],
)
def test_what_the_graph_can_not_do_is_refused_by_name(config: dict[str, Any], match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        Architecture.from_config(MINIMAL | config)


def test_every_row_has_a_layout() -> None:
    tested = {layout.config.get("model_type", "qwen2") for layout in ALL_LAYOUTS.values()}
    assert tested == {kind for kind, row in backbones.BACKBONES.items() if (row.oracle or kind) in CONFIG_MAPPING}
    assert len(tested) > 4


def test_a_transformers_that_has_no_such_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    newer = replace(backbones.BACKBONES["llama"], model_type="llama99")
    monkeypatch.setitem(backbones.BACKBONES, "llama99", newer)
    architecture = Architecture.from_config(MINIMAL | {"model_type": "llama99"})
    with pytest.raises(CheckpointError, match=r"transformers \d.* has no llama99 .*: install a newer one"):
        require_oracle(architecture)
