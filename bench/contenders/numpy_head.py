"""The reward head of the 7B layout in numpy, for contenders whose library gives hidden states."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from contender import ModelPaths


class NumpyHead:
    """Kept as a file beside the contenders' other conversions, so that only the first load needs PyTorch."""

    def __init__(self, model: ModelPaths) -> None:
        path = Path(model.converted) / "head.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, **{name: value for name, value in read_checkpoint(model) if name.startswith("score.")})
        self._tensors = dict(np.load(path))

    def rewards(self, hidden: np.ndarray) -> list[float]:
        """hidden: [num_read, hidden_size]."""
        return self.behind_first_layer(hidden @ self._tensors["score.0.weight"].T + self._tensors["score.0.bias"])

    def behind_first_layer(self, inner: np.ndarray) -> list[float]:
        """inner: what the head's first layer gives, [num_read, hidden_size]."""
        logits = np.maximum(inner, 0) @ self._tensors["score.2.weight"].T + self._tensors["score.2.bias"]
        exponents = np.exp(logits - logits.max(-1, keepdims=True))
        return [float(p) for p in exponents[:, 1] / exponents.sum(-1)]


def read_checkpoint(model: ModelPaths):  # type: ignore[no-untyped-def]  # an iterator of (name, float32 array)
    """Every tensor of the checkpoint, one at a time."""
    from safetensors import safe_open  # needs PyTorch for BF16

    for shard in sorted(Path(model.checkpoint).glob("*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # safe_open is no mapping
                yield name, file.get_tensor(name).float().numpy()
