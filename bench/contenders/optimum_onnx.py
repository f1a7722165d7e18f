"""optimum-onnx's plain export of the backbone on ONNX Runtime, one candidate at a time; the head in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import torch
from optimum.exporters.onnx import main_export
from safetensors.torch import load_file

from contender import ModelPaths, Rewards
from workloads import Sequence


class OptimumOnnx:
    def load(self, model: ModelPaths, threads: int) -> None:
        folder = Path(model.converted) / "optimum-onnx"
        if not (folder / "model.onnx").exists():
            main_export(model.checkpoint, output=folder, task="feature-extraction", do_validation=False)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", options, ["CPUExecutionProvider"])
        self._inputs = {i.name for i in self._session.get_inputs()}
        self._head: dict[str, np.ndarray] = {}
        for shard in Path(model.checkpoint).glob("*.safetensors"):
            tensors = load_file(shard)
            self._head |= {k: v.to(torch.float32).numpy() for k, v in tensors.items() if k.startswith("score.")}

    def score(self, call: list[Sequence]) -> tuple[Rewards, int]:
        return [self._one(sequence) for sequence in call], sum(len(s.ids) for s in call)

    def _one(self, sequence: Sequence) -> list[float]:
        length = len(sequence.ids)
        feeds = {
            "input_ids": np.array([sequence.ids], np.int64),
            "attention_mask": np.ones((1, length), np.int64),
            "position_ids": np.arange(length, dtype=np.int64)[None],
        }
        feeds = {name: value for name, value in feeds.items() if name in self._inputs}
        hidden = self._session.run(["last_hidden_state"], feeds)[0][0, sequence.reads]
        inner = np.maximum(hidden @ self._head["score.0.weight"].T + self._head["score.0.bias"], 0)
        logits = inner @ self._head["score.2.weight"].T + self._head["score.2.bias"]
        exponents = np.exp(logits - logits.max(-1, keepdims=True))
        return [float(p) for p in exponents[:, 1] / exponents.sum(-1)]
