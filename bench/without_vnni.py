"""A copy of the installed ONNX Runtime that takes the processor for one without VNNI.

    python bench/without_vnni.py FOLDER --as avx2
    PYTHONPATH=FOLDER python bench/saturation.py

Its kernels are chosen when it is loaded. The copy's code for that overlooks AVX-512 (`avx2`), or its VNNI alone
(`avx512`), so that the other kernels run, at the speed of a real processor. Linux on x86-64, ONNX Runtime 1.32: a
library in which the places are not found is not changed. Processors with AVX-VNNI keep that.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import click
import onnxruntime

PLACES = {
    "avx2": {
        # MLAS, which registers the system saves: xgetbv; mov eax, eax; shl rdx, 32; or rdx, rax
        # becomes: xgetbv; and eax, 7; xor edx, edx; nop; or rdx, rax
        "0f01d0 89c0 48c1e220 4809c2 48f7d0 4989d0": "0f01d0 83e007 31d2 90 4809c2 48f7d0 4989d0",
        # The rest of ONNX Runtime, the same: and r9d, 0xe6; ...; cmp r9d, 0xe6 becomes: and r9d, 0x06; ...
        "4181e1e6000000 4531d2 31c9 4181f9e6000000": "4181e106000000 4531d2 31c9 4181f9e6000000",
    },
    # MLAS, whether there is VNNI: and edi, 0x800; movq becomes: and edi, 0; movq
    "avx512": {"81e700080000 f30f7e05": "81e700000000 f30f7e05"},
}
"""Machine code, and what is put in its place."""


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--as", "instructions", type=click.Choice(list(PLACES)), required=True, help="What is left.")
def main(folder: Path, instructions: str) -> None:
    """Write the copy to FOLDER/onnxruntime."""
    (installed,) = onnxruntime.__path__
    shutil.copytree(installed, folder / "onnxruntime")
    (library,) = (folder / "onnxruntime" / "capi").glob("onnxruntime_pybind11_state*.so")
    code = library.read_bytes()
    for found, put in PLACES[instructions].items():
        if code.count(bytes.fromhex(found)) != 1:
            raise click.ClickException(f"{library} of ONNX Runtime {onnxruntime.__version__} is not as expected")
        code = code.replace(bytes.fromhex(found), bytes.fromhex(put))
    library.write_bytes(code)


if __name__ == "__main__":
    main()
