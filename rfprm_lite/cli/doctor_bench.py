"""What `rfprm doctor --bench` shows: how fast this machine is, and how long real models will take on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from rfprm_lite.bundle.open import DEMO
from rfprm_lite.cli.demo import example
from rfprm_lite.engine.speed import SHAPES, TOKENS, WORKLOADS, Dtype, Speed, median_seconds
from rfprm_lite.prm import PRM

DTYPES: tuple[Dtype, ...] = ("int8", "fp32")
OFF: dict[Dtype, float] = {"int8": 0.2, "fp32": 0.19}
"""How far predictions were off at most: of the 0.5B (bench/log/2026-11-27-peers-of-the-same-arithmetic.md), and of six
layers of it (bench/log/2026-11-27-pairs-fit-16-bits.md)."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What was measured.

    Attributes:
        speed: Of products, layers and attention.
        demo: Seconds of the demo model's example.
    """

    speed: Speed
    demo: float

    @classmethod
    def measured(cls, threads: int | None = None) -> Bench:
        """Measure, within half a minute on an idle machine.

        Args:
            threads: Within an operator; None for as many as a `PRM` takes.
        """
        prm = PRM.from_pretrained(DEMO, threads=threads, cache_bytes=0)
        problem, candidates = example()
        demo = median_seconds(lambda: prm.best_of_n(problem, candidates, exhaustive=True))
        return cls(Speed.measured(threads), demo)

    @property
    def variant(self) -> Dtype:
        """The one that all that is predicted takes less time with."""
        return min(DTYPES, key=self._total)

    @property
    def advice(self) -> str:
        """Which variant to take, and why."""
        other = next(dtype for dtype in DTYPES if dtype != self.variant)
        times = self._total(other) / self._total(self.variant)
        return f"take {self.variant}: {other} takes {times:.1f} times as long here"

    @property
    def predictions(self) -> dict[tuple[str, str], dict[Dtype, float]]:
        """Seconds by type, by the names of workload and shape."""
        return {
            (workload.name, shape.name): {dtype: self.speed.predict(workload, shape, dtype) for dtype in DTYPES}
            for workload in WORKLOADS
            for shape in SHAPES
        }

    @property
    def report(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "products_per_second": self.speed.products,
            "layer_seconds": {f"{dtype} {shape}": seconds for (dtype, shape), seconds in self.speed.layers.items()},
            "attention_per_second": dict(self._attention),
            "demo_seconds": self.demo,
            "predicted_seconds": [
                {"workload": workload, "shape": shape, **seconds}
                for (workload, shape), seconds in self.predictions.items()
            ],
            "predictions_were_off_by": OFF,
            "variant": self.variant,
            "advice": self.advice,
        }

    @property
    def shown(self) -> RenderableType:
        """For a terminal."""
        rates = Table("measured", "", box=None)
        for dtype, per_second in self.speed.products.items():
            rates.add_row(f"{dtype} product", f"{per_second / 1e9:.0f} Gop/s")
        for (dtype, shape), seconds in self.speed.layers.items():
            rates.add_row(f"{dtype} layer of {shape}, {TOKENS} tokens", f"{seconds * 1e3:.1f} ms")
        for attending, rate in self._attention:
            rates.add_row(f"attention, {attending}", f"{rate / 1e9:.0f} Gflop/s")
        rates.add_row("demo's example", f"{self.demo * 1e3:.1f} ms")
        expected = Table("expected seconds", *(shape.name for shape in SHAPES), box=None)
        for workload in WORKLOADS:
            for dtype in DTYPES:
                expected.add_row(
                    f"{workload.title} tokens, {dtype}",
                    *(f"{self.predictions[workload.name, shape.name][dtype]:.1f}" for shape in SHAPES),
                )
        off = ", ".join(f"{most:.0%} in {dtype}" for dtype, most in OFF.items())
        told = f"where it was compared, on the 0.5B, a prediction was off by at most {off}"
        return Group(rates, "", expected, "", told, self.advice)

    def _total(self, dtype: Dtype) -> float:
        return sum(seconds[dtype] for seconds in self.predictions.values())

    @property
    def _attention(self) -> list[tuple[str, float]]:
        """Multiplications and additions of scores and values a second."""
        rates = []
        for (size, tokens, past), (seconds, heads) in self.speed.attention.items():
            operations = 4 * heads * size * tokens * (past + (tokens + 1) / 2)
            rates.append((f"{tokens} tokens behind {past}, heads of {size}", operations / seconds))
        return rates
