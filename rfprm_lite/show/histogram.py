"""How rewards are spread, for people: in a terminal, and as a picture.

In: rewards, and the lowest that is kept. Out: bins; a rich renderable; a PNG, which needs matplotlib
(`pip install 'rfprm-lite[plot]'`).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from rfprm_lite.errors import InputError, MissingExtraError

PICTURES = (".png", ".svg", ".pdf")
BINS = 20
BAR_CELLS = 40


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """edges: float64 [BINS + 1], over the range that rewards can have. traces, kept: int64 [BINS], how many of them."""

    edges: NDArray[np.float64]
    traces: NDArray[np.int64]
    kept: NDArray[np.int64]

    @classmethod
    def of(
        cls, rewards: NDArray[np.float64], kept: NDArray[np.float64], reward_range: tuple[float, float]
    ) -> Histogram:
        """kept: the rewards of the traces that are kept."""
        traces, edges = np.histogram(rewards, BINS, reward_range)
        return cls(edges, traces, np.histogram(kept, BINS, reward_range)[0])

    def view(self) -> Table:
        """Bars for a terminal; what is kept is drawn full, and told as a number."""
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
        """For JSON."""
        return {"edges": self.edges.tolist(), "traces": self.traces.tolist(), "kept": self.kept.tolist()}

    def save(self, path: Path) -> None:
        """Write a picture of what the path ends with. Raises InputError, MissingExtraError."""
        require_picture(path)
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.2), layout="constrained")
        axes = figure.add_subplot()
        axes.stairs(self.traces, self.edges, fill=True, color="#c9ced6", label=f"all {self.traces.sum()} traces")
        axes.stairs(self.kept, self.edges, fill=True, color="#2f7d4f", label=f"{self.kept.sum()} kept")
        axes.set(xlabel="reward", ylabel="traces", xlim=(self.edges[0], self.edges[-1]))
        axes.legend(frameon=False)
        figure.savefig(path, dpi=150)


def require_picture(path: Path) -> None:
    """Raises InputError where the path ends with no kind of picture, MissingExtraError where matplotlib is missing."""
    if path.suffix.lower() not in PICTURES:
        raise InputError(f"{path}: a picture's name ends with {', '.join(PICTURES)}")
    if find_spec("matplotlib") is None:
        raise MissingExtraError("a histogram as a picture needs matplotlib", "plot")
