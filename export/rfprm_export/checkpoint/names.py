"""The names of tensors: from those in a checkpoint's files to ours, which are Llama's.

In: the shapes of all tensors, by their names in the files. Out: where each tensor of ours lies: a tensor of a file, or
some of its rows. What stands before the backbone's names differs (`model.`, nothing, or what a wrapper added) and is
read off the embedding table's name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rfprm_export.checkpoint.architecture import Architecture, Shape
from rfprm_export.errors import CheckpointError
from rfprm_export.families.backbones import EMBEDDING, LM_HEAD

BUFFER = ".rotary_emb.inv_freq"
"""How old checkpoints end the names of what no one needs to load."""
USUAL = "model."
PARTS = {f"self_attn.{part}_proj.weight": part for part in "qkv"}
"""Our names of what may be fused."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a tensor in a checkpoint's files.

    Attributes:
        name: The tensor's, in the files.
        shape: Of these rows together.
        runs: First row and the one behind the last, of each run of neighbouring rows.
    """

    name: str
    shape: Shape
    runs: tuple[tuple[int, int], ...]

    @classmethod
    def whole(cls, name: str, shape: Shape) -> Rows:
        """All rows of a tensor."""
        return cls(name, shape, ((0, shape[0]),) if shape else ())


def find_rows(shapes: Mapping[str, Shape], architecture: Architecture) -> dict[str, Rows]:
    """Find the rows of each tensor, by our names. A tensor of no backbone keeps its name.

    Args:
        shapes: Of all tensors, by their names in the files.
        architecture: Of the checkpoint.

    Raises:
        CheckpointError: Two tensors could be the embedding table.
    """
    prefix = _prefix(shapes, architecture)
    found: dict[str, Rows] = {}
    used: set[str] = set()
    for ours in (*architecture.backbone(), f"{LM_HEAD}.weight"):
        rows = _rows(shapes, architecture, prefix, ours)
        if rows is not None:
            found[ours] = rows
            used.add(rows.name)
    wrapper = prefix.removesuffix(USUAL)
    for name, shape in shapes.items():
        if name not in used and not name.endswith(BUFFER):
            # Not ours, even if it sounds so: the name would be another's.
            ours = name.removeprefix(wrapper)
            found[name if ours in found else ours] = Rows.whole(name, shape)
    return found


def _prefix(shapes: Mapping[str, Shape], architecture: Architecture) -> str:
    embedding = f"{architecture.kind.theirs(EMBEDDING)}.weight"
    prefixes = [name.removesuffix(embedding) for name in shapes if name == embedding or name.endswith(f".{embedding}")]
    if len(prefixes) > 1:
        raise CheckpointError(f"the checkpoint has several embedding tables: {', '.join(sorted(prefixes))}")
    return prefixes[0] if prefixes else USUAL


def _rows(shapes: Mapping[str, Shape], architecture: Architecture, prefix: str, ours: str) -> Rows | None:
    if not ours.startswith("model."):
        theirs = prefix.removesuffix(USUAL) + _theirs(architecture, ours)
    elif ours.startswith("model.layers."):
        _, _, layer, name = ours.split(".", 3)
        if architecture.kind.fused and name in PARTS:
            source = f"{prefix}layers.{layer}.{architecture.kind.fused}.weight"
            return _fused(source, shapes[source], architecture, PARTS[name]) if source in shapes else None
        theirs = f"{prefix}layers.{layer}.{_theirs(architecture, name)}"
    else:
        theirs = prefix + _theirs(architecture, ours.removeprefix("model."))
    return Rows.whole(theirs, shapes[theirs]) if theirs in shapes else None


def _theirs(architecture: Architecture, name: str) -> str:
    """Translate a module's name before the last dot."""
    module, _, tensor = name.rpartition(".")
    return f"{architecture.kind.theirs(module)}.{tensor}"


def _fused(name: str, shape: Shape, architecture: Architecture, part: str) -> Rows:
    """The rows of queries, keys or values, where each head of keys and values has all of its own together.

    Of any other shape the whole, whose shape will not be as expected.
    """
    size, groups = architecture.head_size, architecture.num_kv_heads
    queries = architecture.num_heads // groups
    if shape[0] != groups * (queries + 2) * size:
        return Rows.whole(name, shape)
    first, count = {"q": (0, queries), "k": (queries, 1), "v": (queries + 1, 1)}[part]
    starts = (size * ((queries + 2) * group + first) for group in range(groups))
    return Rows(name, (groups * count * size, *shape[1:]), tuple((start, start + count * size) for start in starts))


def blocks_of(runs: tuple[tuple[int, int], ...], most: int) -> Iterator[tuple[int, int]]:
    """Cut runs of rows into blocks of at most `most`."""
    for first, end in runs:
        for start in range(first, end, most):
            yield start, min(start + most, end)
