"""Everything at once, for as long as there is time: the same rewards, and nothing that grows or stays."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from campaign import Effort, Tally

BLOCKS = 20
"""Neighbouring samples are alike: their means over so many stretches of time are not, and are fitted."""
WARM_UP = 1 / 2
"""The part of the time in which caches and the allocator's arenas may fill."""
GROWTH = {"allocated": 0.05, "resident": 0.15}
"""The part by which each may grow in the time that is fitted. What is resident and not allocated is the allocator's:
its arenas for the threads fill slowly, as calls of all lengths meet in them."""
LITTLE_TIME = 3
"""So many times as much is let pass in the short form, in which nothing has filled."""


def slope(times: NDArray[np.float64], values: NDArray[np.float64]) -> tuple[float, float]:
    """The slope of a line through values, a second, and its standard error."""
    blocks = min(BLOCKS, len(times))
    stretches = np.array_split(np.arange(len(times)), blocks)
    x = np.array([times[stretch].mean() for stretch in stretches])
    y = np.array([values[stretch].mean() for stretch in stretches])
    x -= x.mean()
    fitted = float((x * y).sum() / (x * x).sum())
    rest = y - y.mean() - fitted * x
    return fitted, float(np.sqrt((rest * rest).sum() / (blocks - 2) / (x * x).sum()))


def test_slope() -> None:
    times = np.linspace(0, 100, 2000)
    noise = np.random.default_rng(1).normal(0, 5, 2000)
    fitted, error = slope(times, 3 * times + noise)
    assert abs(fitted - 3) < 4 * error < 0.1
    flat, error = slope(times, noise)
    assert abs(flat) < 4 * error


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not tell what a process has")
def test_soak(effort: Effort, tally: Tally) -> None:
    """16 threads and an event loop with 12 calls, on 4 PRMs."""
    seconds = effort.seconds(10, 480)
    command = [sys.executable, str(Path(__file__).with_name("soak.py")), str(seconds), "1"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    result: dict[str, Any] = json.loads(run.stdout)
    for what, times in sorted(result["calls"].items()):
        tally.add(what, times)
    times, calls, resident, allocated, tasks, descriptors = np.array(result["samples"], np.float64).T
    warm = times > times[-1] * WARM_UP
    span = times[-1] - times[warm][0]
    growth = {}
    for what, values in (("allocated", allocated[warm] / 2**20), ("resident", resident[warm] / 2**20)):
        fitted, error = slope(times[warm], values)
        tally.measure(f"{what}: slope in MB an hour", f"{fitted * 3600:.1f} ± {error * 3600:.1f}")
        tally.measure(f"{what}: slope in kB a call", fitted * span * 1024 / max(1, calls[-1] - calls[warm][0]))
        tally.measure(f"{what}: MB, mean", values.mean())
        growth[what] = (fitted - 2 * error) * span / max(values.mean(), 1)
    tally.measure("most resident MB", resident.max() / 2**20)
    tally.measure("most threads", tasks.max())
    tally.measure("most files", descriptors.max())
    assert result["num_wrong"] == 0, "\n".join(result["wrong"])
    assert not any(result["left"].values()), result["left"]
    for what, most in GROWTH.items():
        assert growth[what] < (most if effort.long else LITTLE_TIME * most), f"{what} memory grew by {growth[what]:.1%}"
