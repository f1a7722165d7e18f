"""Workers, and the environments that they run in."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from contender import Entry, Environment, ModelPaths
from workloads import Workload

BENCH = Path(__file__).parent


class WorkerError(RuntimeError):
    """A worker ended; its last lines of stderr are the message."""


class InstallError(RuntimeError):
    """pip's last lines say what could not be installed."""


@dataclass(frozen=True, slots=True)
class Run:
    """One workload by one contender. peak_bytes: of its process, in this run. load_seconds: where it was loaded for
    this run alone; `seconds` counts from the start of the process then."""

    seconds: float
    rewards: list[list[list[float]]]
    computed: int
    peak_bytes: int | None
    load_seconds: float | None = None


class Worker:
    """A contender's process, spoken to over pipes."""

    def __init__(self, entry: Entry, python: Path) -> None:
        self.entry = entry
        self._started = time.perf_counter()
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

    def cold(self, model: ModelPaths, threads: int, calls: Path) -> Run:
        """Load and run; `seconds` is from the start of the process to the last reward."""
        load_seconds = self.load(model, threads)
        run = self.run(calls)
        return replace(run, seconds=time.perf_counter() - self._started, load_seconds=load_seconds)

    def close(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
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
    if entry.environment is None:
        return Path(sys.executable)
    folder = entry.environment.folder(cache)
    return folder / "bin" / "python" if (folder / "complete").exists() else None


def make_environment(environment: Environment, cache: Path) -> None:
    """Create it and install what it needs, unless it is there.

    Raises:
        InstallError: If pip fails.
    """
    folder = environment.folder(cache)
    if (folder / "complete").exists():
        return
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    _pip(python, "install", environment.requirements[0])
    needed = environment.requirements
    if environment.forced:
        _pip(python, "install", "--no-deps", environment.forced)
        needed += _missing(python, environment)
    _pip(python, "install", *needed)
    if environment.unwanted:
        _pip(python, "uninstall", "--yes", *environment.unwanted)
    (folder / "complete").touch()


def _pip(python: Path, command: str, *arguments: str) -> None:
    done = subprocess.run(
        [str(python), "-m", "pip", command, "--quiet", *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise InstallError(" | ".join(done.stderr.strip().splitlines()[-3:]) or f"pip {command} failed")


def _missing(python: Path, environment: Environment) -> tuple[str, ...]:
    """The requirements of the forced package, but for those of which there is some version, and the unwanted."""
    name = (environment.forced or "").partition("==")[0]
    asked = [str(python), str(BENCH / "requirements_of.py"), name, *environment.unwanted]
    return tuple(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.split("\n")[:-1])
