"""Token counts of a result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts: total = computed + reused + skipped.

    Attributes:
        total: Tokens of the text, counted once for each sequence that it is read out from.
        computed: Tokens that went through the model for this result.
        skipped: Tokens that were not needed to decide (best_of_n stops early).
    """

    total: int
    computed: int
    skipped: int = 0

    @property
    def reused(self) -> int:
        """Tokens whose keys and values came from a shared or cached prefix."""
        return self.total - self.computed - self.skipped

    def __add__(self, other: Usage) -> Usage:
        return Usage(self.total + other.total, self.computed + other.computed, self.skipped + other.skipped)

    def to_dict(self) -> dict[str, int]:
        """The counts in types that JSON has; `skipped` only where there is any."""
        counts = {"total": self.total, "computed": self.computed, "reused": self.reused}
        return counts | {"skipped": self.skipped} if self.skipped else counts
