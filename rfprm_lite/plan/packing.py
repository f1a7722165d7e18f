"""Decides whether to open another lane for a segment.

A lane saves runs of the graph, each of which reads all weights once. It costs copying the segment's prefix into the
lane's KV buffer. Both are memory traffic, so that their ratio follows from the model's sizes and one measured number.
"""

from __future__ import annotations

from dataclasses import dataclass

COPY_COST = 1.5
"""Cost of copying one byte of KV, relative to reading one byte of weights. Measured on an AMD Zen 5 by
bench/copying.py (bench/log/2026-11-23-when-a-lane-pays.md)."""


@dataclass(frozen=True, slots=True)
class Packing:
    """The price of a copied prefix, compared with that of a run.

    Attributes:
        run_tokens: Tokens whose keys and values can be copied in the time that a run takes to read its weights.
    """

    run_tokens: float

    @classmethod
    def of(cls, weight_bytes: int, token_bytes: int) -> Packing:
        """The packing of a model.

        Args:
            weight_bytes: Weights that a run reads.
            token_bytes: Keys and values of one token in all layers.
        """
        return cls(weight_bytes / (COPY_COST * token_bytes))

    def pays(self, copied: int, saved_runs: int) -> bool:
        """Whether copying `copied` tokens once costs at most as much as `saved_runs` runs."""
        return copied <= self.run_tokens * saved_runs


ALWAYS = Packing(float("inf"))
"""The packing under which copies cost nothing."""
