"""Build both wheels of this tree: rfprm-lite, and its twin rfprm-lite-gpu, which needs onnxruntime-gpu instead.

    python packaging/build.py OUTPUT

The twin is the same tree under another name, as with onnxruntime and onnxruntime-gpu; the two exclude each other.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import copytree, ignore_patterns

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("rfprm_lite", "export", "README.md", "LICENSE", "pyproject.toml")
GPU = (
    ('name = "rfprm-lite"', 'name = "rfprm-lite-gpu"'),
    # Its PagedAttention takes slots and bounds; older ones were not looked at. The extras bring CUDA's libraries.
    ('"onnxruntime>=1.24.2"', '"onnxruntime-gpu[cuda,cudnn]>=1.31.1"'),
)


def build(tree: Path, output: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(output), str(tree)], check=True
    )


def copy_sources(target: Path) -> None:
    for source in SOURCES:
        path = ROOT / source
        if path.is_dir():
            copytree(path, target / source, ignore=ignore_patterns("__pycache__"))
        else:
            (target / source).write_bytes(path.read_bytes())


def rename(pyproject: Path) -> None:
    """Turn the project into its twin. Raises ValueError where a line to change does not stand there just once."""
    text = pyproject.read_text(encoding="utf-8")
    for old, new in GPU:
        if text.count(old) != 1:
            raise ValueError(f"{old} stands {text.count(old)} times in pyproject.toml, once is expected")
        text = text.replace(old, new)
    pyproject.write_text(text, encoding="utf-8")


def main(output: Path) -> None:
    build(ROOT, output)
    with tempfile.TemporaryDirectory() as folder:
        copy_sources(Path(folder))
        rename(Path(folder) / "pyproject.toml")
        build(Path(folder), output)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
