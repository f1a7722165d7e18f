"""What is done to a checkpoint's weights on their way into a variant, each chosen by what calibration measured.

In: an architecture and the statistics of its activations. Out: `Passes`, and a sentence about each for the manifest.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from rfprm_export.checkpoint.tensors import Architecture
from rfprm_export.oracle.calibration import Statistics
from rfprm_export.quantize.bases import Read, balanced_bases
from rfprm_export.quantize.mixing import MIXED, Block
from rfprm_export.quantize.overflow import MARGIN, wide_layers


class Transform(Protocol):
    """Changes tensors so that the network computes what it did."""

    def blocks(self, name: str, read: Read) -> Iterable[Block]:
        """The blocks of rows of a tensor, changed. read: gives any tensor as it is."""


Reads = Callable[[str, Block], Block]
"""A weight of a layer and what products with it read, as `Bases.reads` -> that, as the changed network has it."""


class AsItIs:
    """Changes nothing."""

    def blocks(self, name: str, read: Read) -> Iterable[Block]:
        return read(name)


@dataclass(frozen=True, slots=True)
class Passes:
    """wide: layers whose MLP is float32. reads: of the changed network, where weights are rounded by what they are
    multiplied with; None where they are rounded to the nearest. said: for the manifest."""

    transform: Transform = field(default_factory=AsItIs)
    wide: Collection[int] = ()
    reads: Reads | None = None
    said: tuple[str, ...] = ()


AS_IT_IS = Passes()


def balanced(architecture: Architecture, statistics: Statistics, head: str) -> Passes:
    """Activations and weights share the error between them, and no channel stands out. head: the tensor that reads the
    final norm."""
    bases = balanced_bases(architecture, statistics, head)
    said = f"inputs of products balanced with their weights and mixed, values by heads, others by {MIXED} at most"
    return Passes(bases, reads=bases.reads, said=(said, "weights rounded with error feedback (GPTQ)"))


def without_overflow(_architecture: Architecture, statistics: Statistics, _head: str) -> Passes:
    """float32 where float16 could overflow."""
    wide = wide_layers(statistics)
    shown = f"the MLP of layers {', '.join(map(str, sorted(wide)))} in float32" if wide else "no layer in float32"
    return Passes(wide=wide, said=(f"{shown}: what came within {MARGIN} times of overflowing float16",))
