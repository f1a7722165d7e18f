"""optimum-onnx's plain export of the backbone on ONNX Runtime, one candidate at a time; the head in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from optimum.exporters.onnx import main_export

from contender import ModelPaths, Rewards
from contenders.numpy_head import NumpyHead
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
        self._head = NumpyHead(model)

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
        return self._head.rewards(hidden)
