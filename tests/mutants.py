"""Change the code a little, many times, and see whether its tests notice.

    python tests/mutants.py [--minutes 30] [--cosmic-ray PROGRAM] MODULE ...

Modules by their paths, such as rfprm_lite/plan/packing.py; those of TESTS are known. cosmic-ray changes a copy of the
tree, one place at a time, and runs the module's tests with this Python. Prints every change that survived; the last
line is one JSON object. Exit code 1 where the unchanged code fails its tests.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("rfprm_lite", "export", "tests", "examples", "pyproject.toml")

RUNTIME = {
    "rfprm_lite/aggregate.py": ["aggregate"],
    "rfprm_lite/plan/bound.py": ["lazy"],
    "rfprm_lite/plan/budget.py": ["budget", "memory"],
    "rfprm_lite/plan/cache.py": ["cache", "cache_machine", "call"],
    "rfprm_lite/plan/call.py": ["call"],
    "rfprm_lite/plan/packing.py": ["packing"],
    "rfprm_lite/plan/schedule.py": ["tree", "cache", "call"],
    "rfprm_lite/plan/tree.py": ["tree", "cache"],
}
EXPORT = {
    "export/rfprm_export/quantize/balance.py": ["balance"],
    "export/rfprm_export/quantize/bases.py": ["bases"],
    "export/rfprm_export/quantize/gptq.py": ["gptq"],
    "export/rfprm_export/quantize/integers.py": ["int4", "int8"],
    "export/rfprm_export/quantize/mixing.py": ["bases"],
    "export/rfprm_export/quantize/moments.py": ["gptq"],
    "export/rfprm_export/quantize/round.py": ["gptq", "int4", "int8"],
}
TESTS = {
    module: [f"tests/{folder}/test_{name}.py" for name in names]
    for folder, modules in (("runtime", RUNTIME), ("export", EXPORT))
    for module, names in modules.items()
}
"""The tests of each module: those that state its laws, and are quick."""

OPTIONS = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not slow", "--hypothesis-profile=mutants"]
"""A failure ends the run, and no smaller example is looked for."""

NEVER_RUN = ["core/ReplaceBinaryOperator_BitOr_.*"]
"""Operators that change annotations alone, which are never evaluated."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=list(TESTS))
    parser.add_argument("--minutes", type=float, default=30, help="for all modules together")
    parser.add_argument("--cosmic-ray", default="cosmic-ray")
    options = parser.parse_args()
    unknown = set(options.modules) - set(TESTS)
    if unknown:
        parser.error(f"no tests are named for {', '.join(sorted(unknown))}: see TESTS")
    ends = time.monotonic() + 60 * options.minutes
    counts = {}
    for module in options.modules:
        with tempfile.TemporaryDirectory() as folder:
            counts[module] = mutate(module, Path(folder), options.cosmic_ray, ends)
    print(json.dumps(counts))
    return 0


def mutate(module: str, tree: Path, cosmic_ray: str, ends: float) -> dict[str, int]:
    """How many changes were killed, survived, or left for another time."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        else:
            shutil.copy(source, tree / name)
    (tree / "pyproject.toml").write_text(settings(), encoding="utf-8")
    tests = [sys.executable, "-m", "pytest", *OPTIONS, *TESTS[module]]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tree), str(tree / "export")]),
        "PYTHONDONTWRITEBYTECODE": "1",  # a change may leave a file's size and time as they were
    }
    began = time.monotonic()
    subprocess.run(tests, cwd=tree, env=environment, check=True, stdout=subprocess.DEVNULL)
    timeout = 10 + 3 * (time.monotonic() - began)
    command = " ".join(f"'{word}'" if " " in word else word for word in tests)
    (tree / "mutants.toml").write_text(
        f"""[cosmic-ray]
module-path = "{module}"
timeout = {timeout:.1f}
excluded-modules = []
test-command = "{command}"

[cosmic-ray.distributor]
name = "local"

[cosmic-ray.filters.operators-filter]
exclude-operators = {json.dumps(NEVER_RUN)}
""",
        encoding="utf-8",
    )
    beside = Path(shutil.which(cosmic_ray) or cosmic_ray).parent

    def call(program: str, *arguments: str, seconds: float | None = None) -> str:
        command = [str(beside / program), *arguments]
        return subprocess.run(
            command, cwd=tree, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=seconds
        ).stdout

    call("cosmic-ray", "init", "mutants.toml", "mutants.sqlite")
    call("cr-filter-operators", "mutants.sqlite", "mutants.toml")
    try:
        call("cosmic-ray", "exec", "mutants.toml", "mutants.sqlite", seconds=max(1.0, ends - time.monotonic()))
    except subprocess.TimeoutExpired:
        print(f"{module}: the time is over")
    return report(module, call("cosmic-ray", "dump", "mutants.sqlite"))


def settings() -> str:
    """pytest's, which stand in pyproject.toml."""
    return (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def report(module: str, dump: str) -> dict[str, int]:
    found: Counter[str] = Counter()
    for line in dump.splitlines():
        item, result = json.loads(line)
        if result is None:
            found["left"] += 1
        elif result["worker_outcome"] == "skipped":
            continue
        elif result["test_outcome"] == "survived":
            found["survived"] += 1
            (mutation,) = item["mutations"]
            print(f"\n{module}:{mutation['start_pos'][0]} survived {mutation['operator_name']}\n{result['diff']}")
        else:
            found["killed"] += 1
    print(f"{module}: {dict(found)}", flush=True)
    return dict(found)


if __name__ == "__main__":
    sys.exit(main())
