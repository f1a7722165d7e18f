"""The files of a bundle.

In: a checkpoint, its head and recipe. Out: the tokenizer, a graph with its external data, and their `File` entries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rfprm_export.checkpoint.head import Tensors
from rfprm_export.checkpoint.tensors import BLOCK_BYTES, Checkpoint, read_json
from rfprm_export.families.recipes import ExportRecipe
from rfprm_export.graph import network
from rfprm_export.graph.arithmetic import FLOAT
from rfprm_export.graph.int4 import quantise_blocks
from rfprm_export.graph.int8 import quantise_rows
from rfprm_export.oracle.rotary import rotary_tables
from rfprm_export.quantize.passes import AS_IT_IS, Passes, Transform
from rfprm_export.quantize.round import Round, nearest
from rfprm_export.variants import VariantRecipe
from rfprm_export.write.weights import WeightFile
from rfprm_lite.bundle.manifest import File, Variant
from rfprm_lite.bundle.open import Bundle, sha256


class CheckpointWeights:
    """A checkpoint's tensors and its head's, streamed into a data file as the graph asks for them. rounding: how to
    round a weight that is quantised to be multiplied with, by its name."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        head: Tensors,
        file: WeightFile,
        transform: Transform,
        rounding: Callable[[str], Round],
    ) -> None:
        self._checkpoint, self._head, self._file = checkpoint, head, file
        self._transform, self._rounding = transform, rounding

    def stacked(self, name: str, sources: Sequence[str], dtype: ir.DataType = FLOAT) -> ir.Value:
        """The sources one above the other, along their first axis."""
        blocks = (block for source in sources for block in self._blocks(source))
        return self._file.add(name, self._stack(sources), blocks, dtype)

    def quantised(self, name: str, sources: Sequence[str]) -> tuple[ir.Value, ir.Value]:
        """The transpose of the sources stacked, in s8, and the scale of each of its columns."""
        rows, columns = self._stack(sources)
        whole, scales, at = np.empty((columns, rows), np.int8), np.empty(rows, np.float32), 0
        for source in sources:
            for block in self._blocks(source):
                own = slice(at, at + len(block))
                values, scales[own] = quantise_rows(block, self._rounding(source))
                whole[:, own] = values.T
                at += len(block)
        weight = self._file.add(f"{name}.weight_s8", whole.shape, [whole], ir.DataType.INT8)
        return weight, self._file.add(f"{name}.scale", scales.shape, [scales])

    def table(self, name: str) -> tuple[ir.Value, ir.Value]:
        """A tensor in s8, and the scale of each of its rows."""
        parts: list[NDArray[np.float32]] = []

        def quantised_blocks() -> Iterator[NDArray[np.int8]]:
            for block in self._blocks(name):
                values, scales = quantise_rows(block)
                parts.append(scales)
                yield values

        shape = self._shape(name)
        weight = self._file.add(f"{name}.weight_s8", shape, quantised_blocks(), ir.DataType.INT8)
        return weight, self._file.add(f"{name}.scale", shape[:1], parts)

    def blockwise(self, name: str, sources: Sequence[str]) -> tuple[tuple[int, int], ir.Value, ir.Value]:
        """The sources stacked, in 4 bits; and the scale of each block."""
        rows, columns = self._stack(sources)
        parts = [
            quantise_blocks(part, self._rounding(source))
            for source in sources
            for block in self._blocks(source)
            for part in np.array_split(block, _parts(block))
        ]
        values, scales = (np.concatenate(part) for part in zip(*parts, strict=True))
        weight = self._file.add(f"{name}.weight_u4", values.shape, [values], ir.DataType.UINT8)
        return (rows, columns), weight, self._file.add(f"{name}.scale", scales.shape, [scales])

    def constant(self, name: str, value: NDArray[np.float32], dtype: ir.DataType = FLOAT) -> ir.Value:
        return self._file.add(name, value.shape, [value], dtype)

    def _stack(self, sources: Sequence[str]) -> tuple[int, ...]:
        shapes = [self._shape(source) for source in sources]
        return (sum(s[0] for s in shapes), *shapes[0][1:])

    def _shape(self, name: str) -> tuple[int, ...]:
        return self._head[name].shape if name in self._head else self._checkpoint.shape(name)

    def _blocks(self, name: str) -> Iterable[NDArray[np.float32]]:
        return self._transform.blocks(name, self._read)

    def _read(self, name: str) -> Iterable[NDArray[np.float32]]:
        return iter([self._head[name]]) if name in self._head else self._checkpoint.blocks(name)


def _parts(block: NDArray[np.float32]) -> int:
    """A tensor in a new basis may come as one block; what seeks the scales of 4 bits holds several copies."""
    return max(1, block.nbytes // BLOCK_BYTES)


def to_nearest(_weight: str) -> Round:
    """The rounding of every weight, where nothing is known of what it is multiplied with."""
    return nearest


def write_variant(
    folder: Path,
    variant: VariantRecipe,
    checkpoint: Checkpoint,
    spec: ExportRecipe,
    head: Tensors,
    passes: Passes = AS_IT_IS,
    rounding: Callable[[str], Round] = to_nearest,
    written: Callable[[int, int], None] = lambda _tensors, _bytes: None,
) -> tuple[File, ...]:
    """model.onnx and model.onnx.data in a folder of the variant's name below `folder`. rounding: of a quantised weight,
    by its name. written: told tensors and bytes."""
    (folder / variant.name).mkdir()
    path = folder / variant.name / "model.onnx"
    data = path.with_name("model.onnx.data")
    with WeightFile(data, written) as file:
        weights = CheckpointWeights(checkpoint, head, file, passes.transform, rounding)
        model = network.build(
            checkpoint.architecture,
            spec.recipe.head,
            spec.head.names,
            weights,
            variant.arithmetic,
            variant.lanes,
            rotary_tables(checkpoint.architecture),
            passes.wide,
        )
    ir.save(model, path)
    return entry(folder, path), entry(folder, data)


def shift_logit(bundle: Bundle, spec: ExportRecipe, shift: float) -> Variant:
    """Add to the bias behind the logit of the reward, in the data file, in place. Returns the variant with the
    new checksums of its files."""
    name = f"head.{len(spec.head.names) - 1}.bias"
    bias = ir.load(bundle.graph).graph.initializers[name].const_value
    if not isinstance(bias, ir.ExternalTensor):
        raise TypeError(f"{name} is not in the data file")
    data = bundle.graph.with_name(str(bias.location))
    with data.open("r+b") as file:
        file.seek(bias.offset or 0)
        values = np.frombuffer(file.read(bias.nbytes), np.float32).copy()
        values[spec.recipe.head.positive] += np.float32(shift)
        file.seek(bias.offset or 0)
        file.write(values.data)
    files = tuple(entry(bundle.folder, bundle.folder / file.path) for file in bundle.variant.files)
    return msgspec.structs.replace(bundle.variant, files=files)


def write_tokenizer(folder: Path, checkpoint: Path) -> File:
    """The checkpoint's tokenizer.json, in which every added token is marked as special.

    The runtime encodes text with special tokens switched off. Qwen2.5 adds some (`<tool_call>`, `<|fim_prefix|>`) that
    it does not call special, and a checkpoint may do so with its separator: text could forge them.
    """
    tokenizer = read_json(checkpoint / "tokenizer.json")
    for added in tokenizer.get("added_tokens", []):
        added["special"] = True
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")
    return entry(folder, path)


def entry(folder: Path, path: Path) -> File:
    """The manifest's entry of a file in `folder`."""
    return File(path.relative_to(folder).as_posix(), sha256(path), path.stat().st_size)
