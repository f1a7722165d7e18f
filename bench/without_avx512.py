"""A copy of the installed ONNX Runtime that takes the processor for one with AVX2 and no more.

    python bench/without_avx512.py FOLDER
    PYTHONPATH=FOLDER python bench/saturation.py

Its kernels are chosen when it is loaded, by asking the processor which registers the system saves (`xgetbv`). The copy
clears AVX-512's from the answer, so that the kernels for AVX2 run at the speed of a real processor. Linux on x86-64,
ONNX Runtime 1.32: a library in which the places are not found is not changed. Processors with AVX-VNNI keep that.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import onnxruntime

PLACES = {
    # MLAS: xgetbv; mov eax, eax; shl rdx, 32; or rdx, rax -> xgetbv; and eax, 7; xor edx, edx; nop; or rdx, rax
    "0f01d0 89c0 48c1e220 4809c2 48f7d0 4989d0": "0f01d0 83e007 31d2 90 4809c2 48f7d0 4989d0",
    # ONNX Runtime: and r9d, 0xe6; xor r10d, r10d; xor ecx, ecx; cmp r9d, 0xe6 -> and r9d, 0x06; ...
    "4181e1e6000000 4531d2 31c9 4181f9e6000000": "4181e106000000 4531d2 31c9 4181f9e6000000",
}
"""Machine code, and what is put in its place."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Write the copy to FOLDER/onnxruntime."""
    (installed,) = onnxruntime.__path__
    shutil.copytree(installed, folder / "onnxruntime")
    (library,) = (folder / "onnxruntime" / "capi").glob("onnxruntime_pybind11_state*.so")
    code = library.read_bytes()
    for found, put in PLACES.items():
        if code.count(bytes.fromhex(found)) != 1:
            raise click.ClickException(f"{library} of ONNX Runtime {onnxruntime.__version__} is not as expected")
        code = code.replace(bytes.fromhex(found), bytes.fromhex(put))
    library.write_bytes(code)


if __name__ == "__main__":
    main()
