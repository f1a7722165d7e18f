"""The distribution of rewards, for people in a terminal.

In: rewards, and those that are kept. Out: bins; a rich renderable.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

BINS = 20
BAR_CELLS = 40


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """The numbers of traces by their rewards.

    Attributes:
        edges: float64 [BINS + 1], over the range that rewards can have.
        traces: int64 [BINS], all traces.
        kept: int64 [BINS], those that are kept.
    """

    edges: NDArray[np.float64]
    traces: NDArray[np.int64]
    kept: NDArray[np.int64]

    @classmethod
    def of(
        cls, rewards: NDArray[np.float64], kept: NDArray[np.float64], reward_range: tuple[float, float]
    ) -> Histogram:
        """The histogram of rewards.

        Args:
            rewards: float64 [num_traces].
            kept: float64, the rewards of the traces that are kept.
            reward_range: Lowest and highest reward that there can be; where it is infinite, those of `rewards` count.
        """
        ends = reward_range
        if not np.isfinite(reward_range).all() and rewards.size:
            ends = (float(rewards.min()), float(rewards.max()))
        traces, edges = np.histogram(rewards, BINS, ends if np.isfinite(ends).all() else (0.0, 1.0))
        return cls(edges, traces, np.histogram(kept, BINS, (edges[0], edges[-1]))[0])

    def view(self) -> Table:
        """A table with bars, in which kept traces are drawn full, and told as a number."""
        table = Table(box=None, padding=(0, 1))
        for name in ("reward", "traces", "kept"):
            table.add_column(name, justify="right")
        table.add_column("")
        most = max(int(self.traces.max()), 1)
        for i, (traces, kept) in enumerate(zip(self.traces.tolist(), self.kept.tolist(), strict=True)):
            cells, full = (-(-count * BAR_CELLS // most) for count in (traces, kept))
            bar = Text("█" * full, "green") + Text("░" * (cells - full), "dim")
            table.add_row(f"{self.edges[i]:.2f} to {self.edges[i + 1]:.2f}", str(traces), str(kept), bar)
        return table

    def to_dict(self) -> dict[str, object]:
        """The histogram in types that JSON has."""
        return {"edges": self.edges.tolist(), "traces": self.traces.tolist(), "kept": self.kept.tolist()}
