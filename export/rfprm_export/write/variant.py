"""The files of a bundle.

In: a checkpoint, its head and recipe. Out: the tokenizer, a graph with its external data, and their `File` entries.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from rfprm_export.checkpoint.head import Tensors, head_names
from rfprm_export.checkpoint.tensors import BLOCK_BYTES, Checkpoint, load_json
from rfprm_export.families.family import ExportRecipe
from rfprm_export.graph.weights import WeightSpec
from rfprm_export.quantize.bases import TensorBlocks
from rfprm_export.quantize.integers import (
    BLOCK,
    LARGEST_PAIR,
    PAIRED,
    largest_pairs,
    quantise_blocks,
    quantise_rows,
)
from rfprm_export.quantize.mixing import Block
from rfprm_export.quantize.round import Round, round_to_nearest
from rfprm_export.variants import VariantSpec
from rfprm_export.write.weights import WeightFile, Written
from rfprm_lite.bundle.manifest import File, Variant
from rfprm_lite.bundle.open import Bundle, sha256
from rfprm_lite.bundle.recipe import Recipe

Rounding = Callable[[str], Round]
"""A weight's name in the checkpoint -> how to round it."""


def nearest(_weight: str) -> Round:
    """Round any weight to the nearest, where nothing is known of its inputs."""
    return round_to_nearest


class VariantWriter:
    """A context manager that fills the data file of a variant, in any order, then writes its graph."""

    def __init__(
        self,
        folder: Path,
        variant: VariantSpec,
        checkpoint: Checkpoint,
        spec: ExportRecipe,
        head: Tensors,
        wide: Collection[int] = (),
        written: Written = lambda _tensors, _bytes: None,
    ) -> None:
        """Make the variant's folder below the bundle's.

        Args:
            folder: The bundle's.
            variant: Which.
            checkpoint: Whose architecture it has.
            spec: The recipe.
            head: The head's tensors, float32 by name.
            wide: Layers whose MLP is float32.
            written: Told of progress.
        """
        (folder / variant.name).mkdir()
        shapes = {name: tensor.shape for name, tensor in head.items()}
        self.variant, self._folder, self._path = variant, folder, folder / variant.name / "model.onnx"
        self._with = partial(variant.graph, checkpoint.architecture, spec, shapes)
        self._graph = self._with(wide)
        self._data = self._path.with_name("model.onnx.data")
        tensors = [tensor for weight in self._graph.weights for tensor in weight.tensors]
        self._file = WeightFile(self._data, tensors, written)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.__exit__(kind, error, tb)

    def fill_layer(self, index: int | None, load: TensorBlocks, rounding: Rounding = nearest) -> None:
        """Fill the weights of a layer.

        Args:
            index: Which layer; None for all that lies outside the layers.
            load: Gives the tensors, in the variant's bases.
            rounding: How to round what is quantised to be multiplied with.
        """
        for weight in self._graph.weights:
            if weight.layer == index:
                for tensor, blocks in zip(weight.tensors, _fillings(weight, load, rounding), strict=True):
                    self._file.write(tensor.name, blocks)

    def finish(self, wide: Collection[int] = ()) -> tuple[File, ...]:
        """Write the graph.

        Args:
            wide: Layers whose MLP turned out to need the wider type, where that changes no tensor of the data file.

        Returns:
            Its file and the data file.

        Raises:
            ValueError: It does change them.
        """
        self._file.__exit__(None, None, None)
        if wide:
            self._graph, narrow = self._with(wide), self._graph
            if [w.tensors for w in self._graph.weights] != [w.tensors for w in narrow.weights]:
                raise ValueError(f"{self.variant.name}: wider layers have other tensors")
        self._file.attach(self._graph.model)
        ir.save(self._graph.model, self._path)
        return entry(self._folder, self._path), entry(self._folder, self._data)


def write_variant(
    folder: Path,
    variant: VariantSpec,
    checkpoint: Checkpoint,
    spec: ExportRecipe,
    head: Tensors,
    change: Callable[[str, TensorBlocks], Iterable[Block]] = lambda name, load: load(name),
    wide: Collection[int] = (),
    written: Written = lambda _tensors, _bytes: None,
) -> tuple[File, ...]:
    """Write a variant straight from a checkpoint, rounded to the nearest.

    Args:
        folder: The bundle's.
        variant: Which.
        checkpoint: The source.
        spec: The recipe.
        head: The head's tensors, float32 by name.
        change: Changes a tensor by its name, as `Bases.blocks` does.
        wide: Layers whose MLP is float32.
        written: Told of progress.
    """
    load = checkpoint_blocks(checkpoint, head)
    with VariantWriter(folder, variant, checkpoint, spec, head, wide, written) as writer:
        for index in (None, *range(checkpoint.architecture.num_layers)):
            writer.fill_layer(index, lambda name: change(name, load))
        return writer.finish()


def checkpoint_blocks(checkpoint: Checkpoint, head: Tensors) -> TensorBlocks:
    """Give tensors of a checkpoint and its head, by name."""
    return lambda name: iter([head[name]]) if name in head else checkpoint.blocks(name)


def _fillings(weight: WeightSpec, load: TensorBlocks, rounding: Rounding) -> Iterator[Iterable[NDArray[np.generic]]]:
    """The blocks of each of the weight's tensors."""
    # A tensor in a new basis may come as one block, and what rounds a block holds several copies.
    sources = (
        (source, part)
        for source in weight.sources
        for block in load(source)
        for part in np.array_split(block, max(1, block.nbytes // BLOCK_BYTES))
    )
    scales: list[NDArray[np.float32]] = []
    if weight.constant is not None:
        yield [weight.constant]
    elif weight.kind == "stacked":
        yield (block for _, block in sources)
    elif weight.kind == "table":

        def values() -> Iterator[NDArray[np.int8]]:
            for _, block in sources:
                quantised, row_scales = quantise_rows(block)
                scales.append(row_scales)
                yield quantised

        yield values()
        yield scales
    elif weight.kind == "quantised":
        whole, row = np.empty(weight.tensors[0].shape, np.int8), 0
        for source, block in sources:
            quantised, row_scales = quantise_rows(block, rounding(source), PAIRED)
            if (largest_pairs(quantised.astype(np.int16)) > LARGEST_PAIR).any():
                raise ValueError(f"{source} was rounded to pairs whose products overflow 16 bits")
            whole[:, row : row + len(block)] = quantised.T
            scales.append(row_scales)
            row += len(block)
        yield [whole]
        yield scales
    else:
        packed: list[NDArray[np.uint8]] = []
        bits = weight.tensors[0].shape[-1] * 8 // BLOCK
        for source, block in sources:
            values_of_block, block_scales = quantise_blocks(
                block, bits, rounding(source), weight.tensors[1].dtype.numpy()
            )
            packed.append(values_of_block)
            scales.append(block_scales)
        yield packed
        yield scales


def shift_logit(bundle: Bundle, spec: ExportRecipe, shift: float) -> Variant:
    """Add to the bias behind the logit of the reward, in the data file, in place.

    Args:
        bundle: A variant that was written.
        spec: The recipe.
        shift: What to add.

    Returns:
        The variant, with the new checksums of its files.
    """
    head = spec.recipe.head
    name = head_names(head)[-1][1]
    bias = ir.load(bundle.graph).graph.initializers[name].const_value
    if not isinstance(bias, ir.ExternalTensor):
        raise TypeError(f"{name} is not in the data file")
    data = bundle.graph.with_name(str(bias.location))
    with data.open("r+b") as file:
        file.seek(bias.offset or 0)
        values = np.frombuffer(file.read(bias.nbytes), np.float32).copy()
        values[int(np.argmax(head.weights))] += np.float32(shift)
        file.seek(bias.offset or 0)
        file.write(values.data)
    files = tuple(entry(bundle.folder, bundle.folder / file.path) for file in bundle.variant.files)
    return msgspec.structs.replace(bundle.variant, files=files)


def write_tokenizer(folder: Path, checkpoint: Path, recipe: Recipe) -> File:
    """Write the checkpoint's tokenizer.json, in which every added token is special but those that text may hold.

    The runtime encodes text with special tokens switched off. Qwen2.5 adds some (`<tool_call>`) that it does not call
    special, which the authors' code reads as tokens; but a checkpoint may do so with its separator, too, and text could
    forge that. What would be put around a text (a post-processor) is left out: the template puts it there.

    Args:
        folder: The bundle's.
        checkpoint: The checkpoint's folder.
        recipe: Which tokens text may hold.
    """
    path = folder / "tokenizer.json"
    path.write_text(bundle_tokenizer(checkpoint, recipe), encoding="utf-8")
    return entry(folder, path)


def bundle_tokenizer(checkpoint: Path, recipe: Recipe) -> str:
    """Return the tokenizer.json of a bundle; see `write_tokenizer`."""
    tokenizer = load_json(checkpoint / "tokenizer.json")
    for added in tokenizer.get("added_tokens", []):
        added["special"] = added["content"] not in recipe.text_tokens
    return json.dumps(tokenizer | {"post_processor": None}, ensure_ascii=False)


def entry(folder: Path, path: Path) -> File:
    """Make the manifest's entry of a file in `folder`."""
    return File(path.relative_to(folder).as_posix(), sha256(path), path.stat().st_size)
