"""Make the graphs that `rfprm_lite/engine/memory.py` copies by, one Identity for each type.

python packaging/make_copy_graph.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

from onnx import ModelProto, TensorProto, helper

FOLDER = Path(__file__).resolve().parent.parent / "rfprm_lite" / "engine"
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}


def copy_graph(element: int) -> ModelProto:
    """y = x, of any length."""
    x, y = (helper.make_tensor_value_info(name, element, ["n"]) for name in ("x", "y"))
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "copy", [x], [y])
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 16)])


def main(folder: Path) -> None:
    for name, element in TYPES.items():
        (folder / f"copy_{name}.onnx").write_bytes(copy_graph(element).SerializeToString(deterministic=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
