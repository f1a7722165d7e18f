"""Turning the network's inner bases, so that no channel stands out (QuaRot, arXiv 2404.00456).

In: an architecture and the statistics of its activations. Out: a `Rotation`, which turns tensors on their way into a
variant so that the network computes what it did, on activations and weights that an 8-bit scale a row describes well:

- the residual stream by a random orthogonal matrix; the weights of norms move into what reads them,
- values by a Hadamard matrix within each head, undone by o_proj,
- what down_proj reads by small Hadamard matrices, which the graph applies itself (`MIXED`). Channels are dealt out to
  these by their mean squares first, so that each gets its share of the large ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_export.calibration import Statistics, Vector
from rfprm_export.checkpoint import Architecture

Matrix = NDArray[np.float32]
Block = NDArray[np.float32]
Read = Callable[[str], Iterable[Block]]
"""A tensor's name -> its blocks of rows."""

MIXED = 32
"""Channels of down_proj's input that are mixed with each other, at most."""

READS_ATTENTION_NORM = ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight")
READS_MLP_NORM = ("mlp.gate_proj.weight", "mlp.up_proj.weight")
EMBEDDING, FINAL_NORM = "model.embed_tokens.weight", "model.norm.weight"


@dataclass(frozen=True, slots=True)
class Rotation:
    """residual: [hidden_size, hidden_size]; values: [head_size, head_size]; mixing: [size, size], all orthogonal.

    order: for each layer, the channels of the MLP in their new order. head: the tensor that reads the final norm.
    """

    residual: Matrix
    values: Matrix
    mixing: Matrix
    order: Sequence[NDArray[np.int64]]
    head: str

    def blocks(self, name: str, read: Read) -> Iterable[Block]:
        """The blocks of rows of a tensor, turned. read: gives any tensor as it is."""
        if name == EMBEDDING:
            return (block @ self.residual for block in read(name))
        if name == FINAL_NORM or name.endswith("layernorm.weight"):
            return (np.ones_like(block) for block in read(name))
        if name == self.head:
            return self._reading(name, FINAL_NORM, read)
        if not name.startswith("model.layers."):
            return read(name)
        layer, part = int(name.split(".")[2]), name.split(".", 3)[3]
        prefix = f"model.layers.{layer}"
        if part in READS_MLP_NORM:
            turned = self._reading(name, f"{prefix}.post_attention_layernorm.weight", read)
            return iter([np.concatenate(list(turned))[self.order[layer]]])
        if part in READS_ATTENTION_NORM:
            turned = self._reading(name, f"{prefix}.input_layernorm.weight", read)
            return self._values(turned) if part == "self_attn.v_proj.weight" else turned
        if part == "self_attn.v_proj.bias":
            return self._values(read(name))
        if part == "self_attn.o_proj.weight":
            return self._writing(_times(block, self.values) for block in read(name))
        if part == "mlp.down_proj.weight":
            return self._writing(_times(block[:, self.order[layer]], self.mixing) for block in read(name))
        return read(name)

    def reads(self, weight: str, x: Block) -> Block:
        """What a product with this weight of a layer reads, turned as the weight's columns are.

        x: [tokens, columns]; behind a norm, its rows with a mean square of 1, not yet multiplied by its weight.
        """
        layer, part = int(weight.split(".")[2]), weight.split(".", 3)[3]
        if part == "self_attn.o_proj.weight":
            return _times(x, self.values)
        if part == "mlp.down_proj.weight":
            return _times(x[:, self.order[layer]], self.mixing)
        return x @ self.residual

    def _reading(self, name: str, norm: str, read: Read) -> Iterator[Block]:
        """Of a weight that reads the residual stream through a norm."""
        weight = np.concatenate(list(read(norm)))
        return ((block * weight) @ self.residual for block in read(name))

    def _values(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Of a weight or bias whose rows are values: each head's rows are mixed."""
        whole = np.concatenate(list(blocks))
        heads = whole.reshape(-1, len(self.values), *whole.shape[1:])
        yield np.einsum("ij,hi...->hj...", self.values, heads, optimize=True).reshape(whole.shape)

    def _writing(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """Of a weight whose rows are added to the residual stream: all of them are mixed."""
        whole, at = None, 0
        for block in blocks:
            part = self.residual[at : at + len(block)].T @ block
            whole = part if whole is None else np.add(whole, part, out=whole)
            at += len(block)
        if whole is not None:
            yield whole


def rotation(architecture: Architecture, statistics: Statistics, head: str) -> Rotation:
    """statistics: of the network as it is; without any, channels stay in their order."""
    size = mixed_channels(architecture.intermediate_size)
    order = [dealt(layer.inner_mean_square, size) for layer in statistics]
    return Rotation(
        random_orthogonal(architecture.hidden_size), hadamard(architecture.head_size), hadamard(size), order, head
    )


def mixed_channels(features: int) -> int:
    """The largest power of two, MIXED at most, by which the features can be divided."""
    return min(features & -features, MIXED)


def dealt(mean_square: Vector, size: int) -> NDArray[np.int64]:
    """Channels dealt out to groups of `size`, the largest first, one to each group in turn. Groups are neighbours."""
    largest_first = np.argsort(-mean_square, kind="stable")
    return largest_first.reshape(size, -1).T.reshape(-1)


def hadamard(size: int) -> Matrix:
    """Sylvester's, orthogonal and symmetric; for a size that is no power of two, the largest that divides it, along the
    diagonal."""
    matrix = np.ones((1, 1))
    while len(matrix) < (size & -size):
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    scaled = matrix / np.sqrt(len(matrix))
    return np.kron(np.eye(size // len(matrix)), scaled).astype(np.float32)


def random_orthogonal(size: int) -> Matrix:
    """The same one for a size each time."""
    q, r = np.linalg.qr(np.random.default_rng(size).standard_normal((size, size)))
    turned: Matrix = (q * np.sign(np.diag(r))).astype(np.float32)
    return turned


def _times(block: Block, matrix: Matrix) -> Block:
    """Each run of columns as long as the matrix, times it."""
    product: Block = (block.reshape(len(block), -1, len(matrix)) @ matrix).reshape(block.shape)
    return product
