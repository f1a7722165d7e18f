"""Bundles made to harm: each is refused by a message that names the file, before time or memory is spent."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pyarrow as pa
import pytest
from onnx import TensorProto, helper, numpy_helper

import harm
from campaign import Effort, Tally
from rfprm_export.checkpoint.adapter import base_of
from rfprm_export.checkpoint.shards import find_files
from rfprm_export.checkpoint.tensors import load_architecture
from rfprm_export.families.options import family_from
from rfprm_lite.bundle.open import DEMO_FOLDER
from rfprm_lite.data.source import Source
from rfprm_lite.data.tables import read_rows
from rfprm_lite.errors import InputError, RfprmError
from rfprm_lite.evaluate.reading import read
from test_files import attempt

MOST_SECONDS, MOST_BYTES = 5.0, 200 << 20
"""Of a load that is refused. The demo's own takes 0.5 s and 40 MB."""
GRAPH, DATA = "int8/model.onnx", "int8/model.onnx.data"
DEEP = 100_000

Change = Callable[[Path], object]


@dataclass(frozen=True)
class Harm:
    """A bundle made to harm. said: what the error says, a regular expression."""

    name: str
    change: Change
    said: str


def sealed(change: Callable[[Any], object], path: str = "manifest.json") -> Change:
    """A change of a JSON file."""

    def apply(folder: Path) -> None:
        value = json.loads((folder / path).read_text(encoding="utf-8"))
        change(value)
        (folder / path).write_text(json.dumps(value), encoding="utf-8")

    return apply


def seal(folder: Path) -> None:
    """Write the sizes and sums of all files into the manifest, as an author who means harm does."""
    if not (folder / "manifest.json").is_file() or (folder / "manifest.json").stat().st_size > 2**24:
        return
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        files = [manifest["tokenizer"], *(file for variant in manifest["variants"] for file in variant["files"])]
    except (ValueError, KeyError, RecursionError):
        return
    for file in files:
        path = folder / file["path"]
        if path.is_file():
            file["bytes"] = path.stat().st_size
            file["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest() if file["bytes"] < 2**24 else "0" * 64
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")


def of_graph(change: Callable[[onnx.ModelProto], object]) -> Change:
    def apply(folder: Path) -> None:
        model = onnx.load(folder / GRAPH, load_external_data=False)
        change(model)
        (folder / GRAPH).write_bytes(model.SerializeToString())

    return apply


def of_place(**entries: str) -> Change:
    """Another place of the first external tensor."""

    def change(model: onnx.ModelProto) -> None:
        for entry in first_external(model).external_data:
            entry.value = entries.get(entry.key, entry.value)

    return of_graph(change)


def first_external(model: onnx.ModelProto) -> TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL)


def of_dims(*dims: int) -> Change:
    return of_graph(lambda model: first_external(model).ClearField("dims") or first_external(model).dims.extend(dims))


def of_node(kind: str, inputs: list[str], domain: str = "", **attributes: Any) -> Change:
    node = helper.make_node(kind, inputs, ["harm"], domain=domain, **attributes)
    return of_graph(lambda model: model.graph.node.insert(0, node))


def with_constants(change: Callable[[onnx.ModelProto], object], **values: Any) -> Change:
    def both(model: onnx.ModelProto) -> None:
        model.graph.initializer.extend(numpy_helper.from_array(np.array(v), name) for name, v in values.items())
        change(model)

    return of_graph(both)


def bomb(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Range", ["zero", "many", "one"], ["harm"]))


def local_function(model: onnx.ModelProto) -> None:
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("ours", "f", ["x"], ["y"], body, [helper.make_opsetid("", 18)]))


def overlapping(model: onnx.ModelProto) -> None:
    tensor = max((t for t in model.graph.initializer if t.data_location), key=lambda t: int(t.external_data[2].value))
    for i in range(3000):
        copy = model.graph.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = f"copy.{i}"


def packed_often(model: onnx.ModelProto) -> None:
    names = [tensor.name for tensor in model.graph.initializer if tensor.name.endswith("gate_proj.weight_s8")]
    for i in range(1000):
        node = model.graph.node.add()
        node.CopyFrom(helper.make_node("MatMul", ["input_ids", names[0]], [f"harm.{i}"]))


def length_delimited(number: int, content: bytes) -> bytes:
    size, digits = len(content), b""
    while size > 127:
        digits, size = digits + bytes([size & 127 | 128]), size >> 7
    return bytes([number << 3 | 2]) + digits + bytes([size]) + content


def nested_graphs(folder: Path) -> None:
    graph = b""
    for _ in range(2000):  # each holds a node with an attribute that is a graph
        graph = length_delimited(1, length_delimited(5, length_delimited(6, graph)))
    with (folder / GRAPH).open("ab") as file:
        file.write(length_delimited(7, graph))


def link(name: str, target: str | Path) -> Change:
    def apply(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).symlink_to(target)

    return apply


def moved_out(name: str) -> Change:
    """The file is beside the bundle, and a link leads to it."""

    def apply(folder: Path) -> None:
        outside = folder.parent / f"outside-{Path(name).name}"
        shutil.move(folder / name, outside)
        (folder / name).symlink_to(outside)

    return apply


def fifo(folder: Path) -> None:
    (folder / DATA).unlink()
    os.mkfifo(folder / DATA)


def giant(name: str, size: int) -> Change:
    def apply(folder: Path) -> None:
        with (folder / name).open("r+b") as file:
            file.truncate(size)

    return apply


def path_of(path: str, which: int = 1) -> Change:
    return sealed(lambda manifest: manifest["variants"][0]["files"][which].update(path=path))


def dimension(**values: int) -> Change:
    return sealed(lambda manifest: manifest["dimensions"].update(values))


def variant(**values: Any) -> Change:
    return sealed(lambda manifest: manifest["variants"][0].update(values))


def pattern(regex: str) -> Change:
    def change(tokenizer: Any) -> None:
        tokenizer["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = regex

    return sealed(change, "tokenizer.json")


def written(name: str, content: bytes) -> Change:
    return lambda folder: (folder / name).write_bytes(content)


OUT = "a file outside its bundle"
LINK = r"is a link out of its bundle, to .*put the file itself there"
NO_GRAPH = rf"{GRAPH} is no graph of rfprm-export: "
OTHER = rf"{GRAPH} is not the graph that the manifest describes: "
PLACE = "is no place in the external data of 'rotary.cos'"
HARMS = (
    *(
        Harm(f"the path {path}", path_of(path), OUT)
        for path in ("../x", "/etc/passwd", "C:\\x", "int8\\..\\..\\x", "/")
    ),
    *(Harm(f"a link for {name}", moved_out(name), f"{name} {LINK}") for name in ("tokenizer.json", GRAPH, DATA)),
    Harm("a link to zeros", link(DATA, "/dev/zero"), "is missing"),
    Harm("the manifest a link to zeros", link("manifest.json", "/dev/zero"), "has no manifest.json"),
    Harm("a pipe", fifo, "is missing"),
    Harm("a manifest of 5 GB", giant("manifest.json", 5 << 30), r"manifest.json has 5368709120 bytes, 4194304 at most"),
    Harm("a tokenizer of 5 GB", giant("tokenizer.json", 5 << 30), "tokenizer.json has 5368709120 bytes, 134217728 at"),
    Harm("a graph of 5 GB", giant(GRAPH, 5 << 30), r"model.onnx has 5368709120 bytes: a graph .* has 4194304 at most"),
    *(
        Harm(
            f"data in {place!r}",
            of_place(location=place),
            f"the data of 'rotary.cos' is in {place!r}, which is no file",
        )
        for place in ("../int8/model.onnx.data", "/etc/passwd", "model.onnx", "../tokenizer.json", "", ".")
    ),
    *(
        Harm(f"the {key} {value!r}", of_place(**{key: value}), f"{value!r} {PLACE}")
        for key in ("offset", "length")
        for value in ("-1", "abc", "", "1e3", " 0", "0x10", "1_0", "٣", "9" * 40, str(2**64 - 1))
    ),
    *(
        Harm(
            f"the offset {value}", of_place(offset=str(value)), f"'rotary.cos' ends at byte {value + 131136} of {DATA}"
        )
        for value in (2132616, 2**31, 2**63)
    ),
    *(
        Harm(f"the length {value}", of_place(length=str(value)), f"has {value} bytes of external data, not 131136")
        for value in (0, 131135, 2**63)
    ),
    *(
        Harm(f"the shape {dims}", of_dims(*dims), "the tensor 'rotary.cos' has the shape|bytes of external data, not")
        for dims in ((-1,), (-2, -3), (2**62, 4), (2**32, 2**32), (0,), (2**40,), (1,) * 9)
    ),
    Harm("tensors that overlap", of_place(offset="4"), "'rotary.cos' and 'rotary.sin' overlap in int8/model.onnx.data"),
    Harm("3000 copies of a weight", of_graph(overlapping), "overlap in int8/model.onnx.data"),
    Harm("a weight in 1000 products", of_graph(packed_often), "its products take .* bytes of weights, of which"),
    Harm(
        "an operator that makes numbers", of_node("RandomNormal", [], shape=[10**5, 10**5]), "operator 'RandomNormal'"
    ),
    Harm("a loop", of_node("Loop", ["a", "b"]), "the operator 'Loop', which is none of the"),
    Harm("an operator of others", of_node("Tokenizer", ["a"], "com.other"), "the operator 'com.other.Tokenizer'"),
    Harm("ONNX's operator of Microsoft's", of_node("Relu", ["input_ids"], "com.microsoft"), "com.microsoft.Relu"),
    Harm(
        "a tensor in a node", of_node("Relu", ["a"], value=numpy_helper.from_array(np.zeros(2))), "holds a tensor, wh"
    ),
    Harm("a graph in a node", of_node("Relu", ["a"], body=helper.make_graph([], "g", [], [])), "holds a graph, which"),
    Harm("operators imported", of_graph(lambda m: m.opset_import.add(domain="ai.onnx.ml", version=3)), "'ai.onnx.ml'"),
    Harm("a local function", of_graph(local_function), NO_GRAPH + "the model holds local functions, which"),
    Harm(
        "metadata", of_graph(lambda m: m.metadata_props.add(key="a", value="b")), NO_GRAPH + "the model holds metadata"
    ),
    Harm("training", of_graph(lambda m: m.training_info.add()), NO_GRAPH + "the model holds data of training"),
    Harm("sparse tensors", of_graph(lambda m: m.graph.sparse_initializer.add()), "the graph holds sparse tensors"),
    Harm(
        "constants that grow to 8 TB",
        with_constants(bomb, zero=0, many=10**12, one=1),
        NO_GRAPH + "Range of constants alone, 'zero, many, one'",
    ),
    Harm("a name twice", of_graph(lambda m: m.graph.initializer.append(m.graph.initializer[0])), "several tensors are"),
    Harm("graphs 2000 deep", nested_graphs, NO_GRAPH),
    Harm("a text for a graph", written(GRAPH, b"import os"), NO_GRAPH),
    Harm("an empty graph", written(GRAPH, b""), NO_GRAPH + "graph is missing"),
    Harm("a number without end", written(GRAPH, b"\x08" + b"\xff" * 100_000), NO_GRAPH + "a number has more than 64"),
    *(
        Harm(f"{name} {value}", dimension(**{name: value}), said)
        for name, value, said in (
            ("num_layers", 5, NO_GRAPH + r"the input 'past\."),
            ("num_layers", 7, NO_GRAPH + r"the input 'past\."),
            ("num_layers", 2**62, NO_GRAPH + "it has 54 inputs, too few"),
            ("hidden_size", 161, OTHER + "model.embed_tokens.weight has shape"),
            ("num_heads", 50_000_000, OTHER + "GroupQueryAttention has"),
            ("num_kv_heads", 5, NO_GRAPH + r"the input 'past\."),
            ("head_size", 33, NO_GRAPH + r"the input 'past\."),
            ("head_size", 2**62, NO_GRAPH + r"the input 'past\."),
            ("vocab_size", 2049, OTHER + "model.embed_tokens.weight has shape"),
            ("max_positions", 2**40, OTHER + "rotary.cos has shape"),
        )
    ),
    Harm("other lanes", variant(lanes=5), NO_GRAPH + "the input 'lane_reads' is of type 7"),
    Harm("lanes without end", variant(lanes=2**62), NO_GRAPH + "it has 54 inputs, too few"),
    Harm("another type", variant(kv_dtype="float16"), NO_GRAPH + r"the input 'past\.0"),
    Harm("JSON 10^5 deep, manifest", written("manifest.json", b'{"a":' * DEEP), "manifest.json is no manifest"),
    Harm(
        "JSON 10^5 deep, tokenizer",
        written("tokenizer.json", b"[" * DEEP),
        "tokenizer.json is no tokenizer that is loaded",
    ),
    Harm("no JSON", written("tokenizer.json", b"\xff\x00"), "tokenizer.json is no tokenizer that is loaded"),
    *(
        Harm(f"the pattern {regex}", pattern(regex), r"tokenizer.json.*could take for ever")
        for regex in (
            "(a+)+$",
            "(?:a|b*)*c",
            r"(\s*|x)+y",
            "((a{1,}){2,}b)",
            r"(a)\1+",
            r"(?<n>a)\k<n>",
            r"(?<n>a\g<n>?b)",
            "(a|aa)+?$",
            "(?>a|aa){3,}b",
            "(?x: (a+) +)",
            "(a+)(?#x)+",
            "(?~ab)",
        )
    ),
)


def test_harmful_bundles(tally: Tally, tmp_path: Path) -> None:
    """Bundles made to harm."""
    folders = [tmp_path / str(i) / "bundle" for i in range(len(HARMS))]
    for one, folder in zip(HARMS, folders, strict=True):
        shutil.copytree(DEMO_FOLDER, folder)
        one.change(folder)
        seal(folder)
    plain = shutil.copytree(DEMO_FOLDER, tmp_path / "plain")
    *found, good = harm.load([*folders, plain])
    assert not good.error
    tally.add("bundles", len(HARMS))
    wrong = [(one, result) for one, result in zip(HARMS, found, strict=True) if not is_refused(one, result)]
    assert not wrong, "\n".join(f"{one.name}: {one.said}: {result}" for one, result in wrong)
    tally.measure("slowest in s", max(result.seconds for result in found))
    tally.measure("most memory in MB", max(result.grown for result in found) / 1e6)


def is_refused(one: Harm, result: harm.Loaded) -> bool:
    named = result.ours and re.search(one.said, result.error) is not None
    return named and result.seconds < MOST_SECONDS and result.grown < MOST_BYTES


PACKED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: pa.Codec("zstd").compress(data, asbytes=True),
}


CONTENTS = (b"\x00", b"\n", b"[", b'{"a": "' + b" " * 1000 + b'"}\n')


def test_bombs(effort: Effort, tally: Tally, tmp_path: Path) -> None:
    """Files that unpack to 32 GB: zeros, empty lines, nested JSON, rows."""
    pairs = [*product(PACKED, CONTENTS)] if effort.long else [*zip(PACKED, CONTENTS, strict=True)]
    found = [_bomb(tmp_path / f"bomb{i}.jsonl{suffix}", content) for i, (suffix, content) in enumerate(pairs)]
    tally.add("bombs", len(found))
    tally.measure("slowest in s", max(seconds for seconds, _ in found))
    tally.measure("most memory in MB", max(grown for _, grown in found) / 1e6)


def _bomb(path: Path, content: bytes) -> tuple[float, int]:
    path.write_bytes(PACKED[path.suffix](content * (2**24 // len(content))) * 2048)

    def rows(_data: bytes) -> None:
        with pytest.raises(InputError, match=f"{path.name} is refused as a decompression bomb"):
            for _ in read_rows([path]):
                pass

    return attempt(rows, b"", path.with_suffix(".kept"))


def json_files(folder: Path) -> dict[str, tuple[str, Callable[[], object]]]:
    """Every file of JSON or TOML that is read, and what reads it."""
    deep, rows = "config.json", "rows.jsonl"
    return {
        "checkpoint": (deep, lambda: load_architecture(folder)),
        "index": ("model.safetensors.index.json", lambda: find_files(folder)),
        "adapter": ("adapter_config.json", lambda: base_of(folder)),
        "recipe": ("recipe.toml", lambda: family_from(str(folder / "recipe.toml"))),
        "set": ("set.jsonl", lambda: read(folder / "set.jsonl")),
        "rows": (rows, lambda: Source((folder / rows,)).opened()),
    }


@pytest.mark.parametrize("opening", ["[", '{"a":', '{"problem": "p", "response": [', "a = [["])
def test_deep_files(opening: str, tally: Tally, tmp_path: Path) -> None:
    """Files that are nested 10^5 deep."""
    for name, (file, open_it) in json_files(tmp_path).items():
        (tmp_path / file).write_text(opening + opening[-1] * DEEP, encoding="utf-8")
        start = time.process_time()
        with pytest.raises(RfprmError):
            open_it()
        tally.add("files")
        assert time.process_time() - start < MOST_SECONDS, name
