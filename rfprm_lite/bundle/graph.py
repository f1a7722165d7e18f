"""What a graph file holds, read without ONNX Runtime: a stranger's is looked at before it is loaded.

In: the bytes of an ONNX file. Out: a `Graph`: its nodes, its tensors, its inputs. A graph is protocol buffers, and only
the fields that rfprm-export writes are read. Every other one is refused, since ONNX Runtime may do something with it:
local functions, graphs within graphs, sparse tensors, data of training.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rfprm_lite.errors import BundleFormatError

MOST_BYTES = 2**22
"""Of a graph file: the graph of 126 layers in 4 lanes has less than half of it. Weights stand in another file."""

ELEMENT_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 10: 2, 16: 2}
"""Bytes of an element, by ONNX's number of its type: those that rfprm-export writes."""
ELEMENT_TYPES = {"float32": 1, "float16": 10, "bfloat16": 16}
"""ONNX's numbers of the types that keys and values have."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_BITS = 64
_LOW = 0x7F
"""The bits of a byte that are of a number; the other one says that the number goes on."""
_MOST_AXES = 8


@dataclass(frozen=True, slots=True)
class _Field:
    """A field of a message.

    Attributes:
        name: What `_Message.read` calls it.
        wire: How it is written.
        repeated: Whether there may be several. Of numbers they may stand in one run of bytes, too.
    """

    name: str
    wire: int = _BYTES
    repeated: bool = False


Value = int | bytes
Values = Mapping[str, list[Value]]


@dataclass(frozen=True, slots=True)
class _Message:
    """A kind of message: what errors call it, and its fields by their numbers."""

    name: str
    fields: Mapping[int, _Field]

    def read(self, data: bytes) -> dict[str, list[Value]]:
        """The values of each field that is there.

        Raises:
            ValueError: If there is another field, or one is written otherwise.
        """
        found: dict[str, list[Value]] = {}
        for number, wire, value in _fields(data):
            field = self.fields.get(number)
            if field is None:
                words = _REFUSED.get((self.name, number), f"field {number}")
                raise ValueError(f"{self.name} holds {words}, which rfprm-export never writes")
            values = found.setdefault(field.name, [])
            if wire == field.wire:
                values.append(value)
            elif field.repeated and field.wire == _VARINT and isinstance(value, bytes):
                values += _packed(value)
            else:
                raise ValueError(f"{field.name} of {self.name} is not written as ONNX has it")
            if len(values) > 1 and not field.repeated:
                raise ValueError(f"{self.name} has several of {field.name}")
        return found


def _varints(name: str, *, repeated: bool = False) -> _Field:
    return _Field(name, _VARINT, repeated)


# The messages of onnx.proto3, as far as rfprm-export writes them.
_MODEL = _Message(
    "the model",
    {
        1: _varints("ir_version"),
        2: _Field("producer_name"),
        3: _Field("producer_version"),
        5: _varints("model_version"),
        6: _Field("doc_string"),
        7: _Field("graph"),
        8: _Field("opset_import", repeated=True),
    },
)
_OPSET = _Message("an import of operators", {1: _Field("domain"), 2: _varints("version")})
_GRAPH = _Message(
    "the graph",
    {
        1: _Field("node", repeated=True),
        2: _Field("name"),
        5: _Field("initializer", repeated=True),
        10: _Field("doc_string"),
        11: _Field("input", repeated=True),
        12: _Field("output", repeated=True),
        13: _Field("value_info", repeated=True),
    },
)
_NODE = _Message(
    "a node",
    {
        1: _Field("input", repeated=True),
        2: _Field("output", repeated=True),
        3: _Field("name"),
        4: _Field("op_type"),
        5: _Field("attribute", repeated=True),
        6: _Field("doc_string"),
        7: _Field("domain"),
    },
)
_ATTRIBUTE = _Message(
    "an attribute",
    {
        1: _Field("name"),
        2: _Field("f", _FIXED32),
        3: _varints("i"),
        4: _Field("s"),
        8: _varints("ints", repeated=True),
        13: _Field("doc_string"),
        20: _varints("type"),
    },
)
_TENSOR = _Message(
    "a tensor",
    {
        1: _varints("dims", repeated=True),
        2: _varints("data_type"),
        8: _Field("name"),
        9: _Field("raw_data"),
        13: _Field("external_data", repeated=True),
        14: _varints("data_location"),
    },
)
_ENTRY = _Message("an entry of external data", {1: _Field("key"), 2: _Field("value")})
_VALUE = _Message("an input", {1: _Field("name"), 2: _Field("type"), 3: _Field("doc_string")})
_TYPE = _Message("the type of an input", {1: _Field("tensor_type")})
_TENSOR_TYPE = _Message("the type of an input", {1: _varints("elem_type"), 2: _Field("shape")})
_SHAPE = _Message("the shape of an input", {1: _Field("dim", repeated=True)})
_DIMENSION = _Message("the shape of an input", {1: _varints("dim_value"), 2: _Field("dim_param")})

_REFUSED = {
    ("the model", 14): "metadata",
    ("the model", 20): "data of training",
    ("the model", 25): "local functions",
    ("the graph", 14): "annotations of quantisation",
    ("the graph", 15): "sparse tensors",
    ("a node", 8): "an overload of a function",
    ("an attribute", 5): "a tensor",
    ("an attribute", 6): "a graph",
    ("an attribute", 10): "tensors",
    ("an attribute", 11): "graphs",
    ("an attribute", 21): "the name of a function's attribute",
    ("an attribute", 22): "a sparse tensor",
}


@dataclass(frozen=True, slots=True)
class Node:
    """An operator in the graph.

    Attributes:
        kind: Its domain and name; the domain of ONNX's own is empty.
        inputs: The names of what it takes; empty for what is left out.
        counts: Its attributes that are whole numbers, by name.
    """

    kind: tuple[str, str]
    inputs: tuple[str, ...]
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of weights or constants.

    Attributes:
        name: Its name.
        element: ONNX's number of its elements' type.
        shape: Its sizes, none negative.
        nbytes: Of all its elements.
        external: The file with its data, and where that begins and ends there; None where the graph file holds it.
    """

    name: str
    element: int
    shape: tuple[int, ...]
    nbytes: int
    external: tuple[str, int, int] | None


@dataclass(frozen=True, slots=True)
class Input:
    """An input of the graph: its elements' type, and its sizes, None where they may be any."""

    element: int
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph file: its nodes in order, and its tensors and inputs by their names."""

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    inputs: Mapping[str, Input]


def parse(data: bytes, where: str) -> Graph:
    """The graph in a file's bytes.

    Args:
        data: The bytes.
        where: What errors call the file.

    Raises:
        BundleFormatError: If they are no graph, or hold what rfprm-export never writes.
    """
    try:
        return _graph(data)
    except ValueError as error:
        raise BundleFormatError(f"{where} is no graph of rfprm-export: {error}") from error


def _graph(data: bytes) -> Graph:
    model = _MODEL.read(data)
    for opset in model.get("opset_import", ()):
        domain = _text(_OPSET.read(_bytes(opset)), "domain")
        if domain not in DOMAINS:
            raise ValueError(f"it imports operators of {domain!r}")
    graph = _GRAPH.read(_bytes(_one(model, "graph")))
    tensors = _by_name(_tensor(_bytes(value)) for value in graph.get("initializer", ()))
    inputs: dict[str, Input] = {}
    for value in graph.get("input", ()):
        name, own = _input(_bytes(value))
        if name in inputs or name in tensors:
            raise ValueError(f"several inputs or tensors are called {name!r}")
        inputs[name] = own
    return Graph(tuple(_node(_bytes(value)) for value in graph.get("node", ())), tensors, inputs)


DOMAINS = ("", "com.microsoft")
"""Whose operators rfprm-export writes: ONNX's, and those of ONNX Runtime."""


def _by_name(tensors: Iterator[Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for tensor in tensors:
        if tensor.name in found:
            raise ValueError(f"several tensors are called {tensor.name!r}")
        found[tensor.name] = tensor
    return found


def _node(data: bytes) -> Node:
    node = _NODE.read(data)
    attributes = [_ATTRIBUTE.read(_bytes(attribute)) for attribute in node.get("attribute", ())]
    counts = {_text(attribute, "name"): _int(attribute, "i") for attribute in attributes if "i" in attribute}
    inputs = tuple(map(_decoded, node.get("input", ())))
    return Node((_text(node, "domain"), _text(node, "op_type")), inputs, counts)


def _tensor(data: bytes) -> Tensor:
    values = _TENSOR.read(data)
    name, element = _text(values, "name"), _int(values, "data_type")
    shape = tuple(_signed(value) for value in values.get("dims", ()))
    if element not in ELEMENT_BYTES:
        raise ValueError(f"the tensor {name!r} is of ONNX's type {element}")
    if len(shape) > _MOST_AXES or any(size < 0 for size in shape):
        raise ValueError(f"the tensor {name!r} has the shape {list(shape)!r:.80}")
    nbytes = math.prod(shape) * ELEMENT_BYTES[element]
    if _int(values, "data_location") == 0:
        held = sum(len(_bytes(value)) for value in values.get("raw_data", ()))
        if held != nbytes or "external_data" in values:
            raise ValueError(f"the tensor {name!r} of shape {list(shape)} has {held} bytes of data, not {nbytes}")
        return Tensor(name, element, shape, nbytes, None)
    entries = [_ENTRY.read(_bytes(value)) for value in values.get("external_data", ())]
    place = {_text(entry, "key"): _text(entry, "value") for entry in entries}
    if len(entries) != len(place) or place.keys() != {"location", "offset", "length"} or "raw_data" in values:
        raise ValueError(f"the external data of {name!r} has {sorted(place)}, not location, offset and length")
    start, length = _count(place["offset"], name), _count(place["length"], name)
    if length != nbytes:
        raise ValueError(f"{name!r} of shape {list(shape)} has {length} bytes of external data, not {nbytes}")
    return Tensor(name, element, shape, nbytes, (place["location"], start, start + length))


def _input(data: bytes) -> tuple[str, Input]:
    value = _VALUE.read(data)
    kind = _TENSOR_TYPE.read(_bytes(_one(_TYPE.read(_bytes(_one(value, "type"))), "tensor_type")))
    sizes = [_DIMENSION.read(_bytes(dim)) for dim in _SHAPE.read(_bytes(_one(kind, "shape"))).get("dim", ())]
    shape = tuple(_int(size, "dim_value") if "dim_value" in size else None for size in sizes)
    return _text(value, "name"), Input(_int(kind, "elem_type"), shape)


def _count(text: str, name: str) -> int:
    """An offset or a length, which is written in decimal digits."""
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(2**63)):
        raise ValueError(f"{text!r:.60} is no place in the external data of {name!r}")
    return int(text)


def _one(values: Values, name: str) -> Value:
    if name not in values:
        raise ValueError(f"{name} is missing")
    return values[name][0]


def _int(values: Values, name: str) -> int:
    """The one number of a field, 0 where it is not there."""
    return next((value for value in values.get(name, ()) if isinstance(value, int)), 0)


def _text(values: Values, name: str) -> str:
    """The one text of a field, empty where it is not there."""
    return next(map(_decoded, values.get(name, ())), "")


def _decoded(value: Value) -> str:
    return _bytes(value).decode()  # its error is a ValueError


def _bytes(value: Value) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError("a number stands where a message does")  # noqa: TRY004  # of the file, not of the caller
    return value


def _signed(value: Value) -> int:
    number = value if isinstance(value, int) else -1
    return number - (1 << _BITS) if number >> (_BITS - 1) else number


def _fields(data: bytes) -> Iterator[tuple[int, int, Value]]:
    """Number, way of writing and value of each field of a message."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        value: Value
        if wire == _VARINT:
            value, at = _varint(data, at)
        elif wire in _SIZES or wire == _BYTES:
            size, at = _varint(data, at) if wire == _BYTES else (_SIZES[wire], at)
            value = data[at : at + size]
            at += size
            if at > end:
                raise ValueError("it is cut off")
        else:
            raise ValueError(f"a field is written in the way {wire}, which there is not")
        yield number, wire, value


_SIZES = {_FIXED64: 8, _FIXED32: 4}


def _packed(data: bytes) -> Iterator[int]:
    at = 0
    while at < len(data):
        value, at = _varint(data, at)
        yield value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number, 7 bits a byte, and where the next field begins."""
    value = 0
    for shift in range(0, _BITS, 7):
        if at >= len(data):
            raise ValueError("it is cut off")
        byte = data[at]
        at += 1
        value |= (byte & _LOW) << shift
        if byte <= _LOW:
            break
    if byte > _LOW or value >> _BITS:
        raise ValueError(f"a number has more than {_BITS} bits")
    return value, at
