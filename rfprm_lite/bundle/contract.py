"""What the graph of a variant may be: checked before ONNX Runtime sees it.

In: a graph file, and what the manifest says of it. Out: nothing, or an error that names the file and what is wrong. A
graph has operators that rfprm-export writes, the inputs and tables that the manifest's dimensions make, and weights
that lie in the variant's own files, each byte at most once. So neither the load nor the weights take more than the
files have. What the graph computes is the author's.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath

from rfprm_lite.bundle.graph import ELEMENT_TYPES, MOST_BYTES, Graph, Input, Node, Tensor, parse
from rfprm_lite.bundle.manifest import Dimensions, Manifest, Variant
from rfprm_lite.errors import BundleFormatError

MICROSOFT = "com.microsoft"
PRODUCTS = frozenset(
    (("", "Gemm"), ("", "MatMul"), (MICROSOFT, "MatMulIntegerToFloat"), (MICROSOFT, "MatMulNBits")),
)
"""Operators that ONNX Runtime may pack their weights for: a copy a node."""
ATTENTION = frozenset(((MICROSOFT, "GroupQueryAttention"), (MICROSOFT, "PagedAttention")))
OPERATORS = (
    PRODUCTS
    | ATTENTION
    | {
        *(("", name) for name in ("Add", "Cast", "Clip", "Concat", "Div", "Expand", "Gather", "Greater", "Max", "Mul")),
        *(("", name) for name in ("Neg", "QuantizeLinear", "Range", "ReduceMax", "ReduceMin", "ReduceSum", "Relu")),
        *(("", name) for name in ("Reshape", "Shape", "Sigmoid", "SimplifiedLayerNormalization", "Softmax", "Split")),
        *(("", name) for name in ("Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where")),
        *(
            (MICROSOFT, name)
            for name in ("FastGelu", "QuickGelu", "RotaryEmbedding", "SkipSimplifiedLayerNormalization")
        ),
    }
)
"""Domain and name of every operator that rfprm-export writes."""
MOST_PACKED = 4
"""Products take so many times the bytes of all weights, at most; those of rfprm-export little more than once."""
EMBEDDINGS = ("model.embed_tokens.weight", "model.embed_tokens.weight.weight_s8")
ROTARY = ("rotary.cos", "rotary.sin")
_INT32, _INT64 = 6, 7


def check_graph(folder: Path, manifest: Manifest, variant: Variant) -> None:
    """Check the graph of a variant whose files are there.

    Args:
        folder: The bundle.
        manifest: What it says of itself.
        variant: Whose graph it is.

    Raises:
        BundleFormatError: If the graph is none that rfprm-export writes for such a manifest.
    """
    path = folder / variant.files[0].path
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise BundleFormatError(f"{path} has {size} bytes: a graph of rfprm-export has {MOST_BYTES} at most")
    check(parse(path.read_bytes(), str(path)), str(path), manifest, variant)


def check(graph: Graph, where: str, manifest: Manifest, variant: Variant) -> None:
    """Check what a graph file holds.

    Args:
        graph: What it holds.
        where: What errors call the file.
        manifest: What the bundle says of itself.
        variant: Whose graph it is.

    Raises:
        BundleFormatError: As `check_graph`.
    """
    for wrong in (*_nodes(graph), *_weights(graph, variant), *_inputs(graph, manifest, variant)):
        raise BundleFormatError(f"{where} is no graph of rfprm-export: {wrong}")
    for wrong in _tables(graph, manifest.dimensions):
        raise BundleFormatError(f"{where} is not the graph that the manifest describes: {wrong}")


def _nodes(graph: Graph) -> Iterator[str]:
    """What is wrong with the operators, in words."""
    for node in graph.nodes:
        if node.kind not in OPERATORS:
            yield f"the operator {'.'.join(filter(None, node.kind))!r:.80}, which is none of the {len(OPERATORS)}"
        if not _depends(node, graph):  # ONNX Runtime would compute it at the load, however much comes out
            yield f"{node.kind[1]} of constants alone, {', '.join(node.inputs) or 'of nothing'!r:.80}"


def _depends(node: Node, graph: Graph) -> bool:
    return any(name and name not in graph.tensors for name in node.inputs)


def _weights(graph: Graph, variant: Variant) -> Iterator[str]:
    """What is wrong with the places of the weights, in words."""
    parent = PurePosixPath(variant.files[0].path).parent
    sizes = {file.path: file.bytes for file in variant.files[1:]}
    held: dict[str, list[tuple[int, int, str]]] = {path: [] for path in sizes}
    for tensor in graph.tensors.values():
        if tensor.external is None:
            continue
        location, start, end = tensor.external
        path = str(parent / location)
        if path not in sizes:
            yield f"the data of {tensor.name!r} is in {location!r:.80}, which is no file of variant {variant.name!r}"
        elif end > sizes[path]:
            yield f"{tensor.name!r} ends at byte {end} of {path}, which has {sizes[path]}"
        else:
            held[path].append((start, end, tensor.name))
    for path, places in held.items():
        for (_, end, first), (start, _, second) in pairwise(sorted(places)):
            if start < end:
                yield f"{first!r} and {second!r} overlap in {path}"
    packed = sum(tensor.nbytes for tensor in _packed(graph))
    whole = sum(tensor.nbytes for tensor in graph.tensors.values())
    if packed > MOST_PACKED * whole:
        yield f"its products take {packed} bytes of weights, of which there are {whole}"


def _packed(graph: Graph) -> Iterator[Tensor]:
    for node in graph.nodes:
        if node.kind in PRODUCTS:
            yield from (graph.tensors[name] for name in node.inputs if name in graph.tensors)


def _inputs(graph: Graph, manifest: Manifest, variant: Variant) -> Iterator[str]:
    """What is wrong with the inputs, in words."""
    layers, lanes = manifest.dimensions.num_layers, 1 if variant.kv_layout == "paged" else variant.lanes
    if layers * lanes > len(graph.inputs):  # before there is a name for each
        yield f"it has {len(graph.inputs)} inputs, too few for {layers} layers and {lanes} lanes"
        return
    expected = _paged_inputs(manifest, variant) if variant.kv_layout == "paged" else _lane_inputs(manifest, variant)
    for name in sorted(graph.inputs.keys() | expected):
        found, wanted = graph.inputs.get(name), expected.get(name)
        if found != wanted:
            yield f"the input {name!r:.80} is {_words(found)}, the dimensions, lanes and kv_dtype say {_words(wanted)}"


def _words(value: Input | None) -> str:
    if value is None:
        return "not there"
    return f"of type {value.element} and shape {['any' if size is None else size for size in value.shape]}"


def _lane_inputs(manifest: Manifest, variant: Variant) -> dict[str, Input]:
    """The inputs of a graph for CPUs; see `rfprm_lite.engine.engine`."""
    sizes, element = manifest.dimensions, ELEMENT_TYPES[variant.kv_dtype]
    inner = Input(element, (1, sizes.num_kv_heads, None, sizes.head_size))
    last = Input(element, (None, sizes.num_kv_heads * sizes.head_size))
    rows, lanes = Input(_INT64, (None,)), Input(_INT64, (variant.lanes,))
    return {
        **dict.fromkeys(("input_ids", "positions", "read_rows"), rows),
        **dict.fromkeys(("lane_tokens", "lane_totals", "lane_reads"), lanes),
        **{
            f"past.{i}.{kind}.{lane}": inner if i < sizes.num_layers - 1 else last
            for i in range(sizes.num_layers)
            for kind in ("key", "value")
            for lane in range(variant.lanes)
        },
    }


def _paged_inputs(manifest: Manifest, variant: Variant) -> dict[str, Input]:
    """The inputs of a graph for GPUs; see `rfprm_lite.engine.paged`."""
    sizes, element = manifest.dimensions, ELEMENT_TYPES[variant.kv_dtype]
    pages = Input(element, (None, None, sizes.num_kv_heads, sizes.head_size))
    return {
        **dict.fromkeys(("input_ids", "read_rows"), Input(_INT64, (None,))),
        **dict.fromkeys(("token_starts", "pasts", "slots"), Input(_INT32, (None,))),
        "pages": Input(_INT32, (None, None)),
        "bounds": Input(_INT32, (3,)),
        **{f"past.{i}.{kind}": pages for i in range(sizes.num_layers) for kind in ("key", "value")},
    }


def _tables(graph: Graph, sizes: Dimensions) -> Iterator[str]:
    """What is wrong with heads, and with the tables that a token's id and place are looked up in, in words."""
    heads = {"num_heads": sizes.num_heads, "kv_num_heads": sizes.num_kv_heads}
    for node in graph.nodes:
        if node.kind in ATTENTION and any(node.counts.get(name) != count for name, count in heads.items()):
            yield f"{node.kind[1]} has {dict(node.counts)}, not {heads}"
    expected: dict[tuple[str, ...], tuple[int, int]] = {
        EMBEDDINGS: (sizes.vocab_size, sizes.hidden_size),
        **{(name,): (sizes.max_positions + 1, sizes.head_size // 2) for name in ROTARY},  # one for a spare token
    }
    for names, shape in expected.items():
        found = [graph.tensors[name].shape for name in names if name in graph.tensors]
        if found != [shape]:
            yield f"{names[0]} has shape {', '.join(map(str, map(list, found))) or 'none'}, not {list(shape)}"
