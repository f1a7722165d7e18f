"""What the number that a PRM gives a step can be."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Scale:
    """The scale of step rewards. Most PRMs give probabilities; PURE gives [-1, 1], outcome models any number.

    Attributes:
        low: The lowest reward that a step can have; -inf where nothing bounds it.
        high: The highest; inf where nothing bounds it.
        good_above: The reward above which a step counts as good; None if the family has no such number.
    """

    low: float = 0.0
    high: float = 1.0
    good_above: float | None = 0.5

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest reward."""
        return self.low, self.high

    @property
    def bounded(self) -> bool:
        """Whether both are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)


PROBABILITY = Scale()
