"""What the two llama.cpp contenders share: Q8_0 weights in a GGUF file, and a call in chunks behind one kept prefix.

llama.cpp multiplies every hidden state that it returns by the LM head. It is given a vocabulary of TOKENS tokens and
the embeddings themselves in place of ids, which makes that product vanish. The PRM's head is in numpy.
"""

from __future__ import annotations

import ctypes
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from contender import ModelPaths, Rewards
from contenders.numpy_head import NumpyHead, read_checkpoint
from workloads import Sequence, shared_length

CHUNK = 512
TOKENS = 32


class GgufContender(ABC):
    """A subclass opens the library, reserves a context, rolls its cache back, and decodes a batch."""

    lib: Any
    """The library's module: its batches are those of llama.h."""

    def load(self, model: ModelPaths, threads: int) -> None:
        folder = Path(model.converted) / "llama-cpp"
        if not (folder / "q8_0.gguf").exists():
            convert(model, folder)
        self._embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")
        self._head = NumpyHead(model)
        self._capacity = 0
        self.open(folder / "q8_0.gguf", threads)

    def score(self, call: list[Sequence]) -> tuple[Rewards, int]:
        longest = max(len(sequence.ids) for sequence in call)
        if longest > self._capacity:
            self.reserve(longest)
            self._capacity = longest
        self.roll_back(0)
        first = call[0].ids
        shared = min((shared_length(first, other.ids) for other in call[1:]), default=0)
        prefix = self._run(first[:shared], 0)
        rewards: Rewards = []
        for sequence in call:
            self.roll_back(shared)
            own = self._run(sequence.ids[shared:], shared)
            read = np.stack([prefix[r] if r < shared else own[r - shared] for r in sequence.reads])
            rewards.append(self._head.rewards(read))
        return rewards, shared + sum(len(s.ids) - shared for s in call)

    @abstractmethod
    def open(self, path: Path, threads: int) -> None:
        """Load the file."""

    @abstractmethod
    def reserve(self, tokens: int) -> None:
        """A context for at least so many tokens, in place of the one that there is."""

    @abstractmethod
    def roll_back(self, tokens: int) -> None:
        """Keep the first `tokens` tokens of the cache."""

    @abstractmethod
    def decode(self, batch: Any) -> Any:
        """Run a batch. Returns the address of its hidden states, or None where it failed."""

    def _run(self, ids: list[int], past: int) -> np.ndarray:
        """Hidden states of `ids` on top of the cache: [tokens, hidden_size]."""
        width = self._embeddings.shape[1]
        found = [np.empty((0, width), np.float32)]
        for at in range(0, len(ids), CHUNK):
            rows = np.ascontiguousarray(self._embeddings[ids[at : at + CHUNK]])
            batch = self.lib.llama_batch_init(len(rows), width, 1)
            ctypes.memmove(batch.embd, rows.ctypes.data, rows.nbytes)
            batch.n_tokens = len(rows)
            for i in range(len(rows)):
                batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0], batch.logits[i] = past + at + i, 1, 0, 1
            states = self.decode(batch)
            if states is None:
                raise RuntimeError("llama_decode failed")
            found.append(np.ctypeslib.as_array(states, (len(rows), width)).copy())
            self.lib.llama_batch_free(batch)
        return np.concatenate(found)


def convert(model: ModelPaths, folder: Path) -> None:
    """embeddings.npy and q8_0.gguf."""
    folder.mkdir(parents=True, exist_ok=True)
    config = json.loads((Path(model.checkpoint) / "config.json").read_text(encoding="utf-8"))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config["num_hidden_layers"])
    writer = gguf.GGUFWriter(folder / "q8_0.gguf.partial", "qwen2")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    rope = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    writer.add_rope_freq_base(rope)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_tokenizer_model("none")
    writer.add_vocab_size(TOKENS)
    for name, value in read_checkpoint(model):
        if name == "model.embed_tokens.weight":
            np.save(folder / "embeddings.npy", value)
            value = value[:TOKENS]
        own = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if own is None or name.startswith(("score.", "lm_head.")):
            continue
        if value.ndim == 1:
            writer.add_tensor(own, value)
        else:
            quantised = gguf.quants.quantize(value, gguf.GGMLQuantizationType.Q8_0)
            writer.add_tensor(own, quantised, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (folder / "q8_0.gguf.partial").rename(folder / "q8_0.gguf")
