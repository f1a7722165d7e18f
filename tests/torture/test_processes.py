"""Models in other processes: forked, spawned, ended and killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaign import Effort, Tally
from coins import GOOD, PROBLEM
from rfprm_lite import PRM

HERE = Path(__file__).parent
with_forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")


@with_forks
def test_forked_workers(effort: Effort, tally: Tally) -> None:
    """Workers forked, as by gunicorn's preload, from a process whose threads compute; then ended or killed."""
    workers = effort.times(4, 160)
    paths = os.pathsep.join([str(HERE.parent / "runtime"), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-W", "ignore::DeprecationWarning", str(HERE / "preload.py"), str(workers), "1"]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": paths},
        cwd=HERE.parent.parent,
    )
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    result: dict[str, Any] = json.loads(run.stdout)
    for kind, times in result["came"].items():
        tally.add(f"workers: {kind}", times)
    assert not result["wrong"]
    assert sum(result["came"].values()) == workers


def rewards(prm: PRM) -> tuple[int, list[float]]:
    return os.getpid(), prm.score(PROBLEM, steps=GOOD).step_rewards.tolist()


@with_forks
@pytest.mark.parametrize("start", ["spawn", "forkserver"])
def test_killed_pools(
    start: str, effort: Effort, tally: Tally, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pools of two workers, of which one is killed at random."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    prm = PRM.from_pretrained("demo", threads=1)
    expected = rewards(prm)[1]
    random = np.random.default_rng(1)
    for _ in range(effort.times(1, 20)):
        with ProcessPoolExecutor(2, multiprocessing.get_context(start)) as pool:
            pid, got = pool.submit(rewards, prm).result()
            assert got == expected
            killer = threading.Timer(2 * float(random.random()), os.kill, (pid, signal.SIGKILL))
            killer.start()
            until, broken = time.monotonic() + 60, False
            while not broken and time.monotonic() < until:
                try:
                    assert all(got == expected for _, got in pool.map(rewards, [prm] * 4))
                    tally.add(f"calls in pools, {start}", 4)
                except BrokenProcessPool:
                    broken = True
            killer.join()
            assert broken, "the pool did not notice that a worker was killed"
        tally.add(f"killed workers, {start}")
    assert rewards(prm)[1] == expected
    left = [path.name for path in tmp_path.iterdir() if not path.name.startswith("pymp-")]  # Python's own, to its end
    assert not left, "a killed worker left something"
