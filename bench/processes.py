"""Workers, and the environments that they run in."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import venv
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from contender import Entry, ModelPaths, environment_folder
from workloads import Workload

BENCH = Path(__file__).parent


class WorkerError(RuntimeError):
    """A worker ended; its last lines of stderr are the message."""


@dataclass(frozen=True, slots=True)
class Run:
    """One workload by one contender. peak_bytes: of the process, so far."""

    seconds: float
    rewards: list[list[list[float]]]
    computed: int
    peak_bytes: int | None


class Worker:
    """A contender's process, spoken to over pipes."""

    def __init__(self, entry: Entry, python: Path) -> None:
        self.entry = entry
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  # lives as long as the process
        command = [str(python), str(BENCH / "worker.py"), entry.target, json.dumps(entry.arguments)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )

    def load(self, model: ModelPaths, threads: int) -> float:
        """Seconds."""
        return float(self._ask({"load": asdict(model), "threads": threads})["seconds"])

    def run(self, calls: Path) -> Run:
        return Run(**self._ask({"run": str(calls)}))

    def close(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()
        self._log.close()

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise WorkerError("the worker has no pipes")
        try:
            stdin.write(json.dumps(command) + "\n")
            stdin.flush()
            answer = stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.wait()
            self._log.seek(0)
            raise WorkerError(" | ".join(self._log.read().strip().splitlines()[-3:]) or "the worker ended in silence")
        found: dict[str, Any] = json.loads(answer)
        return found


def write_calls(workload: Workload, folder: Path) -> Path:
    """The workload's calls as a file that workers read."""
    path = folder / f"{workload.name}.json"
    path.write_text(json.dumps([[asdict(s) for s in call] for call in workload.calls]), encoding="utf-8")
    return path


def python_of(entry: Entry, cache: Path) -> Path | None:
    """The interpreter that the contender runs with; None where its environment was not made."""
    folder = environment_folder(cache, entry)
    if folder is None:
        return Path(sys.executable)
    return folder / "bin" / "python" if (folder / "complete").exists() else None


def make_environment(entry: Entry, cache: Path) -> None:
    """Create it and install what it needs, one requirement after another: torch first, as pyproject.toml says."""
    folder = environment_folder(cache, entry)
    if folder is None or (folder / "complete").exists():
        return
    venv.create(folder, with_pip=True, clear=True)
    first, *others = entry.requirements
    for requirements in ([first], others):
        subprocess.run([str(folder / "bin" / "pip"), "install", "--quiet", *requirements], check=True)
    (folder / "complete").touch()
