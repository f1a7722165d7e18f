"""Changing the network's inner bases, so that 8-bit scales describe well what is multiplied.

In: an architecture and the statistics of its activations. Out: `Bases`, which change tensors on their way into a
variant so that the network computes what it did. What each product reads is

- balanced with its weights (rfprm_export.quantize.balance): a scale a channel, which goes into the norm before it or
  into up_proj; for values a matrix a head, which goes into v_proj and o_proj,
- then mixed by Hadamard matrices, so that no channel stands out (QuaRot, arXiv 2404.00456): that of values is part of
  the matrix, others the graph applies itself to `MIXED` channels at a time. Channels are dealt out to these by their
  size first, so that each gets its share of the large ones.

The residual stream is not rotated: a rotation would spread what its few largest channels hold over all others before
the norm's weights, which are small there, could make up for it (bench/log/2026-11-26-balanced-bases.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_export.checkpoint.tensors import Architecture
from rfprm_export.oracle.calibration import NORMS, LayerStatistics, Statistics
from rfprm_export.quantize.balance import Matrix, Vector, balancing_basis, balancing_scales
from rfprm_export.quantize.mixing import Block, hadamard, mixed, mixed_channels

Order = NDArray[np.int64]
Read = Callable[[str], Iterable[Block]]
"""A tensor's name -> its blocks of rows."""

BEHIND = {f"{module}.weight": f"{norm}.weight" for norm, modules in NORMS.items() for module in modules}
"""A layer's weights that read the residual stream, and the norm through which each does."""
ATTENTION_NORM, MLP_NORM = "input_layernorm.weight", "post_attention_layernorm.weight"
EMBEDDING, FINAL_NORM = "model.embed_tokens.weight", "model.norm.weight"


@dataclass(frozen=True, slots=True)
class LayerBases:
    """norms: for each norm's weight what is put in its place, float32 [hidden_size]. inner: what each channel of the
    MLP is multiplied with, float32 [intermediate_size]; inner_order: their new order. values, values_inverse: float32
    [num_kv_heads, head_size, head_size], from the right of a row."""

    norms: dict[str, Vector]
    inner: Vector
    inner_order: Order
    values: Matrix
    values_inverse: Matrix


@dataclass(frozen=True, slots=True)
class Bases:
    """order: the new order of the residual stream's channels. head: the tensor that reads the final norm."""

    order: Order
    layers: Sequence[LayerBases]
    head: str

    def blocks(self, name: str, read: Read) -> Iterable[Block]:
        """The blocks of rows of a tensor, changed. read: gives any tensor as it is."""
        if name == EMBEDDING:
            return (mixed(block[:, self.order]) for block in read(name))
        if name == FINAL_NORM:
            return iter([np.concatenate(list(read(name)))[self.order]])
        if name == self.head:
            return (block[:, self.order] for block in read(name))
        if not name.startswith("model.layers."):
            return read(name)
        index, part = int(name.split(".")[2]), name.split(".", 3)[3]
        return self._of_layer(self.layers[index], f"model.layers.{index}", part, read)

    def _of_layer(self, layer: LayerBases, prefix: str, part: str, read: Read) -> Iterable[Block]:
        name = f"{prefix}.{part}"
        if part in layer.norms:
            return iter([layer.norms[part][self.order]])
        if part in BEHIND:
            behind = self._behind_norm(layer, prefix, part, read)
            if part == "self_attn.v_proj.weight":
                return _values(layer, behind)
            if part == "mlp.up_proj.weight":
                return _ordered_rows(_scaled_rows(behind, layer.inner), layer.inner_order)
            return _ordered_rows(behind, layer.inner_order) if part == "mlp.gate_proj.weight" else behind
        if part == "self_attn.v_proj.bias":
            return _values(layer, read(name))
        if part == "self_attn.o_proj.weight":
            transposed = layer.values_inverse.transpose(0, 2, 1)
            return _ordered_rows((_by_head(block, transposed) for block in read(name)), self.order)
        if part == "mlp.down_proj.weight":
            columns = (mixed((block / layer.inner)[:, layer.inner_order]) for block in read(name))
            return _ordered_rows(columns, self.order)
        return read(name)

    def reads(self, weight: str, x: Block) -> Block:
        """What a product with this weight of a layer reads, changed as the weight's columns are.

        x: [tokens, columns]; behind a norm, its rows with a mean square of 1, not yet multiplied by its weight.
        """
        layer, part = self.layers[int(weight.split(".")[2])], weight.split(".", 3)[3]
        if part == "self_attn.o_proj.weight":
            return _by_head(x, layer.values)
        if part == "mlp.down_proj.weight":
            return mixed((x * layer.inner)[:, layer.inner_order])
        return mixed((x * layer.norms[BEHIND[part]])[:, self.order])

    def _behind_norm(self, layer: LayerBases, prefix: str, part: str, read: Read) -> Iterator[Block]:
        """Of a weight that reads the residual stream through a norm."""
        norm = BEHIND[part]
        weight: Vector = np.concatenate(list(read(f"{prefix}.{norm}")))
        scales: Vector = (weight / layer.norms[norm]).astype(np.float32)
        return (mixed((block * scales)[:, self.order]) for block in read(f"{prefix}.{part}"))


def balanced_bases(architecture: Architecture, statistics: Statistics, head: str) -> Bases:
    """statistics: of the network as it is."""
    scales = [
        {
            ATTENTION_NORM: balancing_scales(layer.attention.read, layer.attention.weights),
            MLP_NORM: balancing_scales(layer.mlp.read, layer.mlp.weights),
        }
        for layer in statistics
    ]
    sizes = [
        size / size.sum()
        for layer, own in zip(statistics, scales, strict=True)
        for size in (layer.attention.read * own[ATTENTION_NORM] ** 2, layer.mlp.read * own[MLP_NORM] ** 2)
    ]
    order = dealt(np.sum(sizes, axis=0), mixed_channels(architecture.hidden_size))
    return Bases(order, [_layer_bases(*both) for both in zip(statistics, scales, strict=True)], head)


def _layer_bases(layer: LayerStatistics, norms: dict[str, Vector]) -> LayerBases:
    inner = balancing_scales(layer.inner.read, layer.inner.weights)
    size = mixed_channels(len(inner))
    pairs = zip(layer.values.read, layer.values.weights, strict=True)
    values = [balancing_basis(*pair) @ hadamard(len(pair[0])) for pair in pairs]
    return LayerBases(
        norms=norms,
        inner=inner,
        inner_order=dealt(layer.inner.read * inner**2, size),
        values=np.stack(values).astype(np.float32),
        values_inverse=np.stack([np.linalg.inv(matrix) for matrix in values]).astype(np.float32),
    )


def dealt(sizes: Vector, group: int) -> Order:
    """Channels dealt out to groups, the largest first, one to each group in turn. Groups are neighbours."""
    largest_first = np.argsort(-sizes, kind="stable")
    return largest_first.reshape(group, -1).T.reshape(-1)


def _by_head(block: Block, matrices: Matrix) -> Block:
    """Each row's heads times the matrix of the keys and values that they share."""
    shared = block.reshape(len(block), len(matrices), -1, matrices.shape[1])
    product: Block = np.einsum("rkhi,kij->rkhj", shared, matrices, optimize=True).reshape(block.shape)
    return product


def _values(layer: LayerBases, blocks: Iterable[Block]) -> Iterator[Block]:
    """Of a weight or bias whose rows are values."""
    whole = np.concatenate(list(blocks))
    heads = whole.reshape(*layer.values.shape[:2], *whole.shape[1:])
    yield np.einsum("kij,ki...->kj...", layer.values, heads, optimize=True).reshape(whole.shape)


def _scaled_rows(blocks: Iterable[Block], scales: Vector) -> Iterator[Block]:
    at = 0
    for block in blocks:
        yield block * scales[at : at + len(block), None]
        at += len(block)


def _ordered_rows(blocks: Iterable[Block], order: Order) -> Iterator[Block]:
    """The rows in their new order, as one block."""
    place = np.argsort(order)
    whole, at = np.empty(0, np.float32), 0
    for block in blocks:
        if not at:
            whole = np.empty((len(order), block.shape[1]), np.float32)
        whole[place[at : at + len(block)]] = block
        at += len(block)
    yield whole
