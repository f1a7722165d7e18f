"""Whether a segment takes a further lane: copying its past there, or a run more.

A run reads all weights of the products once, whatever it computes; a further lane saves runs, and costs a copy of the
past that it lacks. Both are memory traffic, so that their ratio is known from the model's sizes and one measured
number.
"""

from __future__ import annotations

from dataclasses import dataclass

from rfprm_lite.kv import Layout
from rfprm_lite.manifest import Dimensions, Variant

COPY_COST = 1.5
"""What copying a byte of keys and values takes, in times of reading a byte of weights in a run: measured, see
bench/copying.py and bench/LOG.md."""
EMBEDDING_BYTES = {"float32": 4, "float16": 2, "int8": 1, "int4": 1}
"""Of one value of the embedding table, of which a run reads a few rows alone."""


@dataclass(frozen=True, slots=True)
class Packing:
    """run_tokens: tokens whose keys and values can be copied in the time that a run takes to read its weights."""

    run_tokens: float

    @classmethod
    def of(cls, dimensions: Dimensions, variant: Variant) -> Packing:
        embedding = dimensions.vocab_size * dimensions.hidden_size * EMBEDDING_BYTES[variant.dtype]
        weights = sum(file.bytes for file in variant.files) - embedding
        return cls(weights / (COPY_COST * Layout.of(dimensions, variant.kv_dtype).token_bytes))

    def pays(self, copied: int, saved_runs: int) -> bool:
        """Whether copying so many tokens once is worth so many runs."""
        return copied <= self.run_tokens * saved_runs


ALWAYS = Packing(float("inf"))
"""Copies cost nothing."""
