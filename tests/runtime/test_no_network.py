"""A new program that may open no socket imports the package, loads from a folder, scores and evaluates."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GUARDED = """
import sys

def refuse(event, values):
    if event.startswith("socket.") and event not in ("socket.__new__", "socket.gethostname"):
        raise OSError(f"no network: {event} {values}")
    if event == "socket.__new__" and values[1] not in (1, 0):  # AF_UNIX stays on this machine
        raise OSError(f"no network: a socket of family {values[1]}")

sys.addaudithook(refuse)
"""
"""Python asks before anything of it makes a socket, looks up a name or connects, and nobody can take the hook away."""

STEPS = {
    "import": "import rfprm_lite, rfprm_lite.evaluate, rfprm_lite.rl, rfprm_lite.cli",
    "load and score": """
from rfprm_lite import PRM
from rfprm_lite.bundle.open import DEMO_FOLDER
prm = PRM.from_pretrained(DEMO_FOLDER, threads=1)
assert len(prm.score("What is 2 + 3?", "2 + 3 = 5.\\n\\nThe answer is 5.").step_rewards) == 2
assert prm.best_of_n("What is 2 + 3?", ["2 + 3 = 5.", "2 + 3 = 6."]).index in (0, 1)
prm.best_of_n("What is 2 + 3?", ["2 + 3 = 5.", "2 + 3 = 6."])._repr_html_()
""",
    "commands": """
from rfprm_lite.cli import main
for arguments in (["demo"], ["doctor"], ["evaluate", "--model", "demo", "demo"]):
    try:
        main(arguments, standalone_mode=False)
    except SystemExit as end:
        assert not end.code, (arguments, end.code)
""",
}


def guarded(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", GUARDED + code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("step", STEPS)
def test_nothing_opens_a_socket(step: str, tmp_path: Path) -> None:
    run = guarded(STEPS[step], tmp_path)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket(socket.AF_INET)",
        "import socket; socket.getaddrinfo('example.org', 80)",
        "from rfprm_lite import PRM; PRM.from_pretrained('nobody/nothing')",
    ],
)
def test_the_guard_is_one(code: str, tmp_path: Path) -> None:
    run = guarded(code, tmp_path)
    assert run.returncode != 0
    assert "no network" in run.stderr or "HubError" in run.stderr
