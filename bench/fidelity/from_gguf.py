"""A Llama-shaped language model from a GGUF file, as a Qwen2 checkpoint whose biases are zero: another backbone with
real activations for make_prm.py.

    pip install gguf
    python bench/fidelity/from_gguf.py SmolLM2-135M-Instruct.Q4_1.gguf TOKENIZER_CONFIG OUTPUT

The tokenizer is rebuilt from the file's tokens and merges, and splits text as Qwen2's does, since transformers makes
that of any Qwen2 checkpoint's; a token that the text never has becomes `<extra_0>`.
TOKENIZER_CONFIG: of a Qwen2.5 checkpoint, for its chat template.
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
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

UNUSED, SEPARATOR = "<empty_output>", "<extra_0>"
QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_TOKENS = ("added_tokens_decoder", "additional_special_tokens")
"""What a tokenizer_config says of special tokens: transformers takes it in place of the tokenizer's own."""
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
    rest = {name: value for name, value in rest.items() if name not in QWEN2_TOKENS}
    (output / "tokenizer_config.json").write_text(json.dumps(rest, ensure_ascii=False), encoding="utf-8")
    save_file(dict(tensors(reader, fields)), output / "model.safetensors", metadata={"format": "pt"})


def config(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
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
        "use_sliding_window": False,
        "torch_dtype": "float32",
    }


def tokenizer(fields: dict[str, Any]) -> Tokenizer:
    """Byte-level BPE, digits apart."""
    texts = [SEPARATOR if text == UNUSED else text for text in fields["tokenizer.ggml.tokens"]]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    made = Tokenizer(models.BPE({text: i for i, text in enumerate(texts)}, merges))
    split = pre_tokenizers.Split(Regex(QWEN2_WORDS), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_])
    made.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    made.add_special_tokens([AddedToken(text) for text, kind in zip(texts, kinds, strict=True) if kind == CONTROL])
    return made


def tensors(reader: gguf.GGUFReader, fields: dict[str, Any]) -> Any:
    """Names and float32 tensors, biases of zero included."""
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
            if part in ("attn_q", "attn_k", "attn_v"):
                yield f"{name}.bias", torch.zeros(len(value))


def halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo the order of rows that llama.cpp rotates by: pairs side by side, where Hugging Face has them half a head
    apart."""
    rows, columns = weight.shape
    pairs = weight.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))


if __name__ == "__main__":
    main()
