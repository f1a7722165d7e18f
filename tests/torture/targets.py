"""Everything that reads a file of a stranger's, each as a function of its bytes.

A target may succeed, or raise an error of ours. Its right files, and those that once broke it, are in tests/data/fuzz.
"""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from rfprm_export.checkpoint import head, shards
from rfprm_export.checkpoint.adapter import Adapter, base_of
from rfprm_export.checkpoint.architecture import Architecture
from rfprm_export.checkpoint.tensors import load_architecture
from rfprm_export.families.options import family_from
from rfprm_export.oracle.rotary import rotary_frequencies
from rfprm_lite.bundle import contract, graph, manifest
from rfprm_lite.bundle.open import DEMO_FOLDER, read_manifest
from rfprm_lite.bundle.recipe import Recipe
from rfprm_lite.data.ledger import Key, Ledger
from rfprm_lite.data.reading import Reading
from rfprm_lite.data.selection import Selection
from rfprm_lite.data.source import Source
from rfprm_lite.errors import RfprmError
from rfprm_lite.evaluate import reading as sets
from rfprm_lite.scoring import wiring
from rfprm_lite.text import messages
from rfprm_lite.text.encoding import Encoder
from rfprm_lite.text.writing import response_draft, step_drafts
from rfprm_lite.trace import Trace

CORPUS = Path(__file__).parents[1] / "data" / "fuzz"
TRACE = Trace.from_parts(thinking="Six times seven.\n\nIt is 42.", response="So 42.\n\nIt is **42**.")

Reader = Callable[[bytes], object]


@dataclass(frozen=True)
class Target:
    """What reads a kind of file.

    Attributes:
        name: Of the folder in the corpus.
        reader: Gives what reads a file's bytes, from a folder in which it may write.
        runs: How often in the campaign; in all a million and more.
    """

    name: str
    reader: Callable[[Path], Reader]
    runs: int

    @property
    def seeds(self) -> list[bytes]:
        return [path.read_bytes() for path in sorted((CORPUS / self.name).iterdir())]


def read_a_manifest(_folder: Path) -> Reader:
    demo = graph.parse((DEMO_FOLDER / "int8" / "model.onnx").read_bytes(), "model.onnx")

    def read(data: bytes) -> object:
        found = manifest.decode(data, "manifest.json")
        variant = found.default_variant("cpu")
        contract.check(demo, "model.onnx", found, variant)
        of = (wiring.layout_of, wiring.packing_of, wiring.sizes_of)
        return [f(found, variant) for f in of], wiring.budget_of(found), found.recipe.head.range, found.max_tokens

    return read


def read_a_recipe(_folder: Path) -> Reader:
    conversation = [{"role": "user", "content": "6 * 7?"}, {"role": "system", "content": "x"}]

    def read(data: bytes) -> object:
        try:
            recipe = msgspec.json.decode(data, type=Recipe)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # which the manifest's decoder turns to ours
            return None
        for problem in ("What is 6 * 7?", conversation[:1], conversation):
            with contextlib.suppress(RfprmError):
                step_drafts(recipe, problem, TRACE)
                response_draft(recipe, problem, TRACE)
        return recipe.aggregate(np.array([0.5, 0.7], np.float32), 0.5)

    return read


def read_a_tokenizer(folder: Path) -> Reader:
    path = folder / "tokenizer.json"
    recipe = read_manifest(DEMO_FOLDER, "demo").recipe
    plain = msgspec.structs.replace(
        recipe, opening=recipe.opening[6:7], step=recipe.step[:1] + recipe.step[2:], chat=None, expect=None
    )

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return Encoder.from_file(path, plain, 4096).step_sequences("What is 6 * 7?\t<|im_end|>é", TRACE)

    return read


def read_a_graph(_folder: Path) -> Reader:
    return lambda data: graph.parse(data, "model.onnx")


def read_a_trace(_folder: Path) -> Reader:
    splitters = ("blank-lines", "markdown", "lines", "whole", "Step")

    def read(data: bytes) -> object:
        text = data.decode(errors="surrogateescape")
        return Trace.parse(text, splitter=splitters[len(data) % len(splitters)], started_thinking=len(data) % 3 == 0)

    return read


def read_messages(_folder: Path) -> Reader:
    def read(data: bytes) -> object:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError):
            return None
        return messages.exchange(value) if isinstance(value, list) else messages.read(value, "the message")

    return read


def read_rows(name: str) -> Callable[[Path], Reader]:
    """The rows of a file of such a name, as responses and as pools."""

    def reader(folder: Path) -> Reader:
        path = folder / name

        def read(data: bytes) -> object:
            path.write_bytes(data)
            pools = b"candidates" in data
            source, rows, _ = Source((path,), reading=Reading()).opened(pools=pools)
            return list(source.pool_rows(rows) if pools else source.score_rows(rows))

        return read

    return reader


def read_a_ledger(folder: Path) -> Reader:
    path = folder / "ledger"
    key = Key.of("p", "r")

    def read(data: bytes) -> object:
        for suffix in ("", "-wal", "-shm", "-journal"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        path.write_bytes(data)
        ledger = Ledger(path, {"model": "demo"})
        try:
            entries = list(ledger.entries(Selection(per_problem=1, min_reward=0.1)))
            return entries, ledger.totals(), list(ledger.aside()), ledger.new({1000: key, 1007: key})
        finally:
            ledger.close()

    return read


def write_a_ledger(path: Path) -> None:
    """The right file of the ledger's corpus; see its README."""
    from rfprm_lite.data.ledger import Scored
    from rfprm_lite.plan.usage import Usage

    ledger = Ledger(path, {"model": "demo"})
    ledger.add(
        [
            (row, Key.of(f"p{row % 2}", f"r{row}"), Scored(0.5, 0.7, np.array([0.4, 0.6], np.float32), Usage(9, 5)))
            for row in range(4)
        ]
    )
    ledger.close()


def read_a_set(folder: Path) -> Reader:
    path = folder / "set.jsonl"

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return sets.read(path, grader="number")

    return read


def read_a_config(folder: Path) -> Reader:
    def read(data: bytes) -> object:
        (folder / "config.json").write_bytes(data)
        architecture = load_architecture(folder)
        if max(architecture.max_positions, architecture.head_size) < 2**16:
            rotary_frequencies(architecture.rope, architecture.head_size, architecture.max_positions)
        return architecture.backbone() if architecture.num_layers < 200 else architecture.layer()

    return read


def read_an_index(folder: Path) -> Reader:
    for i in (1, 2):
        (folder / f"model-{i}.safetensors").write_bytes((CORPUS / "safetensors" / "two.safetensors").read_bytes())

    def read(data: bytes) -> object:
        (folder / "model.safetensors.index.json").write_bytes(data)
        return shards.find_files(folder)

    return read


def read_tensors(name: str) -> Callable[[Path], Reader]:
    """The tensors of a file of such a name, and the first row of each."""

    def reader(folder: Path) -> Reader:
        path = folder / name

        def read(data: bytes) -> object:
            path.write_bytes(data)
            shapes = shards.shapes_in(path)
            return [shards.read(path, name, 0, 1) for name, shape in shapes.items() if shape]

        return read

    return reader


def read_a_safetensors_header(folder: Path) -> Reader:
    """A header before 64 bytes of data; what is fuzzed is the header alone, its length is right."""
    read = read_tensors("model.safetensors")(folder)
    return lambda data: read(len(data).to_bytes(8, "little") + data + bytes(64))


def read_a_head(name: str) -> Callable[[Path], Reader]:
    def reader(folder: Path) -> Reader:
        path = folder / name

        def read(data: bytes) -> object:
            path.write_bytes(data)
            return head._tensors(path)

        return read

    return reader


def read_a_pickle(read_in: Callable[[Path], Reader]) -> Callable[[Path], Reader]:
    """A pickle within a file of PyTorch's whose sums are right."""

    def reader(folder: Path) -> Reader:
        read = read_in(folder)

        def wrapped(data: bytes) -> object:
            archive = io.BytesIO()
            with zipfile.ZipFile(archive, "w") as file:
                file.writestr("archive/data.pkl", data)
                file.writestr("archive/byteorder", "little")
                for i in range(2):
                    file.writestr(f"archive/data/{i}", bytes(64))
                file.writestr("archive/version", "3\n")
            return read(archive.getvalue())

        return wrapped

    return reader


def read_an_adapter(folder: Path) -> Reader:
    config = CORPUS / "config" / "qwen2.json"
    architecture = Architecture.from_config(json.loads(config.read_bytes()))
    (folder / "adapter_model.safetensors").write_bytes((CORPUS / "safetensors" / "two.safetensors").read_bytes())

    def read(data: bytes) -> object:
        (folder / "adapter_config.json").write_bytes(data)
        return base_of(folder), Adapter.open(folder, architecture, {})

    return read


def read_a_family(folder: Path) -> Reader:
    path = folder / "recipe.toml"

    def read(data: bytes) -> object:
        path.write_bytes(data)
        return family_from(str(path))

    return read


TARGETS = (
    Target("manifest", read_a_manifest, 150_000),
    Target("recipe", read_a_recipe, 150_000),
    Target("tokenizer", read_a_tokenizer, 40_000),
    Target("graph", read_a_graph, 60_000),
    Target("trace", read_a_trace, 150_000),
    Target("messages", read_messages, 200_000),
    Target("json", read_rows("rows.json"), 100_000),
    Target("csv", read_rows("rows.csv"), 20_000),
    Target("parquet", read_rows("rows.parquet"), 15_000),
    Target("gz", read_rows("rows.jsonl.gz"), 10_000),
    Target("ledger", read_a_ledger, 5_000),
    Target("set", read_a_set, 60_000),
    Target("config", read_a_config, 60_000),
    Target("index", read_an_index, 40_000),
    Target("safetensors", read_tensors("model.safetensors"), 20_000),
    Target("safetensors-header", read_a_safetensors_header, 40_000),
    Target("bin", read_tensors("pytorch_model.bin"), 10_000),
    Target("pickle", read_a_pickle(read_a_head("reward_head.pt")), 20_000),
    Target("head", read_a_head("reward_head.pt"), 10_000),
    Target("adapter", read_an_adapter, 40_000),
    Target("family", read_a_family, 60_000),
)
