"""Change the code a little, many times, and see whether its tests notice.

    python tests/mutants.py [--minutes 30] [--sample N] [--seed S] [--cosmic-ray PROGRAM] MODULE ...

Modules by their paths, such as rfprm_lite/plan/packing.py; those of TESTS are known. cosmic-ray changes a copy of the
tree, one place at a time, and runs the module's tests with this Python. With --sample, N changes of each module are
drawn by chance. Prints every change that survived; the last line is one JSON object. Exit code 1 where the unchanged
code fails its tests.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("rfprm_lite", "export", "tests", "examples", "pyproject.toml")

RUNTIME = {
    "rfprm_lite/aggregate.py": ["aggregate"],
    "rfprm_lite/plan/bound.py": ["lazy"],
    "rfprm_lite/plan/budget.py": ["budget", "schedule"],
    "rfprm_lite/plan/cache.py": ["cache", "cache_machine", "call"],
    "rfprm_lite/plan/cancel.py": ["cache", "cancel"],
    "rfprm_lite/plan/call.py": ["call"],
    "rfprm_lite/plan/packing.py": ["packing"],
    "rfprm_lite/plan/ports.py": ["tree"],
    "rfprm_lite/plan/schedule.py": ["schedule", "tree", "cache", "call"],
    "rfprm_lite/plan/sequence.py": ["tree"],
    "rfprm_lite/plan/tree.py": ["tree", "cache"],
    "rfprm_lite/plan/usage.py": ["usage"],
}
EXPORT = {
    "export/rfprm_export/quantize/balance.py": ["balance"],
    "export/rfprm_export/quantize/bases.py": ["bases_law", "bases"],
    "export/rfprm_export/quantize/gptq.py": ["gptq"],
    "export/rfprm_export/quantize/integers.py": ["int4", "int8"],
    "export/rfprm_export/quantize/mixing.py": ["bases_law", "bases"],
    "export/rfprm_export/quantize/moments.py": ["bases_law", "gptq"],
    "export/rfprm_export/quantize/overflow.py": ["overflow"],
    "export/rfprm_export/quantize/round.py": ["gptq", "int4", "int8"],
}
TESTS = {
    module: [f"tests/{folder}/test_{name}.py" for name in (*names, *others)]
    for folder, modules, others in (("runtime", RUNTIME, ["values"]), ("export", EXPORT, []))
    for module, names in modules.items()
}
"""The tests of each module: those that state its laws, and are quick."""

OPTIONS = ["-x", "-q", "-m", "not slow", "--hypothesis-profile=mutants"]
"""A failure ends the run, and no smaller example is looked for."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("modules", nargs="*", default=list(TESTS))
    parser.add_argument("--minutes", type=float, default=30, help="for all modules together")
    parser.add_argument("--sample", type=int, help="changes of each module, drawn by chance; all unless given")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--cosmic-ray", default="cosmic-ray")
    options = parser.parse_args()
    unknown = set(options.modules) - set(TESTS)
    if unknown:
        parser.error(f"no tests are named for {', '.join(sorted(unknown))}: see TESTS")
    ends = time.monotonic() + 60 * options.minutes
    cosmic_ray = Path(shutil.which(options.cosmic_ray) or options.cosmic_ray).absolute()
    counts = {}
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_tree(tree)
        for module in options.modules:
            counts[module] = mutate(module, tree, cosmic_ray, options.sample, options.seed, ends)
    print(json.dumps(counts))
    return 0


def copy_tree(tree: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tree / name, ignore=shutil.ignore_patterns("__pycache__", ".hypothesis"))
        else:
            shutil.copy(source, tree / name)
    # Compiled once: each run would do it again.
    subprocess.run([sys.executable, "-m", "compileall", "-q", "rfprm_lite", "export", "tests"], cwd=tree, check=True)


def mutate(module: str, tree: Path, program: Path, sample: int | None, seed: int, ends: float) -> dict[str, int]:
    """How many changes there are, and how many were killed, survived, or left for another time."""
    with test_server(module, tree) as ask:
        began = time.monotonic()
        subprocess.run(ask, cwd=tree, check=True)
        timeout = 5 + 5 * (time.monotonic() - began)
        (tree / "mutants.toml").write_text(
            f"""[cosmic-ray]
module-path = "{module}"
timeout = {timeout:.1f}
excluded-modules = []
test-command = "{" ".join(ask)}"
distributor.name = "local"
""",
            encoding="utf-8",
        )

        def cosmic_ray(*arguments: str, seconds: float | None = None) -> str:
            command = [str(program), *arguments]
            return subprocess.run(
                command, cwd=tree, check=True, stdout=subprocess.PIPE, text=True, timeout=seconds
            ).stdout

        cosmic_ray("init", "--force", "mutants.toml", "mutants.sqlite")
        everything = choose(tree / "mutants.sqlite", annotations(tree / module), sample, seed)
        try:
            cosmic_ray("exec", "mutants.toml", "mutants.sqlite", seconds=max(1.0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            print(f"{module}: the time is over")
        shutil.copy(ROOT / module, tree / module)  # the time may be over in the middle of a change
        subprocess.run(ask, cwd=tree, check=True)  # else what was killed says nothing
        return report(module, everything, cosmic_ray("dump", "mutants.sqlite"))


@contextmanager
def test_server(module: str, tree: Path) -> Iterator[list[str]]:
    """Gives the command that runs the module's tests once."""
    for compiled in (tree / module).parent.glob(f"__pycache__/{Path(module).stem}.*"):
        compiled.unlink()  # a change may leave a file's size and time alike
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(tree), str(tree / "export")]),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    forks, address = str(ROOT / "tests" / "forks.py"), str(tree / f"{Path(module).stem}.socket")
    tests = [*OPTIONS, f"--basetemp={tree / 'temporary'}", *TESTS[module]]
    command = [sys.executable, forks, "serve", address, *tests]
    with subprocess.Popen(command, cwd=tree, env=environment, stdout=subprocess.DEVNULL) as server:
        try:
            while not Path(address).exists():
                time.sleep(0.1)
            yield [sys.executable, "-I", "-S", forks, "ask", address]
        finally:
            server.terminate()


def annotations(module: Path) -> list[ast.expr]:
    """Of arguments, results and variables. Changes of them do nothing, since they are never evaluated."""
    nodes = list(ast.walk(ast.parse(module.read_text(encoding="utf-8"))))
    found = [n.annotation for n in nodes if isinstance(n, (ast.arg, ast.AnnAssign))]
    return [a for a in [*found, *(n.returns for n in nodes if isinstance(n, ast.FunctionDef))] if a is not None]


def choose(session: Path, never: list[ast.expr], sample: int | None, seed: int) -> int:
    """Leave a sample of the changes that lie in no annotation; returns how many these are."""

    def within(row: int, column: int) -> bool:
        ends = (((a.lineno, a.col_offset), (a.end_lineno or 0, a.end_col_offset or 0)) for a in never)
        return any(start <= (row, column) < end for start, end in ends)

    with closing(sqlite3.connect(session)) as database, database:
        rows = database.execute(
            "SELECT job_id, start_pos_row, start_pos_col FROM mutation_specs "
            "ORDER BY operator_name, occurrence, operator_args"
        ).fetchall()
        possible = [job for job, row, column in rows if not within(row, column)]
        chosen = set(possible if sample is None else random.Random(seed).sample(possible, min(sample, len(possible))))
        for table in ("mutation_specs", "work_items"):
            database.executemany(f"DELETE FROM {table} WHERE job_id = ?", [(r[0],) for r in rows if r[0] not in chosen])
    return len(possible)


def report(module: str, everything: int, dump: str) -> dict[str, int]:
    found = Counter({"of": everything})
    for line in dump.splitlines():
        item, result = json.loads(line)
        if result is None:
            found["left"] += 1
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
