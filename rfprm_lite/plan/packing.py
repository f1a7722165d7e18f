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
    """When copying a prefix pays.

    Attributes:
        run_tokens: Usage whose keys and values can be copied in the time that a run takes to read its weights.
    """

    run_tokens: float

    @classmethod
    def of(cls, weight_bytes: int, token_bytes: int) -> Packing:
        """From the bytes of weights that a run reads, and the bytes of one token's keys and values in all layers."""
        return cls(weight_bytes / (COPY_COST * token_bytes))

    def pays(self, copied: int, saved_runs: int) -> bool:
        """Whether copying so many tokens once is worth so many runs."""
        return copied <= self.run_tokens * saved_runs


ALWAYS = Packing(float("inf"))
"""Copies cost nothing."""
