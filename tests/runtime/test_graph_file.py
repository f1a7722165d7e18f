"""Graph files: what ONNX Runtime would load of a stranger's is looked at first."""

from __future__ import annotations

import os
import random
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfprm_lite.bundle import contract
from rfprm_lite.bundle.graph import Graph, Input, Node, Tensor, parse
from rfprm_lite.bundle.manifest import File
from rfprm_lite.bundle.open import DEMO_FOLDER, Bundle, check_files, open_bundle, read_manifest
from rfprm_lite.errors import BundleFormatError
from rfprm_lite.options import LoadOptions

BUNDLE = open_bundle("demo", LoadOptions())
BYTES = BUNDLE.graph.read_bytes()
GRAPH = parse(BYTES, "model.onnx")
COS = GRAPH.tensors["rotary.cos"]


def number(value: int) -> bytes:
    digits = [value >> shift & 127 for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([*(digit | 128 for digit in digits[:-1]), digits[-1]])


def field(at: int, value: bytes | int | str) -> bytes:
    if isinstance(value, int):
        return number(at << 3) + number(value)
    value = value.encode() if isinstance(value, str) else value
    return number(at << 3 | 2) + number(len(value)) + value


def tensor(*fields: bytes, dims: tuple[int, ...] = (2,), kind: int = 1) -> bytes:
    """A graph of one tensor `w`."""
    own = b"".join((*(field(1, size) for size in dims), field(2, kind), field(8, "w"), *fields))
    return field(7, field(5, own))


def place(**entries: str) -> bytes:
    written = (field(13, field(1, key) + field(2, value)) for key, value in entries.items())
    return field(14, 1) + b"".join(written)


def test_what_is_read() -> None:
    held = parse(tensor(field(9, bytes(8))), "g").tensors["w"]
    assert held == Tensor("w", 1, (2,), 8, None)
    beside = parse(tensor(place(location="d", offset="64", length="8")), "g").tensors["w"]
    assert beside == Tensor("w", 1, (2,), 8, ("d", 64, 72))
    packed = field(7, field(5, field(1, number(2) + number(3)) + field(2, 3) + field(8, "p") + field(9, bytes(6))))
    assert parse(packed, "g").tensors["p"].shape == (2, 3)
    node = field(1, "x") + field(1, "") + field(4, "Concat") + field(5, field(1, "axis") + field(3, 1) + field(20, 2))
    assert parse(field(7, field(1, node)), "g").nodes == (Node(("", "Concat"), ("x", ""), {"axis": 1}),)
    shape = field(2, field(1, field(1, 7) + field(2, field(1, field(2, "T")) + field(1, field(1, 4)))))
    assert parse(field(7, field(11, field(1, "i") + shape)), "g").inputs == {"i": Input(7, (None, 4))}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "graph is missing"),
        (field(25, ""), "the model holds local functions, which"),
        (field(99, ""), "the model holds field 99, which"),
        (field(7, "") * 2, "the model has several of graph"),
        (field(7, 5), "graph of the model is not written as ONNX has it"),
        (field(8, field(1, "ai.onnx.ml")) + field(7, ""), "operators of 'ai.onnx.ml'"),
        (field(7, field(1, field(5, field(6, "")))), "an attribute holds a graph, which"),
        (field(7, field(1, field(4, b"\xff"))), "can't decode"),
        (field(7, "x")[:-1], "it is cut off"),
        (b"\x0b", "written in the way 3"),
        (b"\x08" + b"\xff" * 20, "more than 64 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x7f", "more than 64 bits"),
        (tensor(), "has 0 bytes of data, not 8"),
        (tensor(field(9, bytes(8)), kind=8), "of ONNX's type 8"),
        (tensor(field(9, bytes(8)), kind=2**32 + 1), "of ONNX's type 4294967297"),
        (tensor(field(9, b""), dims=(2**64 - 1,)), r"the shape \[-1\]"),
        (tensor(field(9, b""), dims=(0,) * 9), "the shape"),
        (tensor(place(location="d", offset="0")), r"\['location', 'offset'\], not location, offset and length"),
        (tensor(place(location="d", offset="-1", length="8")), "'-1' is no place in the external data of 'w'"),
        (tensor(place(location="d", offset="0", length="9")), "has 9 bytes of external data, not 8"),
    ],
)
def test_what_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(BundleFormatError, match=f"^model.onnx is no graph of rfprm-export: .*{said}"):
        parse(data, "model.onnx")


@given(st.integers(0, len(BYTES) - 1), st.integers(0, 255), st.booleans())
def test_damage_is_an_error_of_ours_or_nothing(at: int, byte: int, cut: bool) -> None:
    data = BYTES[:at] if cut else BYTES[:at] + bytes([byte]) + BYTES[at + 1 :]
    with suppress(BundleFormatError):
        contract.check(parse(data, "model.onnx"), "model.onnx", BUNDLE.manifest, BUNDLE.variant)


def with_tensor(**changes: object) -> Graph:
    return replace(GRAPH, tensors={**GRAPH.tensors, COS.name: replace(COS, **changes)})  # type: ignore[arg-type]


def with_node(kind: tuple[str, str], *inputs: str) -> Graph:
    return replace(GRAPH, nodes=(*GRAPH.nodes, Node(kind, inputs, {})))


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (with_node(("", "Loop"), "input_ids"), "the operator 'Loop', which is none"),
        (with_node(("com.microsoft", "Add"), "input_ids"), r"the operator 'com\.microsoft\.Add'"),
        (with_node(("", "Range"), COS.name), "Range of constants alone, 'rotary.cos'"),
        (with_node(("", "Expand")), "Expand of constants alone, 'of nothing'"),
        (
            with_tensor(external=("../x", 0, 1)),
            "the data of 'rotary.cos' is in '../x', which is no file of variant 'int8'",
        ),
        (with_tensor(external=("model.onnx.data", 2**62, 2**63)), "'rotary.cos' ends at byte 9223372036854775808"),
        (with_tensor(external=("model.onnx.data", 4, 131140)), "'rotary.cos' and 'rotary.sin' overlap"),
        (with_tensor(shape=(2048, 16)), r"rotary.cos has shape \[2048, 16\], not \[2049, 16\]"),
        (replace(GRAPH, inputs={}), "it has 0 inputs, too few for 6 layers and 4 lanes"),
        (replace(GRAPH, inputs={**GRAPH.inputs, "x": Input(1, ())}), "the input 'x' is of type 1 and shape"),
        (replace(GRAPH, nodes=GRAPH.nodes * 50), "its products take [0-9]+ bytes of weights, of which there are"),
        (with_node(("com.microsoft", "GroupQueryAttention"), "x"), "GroupQueryAttention has {}, not"),
    ],
)
def test_what_a_graph_may_not_be(graph: Graph, said: str) -> None:
    with pytest.raises(BundleFormatError, match=f"^model.onnx is no.*{said}"):
        contract.check(graph, "model.onnx", BUNDLE.manifest, BUNDLE.variant)


def test_another_layout_has_other_inputs() -> None:
    paged = msgspec.structs.replace(BUNDLE.variant, kv_layout="paged", devices=("cuda",), kv_dtype="float16")
    with pytest.raises(BundleFormatError, match="the input 'bounds' is not there"):
        contract.check(GRAPH, "model.onnx", BUNDLE.manifest, paged)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return shutil.copytree(DEMO_FOLDER, tmp_path / "org" / "bundle")


def moved(bundle: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(bundle / "tokenizer.json", target)
    (bundle / "tokenizer.json").unlink()
    (bundle / "tokenizer.json").symlink_to(target)


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_stay_within_a_bundle(bundle: Path) -> None:
    moved(bundle, bundle / "deep" / "t.json")
    open_bundle(bundle, LoadOptions())
    moved(bundle, bundle.parent / "blobs" / "t.json")  # beside it, but it is no snapshot of a cache
    with pytest.raises(BundleFormatError, match=r"tokenizer\.json is a link out of its bundle, to .*blobs"):
        open_bundle(bundle, LoadOptions())


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
def test_links_of_the_hubs_cache(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--prm"
    bundle = shutil.copytree(DEMO_FOLDER, repository / "snapshots" / "commit")
    moved(bundle, repository / "blobs" / "sha")
    (tmp_path / "link").symlink_to(repository)
    open_bundle(tmp_path / "link" / "snapshots" / "commit", LoadOptions())
    shutil.move(repository / "blobs", tmp_path / "elsewhere")
    (repository / "blobs").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleFormatError, match=r"a link out of its bundle, to .*elsewhere"):
        open_bundle(bundle, LoadOptions())


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("manifest.json", "manifest.json has 5000000000 bytes, 4194304 at most are read"),
        ("int8/model.onnx", "model.onnx has 5000000000 bytes: a graph of rfprm-export has 4194304 at most"),
        ("tokenizer.json", "tokenizer.json has 5000000000 bytes, 134217728 at most are read"),
    ],
)
def test_files_that_would_fill_the_memory(bundle: Path, name: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 5_000_000_000
    stat: Callable[[Path], os.stat_result] = Path.stat

    def grown(path: Path, **_: bool) -> os.stat_result:
        own = stat(path)
        if path != bundle / name:
            return own
        return os.stat_result((*own[:6], size, *own[7:]))

    monkeypatch.setattr(Path, "stat", grown)

    def other(file: File) -> File:
        return msgspec.structs.replace(file, bytes=size) if file.path == name else file

    manifest = msgspec.structs.replace(BUNDLE.manifest, tokenizer=other(BUNDLE.manifest.tokenizer))
    variant = msgspec.structs.replace(BUNDLE.variant, files=tuple(map(other, BUNDLE.variant.files)))
    with pytest.raises(BundleFormatError, match=said):
        _open(name, Bundle(bundle, manifest, variant))


def _open(name: str, bundle: Bundle) -> None:
    if name == "manifest.json":
        read_manifest(bundle.folder, "it")
    check_files(bundle, contents=False)


def test_a_number_of_random_files() -> None:
    generator = random.Random(0)
    for _ in range(300):
        with pytest.raises(BundleFormatError):
            parse(generator.randbytes(generator.randrange(200)) + b"\x07", "model.onnx")
