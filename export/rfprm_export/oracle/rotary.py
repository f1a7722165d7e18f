"""The tables of rotary embedding, in the float32 arithmetic of transformers.

Whatever the kind, the graph rotates by a table: a row a position, a column a frequency.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from rfprm_export.checkpoint.architecture import Architecture
from rfprm_export.checkpoint.rope import Rope
from rfprm_lite.engine.kv import SPARE

Scaling = Callable[[torch.Tensor, Rope, int], torch.Tensor]
"""(frequencies of the default kind, the embedding, the most positions) -> the embedding's frequencies."""


def rotary_tables(architecture: Architecture) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute cosines and sines, float32 [max_positions + SPARE, head_size / 2] each."""
    frequencies, factor = rotary_frequencies(architecture.rope, architecture.head_size, architecture.max_positions)
    angles = torch.outer(torch.arange(architecture.max_positions + SPARE).float(), frequencies)
    return (angles.cos() * factor).numpy(), (angles.sin() * factor).numpy()


def rotary_frequencies(rope: Rope, head_size: int, max_positions: int) -> tuple[torch.Tensor, float]:
    """Compute a head's frequencies, float32 [head_size / 2], and what cosines and sines are multiplied with.

    Args:
        rope: The embedding.
        head_size: Features of a head.
        max_positions: Tokens of a text, at most.
    """
    steps = torch.arange(0, head_size, 2, dtype=torch.int64).float() / head_size
    frequencies = SCALINGS[rope.kind](1.0 / (rope.theta**steps), rope, max_positions)
    if rope.kind != "yarn":
        return frequencies, 1.0
    factor = rope.settings["factor"]
    return frequencies, rope.settings.get("attention_factor", 0.1 * math.log(factor) + 1 if factor > 1 else 1.0)


def _default(frequencies: torch.Tensor, _rope: Rope, _max_positions: int) -> torch.Tensor:
    """As they are. Dynamic ones change only for texts longer than `max_positions`, which no bundle reads."""
    return frequencies


def _linear(frequencies: torch.Tensor, rope: Rope, _max_positions: int) -> torch.Tensor:
    """Every wavelength longer by the factor."""
    return frequencies / rope.settings["factor"]


def _llama3(frequencies: torch.Tensor, rope: Rope, _max_positions: int) -> torch.Tensor:
    """Long wavelengths longer by the factor, short ones as they are, and a slope between."""
    settings = rope.settings
    factor, low, high = (settings[key] for key in ("factor", "low_freq_factor", "high_freq_factor"))
    original = settings["original_max_position_embeddings"]
    wavelengths = 2 * math.pi / frequencies
    slope = (original / wavelengths - low) / (high - low)
    between = (1 - slope) * frequencies / factor + slope * frequencies
    scaled = torch.where(wavelengths > original / low, frequencies / factor, between)
    return torch.where(wavelengths < original / high, frequencies, scaled)


def _yarn(frequencies: torch.Tensor, rope: Rope, max_positions: int) -> torch.Tensor:
    """Wavelengths with few turns in the original length longer by the factor, those with many as they are."""
    original = rope.settings.get("original_max_position_embeddings", max_positions)
    size = 2 * len(frequencies)

    def channel(turns: float) -> float:
        """The channel that turns so often within the original length."""
        return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    first = max(math.floor(channel(rope.settings.get("beta_fast", 32.0))), 0)
    last = min(math.ceil(channel(rope.settings.get("beta_slow", 1.0))), size - 1)
    # As in transformers, so that nothing is divided by zero.
    ramp = (torch.arange(len(frequencies), dtype=torch.float32) - first) / ((last - first) or 0.001)
    kept = 1 - ramp.clamp(0, 1)
    return frequencies / rope.settings["factor"] * (1 - kept) + frequencies * kept


SCALINGS: Mapping[str, Scaling] = {
    "default": _default,
    "linear": _linear,
    "dynamic": _default,
    "llama3": _llama3,
    "yarn": _yarn,
}
"""By the kinds of rfprm_export.checkpoint.rope."""
