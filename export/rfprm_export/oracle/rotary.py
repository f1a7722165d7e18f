"""The tables of rotary embedding, in the float32 arithmetic of transformers."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from rfprm_export.checkpoint.architecture import Architecture
from rfprm_lite.engine.kv import SPARE


def rotary_tables(architecture: Architecture) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute cosines and sines, float32 [max_positions + SPARE, head_size / 2] each."""
    steps = torch.arange(0, architecture.head_size, 2, dtype=torch.int64).float() / architecture.head_size
    frequencies = 1.0 / (architecture.rope_theta**steps)
    angles = torch.outer(torch.arange(architecture.max_positions + SPARE).float(), frequencies)
    return angles.cos().numpy(), angles.sin().numpy()
