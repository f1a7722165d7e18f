"""Both wheels, looked into."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, str(ROOT / "packaging" / "build.py"), str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return {path.name.partition("-")[0]: path for path in folder.glob("*.whl")}


def requirements(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        lines = Parser().parsestr(archive.read(name).decode()).get_all("Requires-Dist", [])
    return [line for line in lines if "extra ==" not in line]


def test_the_twins_differ_in_onnxruntime_alone(wheels: dict[str, Path]) -> None:
    assert sorted(wheels) == ["rfprm_lite", "rfprm_lite_gpu"]
    cpu, gpu = (requirements(wheels[name]) for name in ("rfprm_lite", "rfprm_lite_gpu"))
    assert [line for line in gpu if not line.startswith("onnxruntime")] == [
        line for line in cpu if not line.startswith("onnxruntime")
    ]
    assert [line for line in gpu if line.startswith("onnxruntime")] == ["onnxruntime-gpu[cuda,cudnn]>=1.31.1"]
    names = {line.split(">")[0].split("!")[0] for line in cpu}
    assert names == {"onnxruntime", "tokenizers", "numpy", "huggingface-hub", "msgspec", "click", "rich"}
    assert "onnxruntime>=1.24.2" in cpu


def test_what_is_inside(wheels: dict[str, Path]) -> None:
    listings = []
    for wheel in wheels.values():
        assert wheel.stat().st_size < 3 * MEGABYTE
        with zipfile.ZipFile(wheel) as archive:
            assert sum(i.file_size for i in archive.infolist() if "/models/" in i.filename) < 3 * MEGABYTE
            listings.append({n for n in archive.namelist() if ".dist-info/" not in n})
    assert listings[0] == listings[1]
    tops = {name.split("/")[0] for name in listings[0]}
    assert tops == {"rfprm_lite", "rfprm_export"}
    graph = {"int8/model.onnx", "int8/model.onnx.data"}
    demo = {"manifest.json", "parity.json", "tokenizer.json", "README.md"} | graph
    assert {f"rfprm_lite/models/demo/{name}" for name in demo} < listings[0]
    assert {"rfprm_lite/py.typed", "rfprm_export/py.typed", "rfprm_lite/models/example.json"} < listings[0]
    assert {f"rfprm_lite/show/static/{name}" for name in ("score.css", "page.css", "page.js")} < listings[0]
