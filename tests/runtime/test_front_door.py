"""What `import rfprm_lite` costs and shows, and which way dependencies point."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import rfprm_lite

PACKAGE = Path(rfprm_lite.__file__).parent
HEAVY = ("torch", "transformers", "onnx", "onnx_ir", "safetensors")

PROBE = """
import json, socket, sys
def refuse(*a): raise OSError("network")
socket.socket.connect = refuse
import numpy  # its modules are not ours
before = set(sys.modules)
import rfprm_lite
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def test_the_import_loads_little() -> None:
    """What takes its time is loaded where it is used."""
    loaded = set(json.loads(run_python(PROBE)))
    assert loaded - sys.stdlib_module_names <= {"rfprm_lite", "msgspec", "numpy", "tokenizers", "typing_extensions"}
    assert not loaded & {"sqlite3", "multiprocessing", "http", "html"}


def test_scoring_needs_no_heavy_module_either() -> None:
    code = (
        "import sys, rfprm_lite as r; r.PRM.from_pretrained('demo').score('1+1?', '2');"
        f"sys.exit(bool(set(sys.modules) & set({HEAVY!r})))"
    )
    run_python(code)


def test_onnxruntime_telemetry_is_off_unless_asked_for() -> None:
    code = "import os, rfprm_lite as r; assert 'ORT_DISABLE_TELEMETRY' not in os.environ; "
    code += "r.PRM.from_pretrained('demo'); assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    run_python(f"import os; os.environ.pop('ORT_DISABLE_TELEMETRY', None); {code}")


def test_all_is_what_is_visible() -> None:
    public = {name for name in vars(rfprm_lite) if not name.startswith("_")}
    submodules = {path.stem for path in PACKAGE.iterdir()}
    assert set(rfprm_lite.__all__) == (public - submodules) | {"__version__"}
    assert rfprm_lite.__all__ == sorted(rfprm_lite.__all__, key=lambda n: (n == "__version__", not n.isupper(), n))


def test_every_error_is_one_of_ours() -> None:
    for name in rfprm_lite.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(rfprm_lite, name), rfprm_lite.RfprmError)


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


RUNTIME = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", RUNTIME, ids=lambda p: p.stem)
def test_the_runtime_knows_nothing_of_the_exporter(path: Path) -> None:
    own = {"torch"} if path.parent.name == "integrations" and path.stem == "openrlhf" else set()  # it takes tensors
    assert not {name.partition(".")[0] for name in imports(path)} & {*HEAVY, "rfprm_export"} - own
