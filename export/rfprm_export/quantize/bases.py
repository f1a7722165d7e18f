"""Changing the network's inner bases, so that 8-bit scales describe well what is multiplied.

In: the statistics of a network's activations. Out: `Bases`, which change tensors on their way into a variant so that
the network computes what it did. The input of each product is

- balanced with its weights (rfprm_export.quantize.balance): a scale a channel, which goes into the norm before it or
  into up_proj; for values a matrix a head, which goes into v_proj and o_proj,
- then mixed by Hadamard matrices, so that no channel stands out (QuaRot, arXiv 2404.00456): that of values is part of
  the matrix, others the graph applies itself to `MIXED` neighbouring channels at a time. Channels are dealt out to
  these groups by their size first, so that each gets its share of the large ones.

With P the order of the residual stream's channels, M the mixing, n the weight of a norm and s the scales that replace
it, a normed row x and a weight W behind it become

    x' = (x * s)[:, P] M,    W' = (W * n / s)[:, P] M,    so that x' W'^T = (x * n) W^T, since M M^T = 1.

The residual stream is not rotated: a rotation would spread what its few largest channels hold over all others before
the norm's weights, which are small there, could make up for it (bench/log/2026-11-26-balanced-bases.md).

Queries and keys come out of their products as they did, so that norms, biases and rotations between those and the
scores of attention stay what they are. A norm of what a product adds to the residual stream is a scale a channel behind
that product: like the stream's own channels it is put in order, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_export.families.backbones import ATTENTION_POST_NORM, MLP_POST_NORM
from rfprm_export.oracle.calibration import ATTENDED, INNER, NORMS, Input, LayerRanges, LayerStatistics
from rfprm_export.quantize.balance import Matrix, Vector, balancing_basis, balancing_scales
from rfprm_export.quantize.mixing import MIXED, Block, hadamard, hadamard_mix, mixed_channels

Order = NDArray[np.int64]
TensorBlocks = Callable[[str], Iterable[Block]]
"""A tensor's name -> its blocks of rows, float32."""

BEHIND = {f"{module}.weight": f"{norm}.weight" for norm, modules in NORMS.items() for module in modules}
"""A layer's weights that multiply the residual stream, and the norm that it passes first."""
ATTENTION_NORM, MLP_NORM = (f"{norm}.weight" for norm in NORMS)
EMBEDDING, FINAL_NORM = "model.embed_tokens.weight", "model.norm.weight"
VALUES, UP = "self_attn.v_proj", "mlp.up_proj"
"""The products whose outputs are in other bases than the checkpoint's."""
POST_NORMS = tuple(f"{norm}.weight" for norm in (ATTENTION_POST_NORM, MLP_POST_NORM))
"""A layer's norms of what is added to the residual stream."""
MOST_COLUMNS = 5_120
"""Of a group of columns that keep together: channels change places, and make up for each other's rounding errors,
within groups. Second moments of a group and their factor are squares of that."""
MADE_BY = (
    f"inputs of products balanced with their weights and mixed, values by heads, others by {MIXED} at most",
    "weights rounded with error feedback (GPTQ)",
)
"""What the manifest says of a variant in these bases."""


@dataclass(frozen=True, slots=True)
class LayerBases:
    """The bases of a layer.

    Attributes:
        norms: What is put in place of each norm's weight, float32 [hidden_size].
        inner: What each channel of the MLP is multiplied with, float32 [intermediate_size].
        inner_order: The MLP's channels in their new order, int64 [intermediate_size].
        values: Matrix A of each KV head: values are multiplied by A from the right, so rows of v_proj by A^T from the
            left. float32 [num_kv_heads, head_size, head_size].
        values_inverse: A^-1 of each: columns of o_proj are multiplied by A^-T from the right.
    """

    norms: dict[str, Vector]
    inner: Vector
    inner_order: Order
    values: Matrix
    values_inverse: Matrix


@dataclass(frozen=True, slots=True)
class Bases:
    """Changes tensors so that the network computes what it did.

    Attributes:
        order: The residual stream's channels in their new order, int64 [hidden_size].
        layers: The bases of each layer whose tensors are asked for.
        head: Name of the tensor that multiplies the final norm's output.
    """

    order: Order
    layers: Mapping[int, LayerBases]
    head: str

    def blocks(self, name: str, load: TensorBlocks) -> Iterable[Block]:
        """Change a tensor.

        Args:
            name: The tensor's, in the checkpoint.
            load: Gives any tensor as the checkpoint has it.

        Returns:
            Blocks of rows of the changed tensor, float32.
        """
        if name == EMBEDDING:  # rows of the residual stream: x' = x[:, P] M, which the graph mixes back by M
            return (hadamard_mix(block[:, self.order]) for block in load(name))
        if name == FINAL_NORM:  # n' = n[P]
            return iter([np.concatenate(list(load(name)))[self.order]])
        if name == self.head:  # W' = W[:, P]
            return (block[:, self.order] for block in load(name))
        if not name.startswith("model.layers."):
            return load(name)
        index, part = int(name.split(".")[2]), name.split(".", 3)[3]
        return self._layer_blocks(self.layers[index], f"model.layers.{index}", part, load)

    def _layer_blocks(self, layer: LayerBases, prefix: str, part: str, load: TensorBlocks) -> Iterable[Block]:
        name = f"{prefix}.{part}"
        if part in layer.norms:  # n' = s[P]
            return iter([layer.norms[part][self.order]])
        if part in BEHIND:  # W' = (W * n / s)[:, P] M
            changed = self._behind_norm(layer, prefix, part, load)
            if part == "self_attn.v_proj.weight":  # and A^T W' of each head
                return _change_values(layer, changed)
            if part == "mlp.up_proj.weight":  # and (c * W')[Q], c the scales and Q the order of the MLP's channels
                return _ordered_rows(_scaled_rows(changed, layer.inner), layer.inner_order)
            # and W'[Q] for gate_proj: its output is not scaled, since SiLU is not linear
            return _ordered_rows(changed, layer.inner_order) if part == "mlp.gate_proj.weight" else changed
        if part == "self_attn.v_proj.bias":  # b' = b A of each head
            return _change_values(layer, load(name))
        if part == "self_attn.o_proj.weight":  # W' = (W A^-T)[P] of each head
            transposed = layer.values_inverse.transpose(0, 2, 1)
            return _ordered_rows((_by_head(block, transposed) for block in load(name)), self.order)
        if part == "mlp.down_proj.weight":  # W' = ((W / c)[:, Q] M)[P]
            columns = (hadamard_mix((block / layer.inner)[:, layer.inner_order]) for block in load(name))
            return _ordered_rows(columns, self.order)
        if part in POST_NORMS:  # n' = n[P]
            return iter([np.concatenate(list(load(name)))[self.order]])
        return load(name)  # biases of q_proj and k_proj, norms within heads

    def changed_inputs(self, index: int, module: str, x: Block, group: slice = slice(None)) -> Block:
        """Change the inputs of products as the columns of their weights are changed.

        Args:
            index: The layer.
            module: Whose input, a key of `rfprm_export.oracle.calibration.READERS`.
            x: float32 [rows, columns]. Behind a norm: rows of mean square 1, not yet multiplied by its weight.
            group: Which columns of down_proj's input `x` has, one of `column_groups`; all unless given.

        Returns:
            x', float32 [rows, columns].
        """
        layer = self.layers[index]
        if module == ATTENDED:  # x A of each head
            return _by_head(x, layer.values)
        if module == INNER:  # (x * c)[:, Q] M
            ordered = (x * layer.inner[group])[:, layer.inner_order[group] - (group.start or 0)]
            return hadamard_mix(ordered, mixed_channels(len(layer.inner)))
        return hadamard_mix((x * layer.norms[f"{module}.weight"])[:, self.order])  # (x * s)[:, P] M

    def changed_ranges(self, index: int, ranges: LayerRanges) -> LayerRanges:
        """Change the largest magnitudes of a layer's channels as their values are changed.

        What is mixed of several channels is taken as if all were largest at one token, so it may be less. What stands
        behind a norm is left out: it is at most the root of hidden_size times a scale.

        Args:
            index: The layer.
            ranges: Of the checkpoint's own channels.
        """
        layer = self.layers[index]
        heads = ranges.outputs[VALUES].reshape(len(layer.values), 1, -1)
        values = (heads @ np.abs(layer.values)).reshape(-1)
        inner = (ranges.inner * layer.inner)[layer.inner_order]
        mixed = np.abs(hadamard(mixed_channels(len(inner))))
        groups = (inner.reshape(-1, len(mixed)) @ mixed).reshape(-1)
        outputs = ranges.outputs | {VALUES: values, UP: ranges.outputs[UP] * layer.inner}
        return LayerRanges(np.maximum(inner, groups), outputs)

    def _behind_norm(self, layer: LayerBases, prefix: str, part: str, load: TensorBlocks) -> Iterator[Block]:
        norm = BEHIND[part]
        weight: Vector = np.concatenate(list(load(f"{prefix}.{norm}")))
        scales: Vector = (weight / layer.norms[norm]).astype(np.float32)
        return (hadamard_mix((block * scales)[:, self.order]) for block in load(f"{prefix}.{part}"))


def residual_order(inputs: Sequence[Input]) -> Order:
    """Order the residual stream's channels, so that each group that is mixed gets its share of the large ones.

    Args:
        inputs: Of the products behind both norms of every layer.

    Returns:
        int64 [hidden_size].
    """
    balanced = [x.activations * balancing_scales(x.activations, x.weights) ** 2 for x in inputs]
    sizes = np.sum([size / size.sum() for size in balanced], axis=0)
    return round_robin_order(sizes, mixed_channels(len(sizes)))


def layer_bases(layer: LayerStatistics) -> LayerBases:
    """Balance the inputs of a layer's products with their weights."""
    inner = balancing_scales(layer.inner.activations, layer.inner.weights)
    sizes = layer.inner.activations * inner**2
    orders = [
        group.start + round_robin_order(sizes[group], mixed_channels(len(inner))) for group in column_groups(len(inner))
    ]
    pairs = zip(layer.values.activations, layer.values.weights, strict=True)
    values = [balancing_basis(*pair) @ hadamard(len(pair[0])) for pair in pairs]
    return LayerBases(
        norms={
            ATTENTION_NORM: balancing_scales(layer.attention.activations, layer.attention.weights),
            MLP_NORM: balancing_scales(layer.mlp.activations, layer.mlp.weights),
        },
        inner=inner,
        inner_order=np.concatenate(orders),
        values=np.stack(values).astype(np.float32),
        values_inverse=np.stack([np.linalg.inv(matrix) for matrix in values]).astype(np.float32),
    )


def column_groups(features: int) -> list[slice]:
    """Split columns into the fewest groups of `MOST_COLUMNS` at most, at the borders of what is mixed."""
    unit = mixed_channels(features)
    parts = np.array_split(np.arange(features // unit), -(-features // MOST_COLUMNS))
    return [slice(int(part[0]) * unit, (int(part[-1]) + 1) * unit) for part in parts]


def round_robin_order(sizes: Vector, size_of_group: int) -> Order:
    """Deal channels out to groups of neighbours, the largest first, one to each group in turn.

    Args:
        sizes: float32 [channels].
        size_of_group: Channels of each group; divides their number.

    Returns:
        The channels in their new order, int64 [channels].
    """
    largest_first = np.argsort(-sizes, kind="stable")
    return largest_first.reshape(size_of_group, -1).T.reshape(-1)


def _by_head(block: Block, matrices: Matrix) -> Block:
    """Each row's heads times the matrix of the keys and values that they share."""
    shared = block.reshape(len(block), len(matrices), -1, matrices.shape[1])
    product: Block = np.einsum("rkhi,kij->rkhj", shared, matrices, optimize=True).reshape(block.shape)
    return product


def _change_values(layer: LayerBases, blocks: Iterable[Block]) -> Iterator[Block]:
    """A weight or bias whose rows are values, as one block."""
    whole = np.concatenate(list(blocks))
    heads = whole.reshape(*layer.values.shape[:2], *whole.shape[1:])
    yield np.einsum("kij,ki...->kj...", layer.values, heads, optimize=True).reshape(whole.shape)


def _scaled_rows(blocks: Iterable[Block], scales: Vector) -> Iterator[Block]:
    row = 0
    for block in blocks:
        yield block * scales[row : row + len(block), None]
        row += len(block)


def _ordered_rows(blocks: Iterable[Block], order: Order) -> Iterator[Block]:
    """The rows in their new order, as one block."""
    place = np.argsort(order)
    whole, row = np.empty(0, np.float32), 0
    for block in blocks:
        if not row:
            whole = np.empty((len(order), block.shape[1]), np.float32)
        whole[place[row : row + len(block)]] = block
        row += len(block)
    yield whole
