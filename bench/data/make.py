"""Make traces.json.gz, the real token sequences of workloads W3, W4 and W7, from the public data sets.

    python bench/data/make.py DATA TOKENIZER.json

DATA holds `strictprm-bon/` (StrictPRMBench, CC-BY-4.0), `skythought-longcot/` (NovaSky-AI/SkyThought, Apache-2.0) and
`openr-samples/` (openreasoner/openr, MIT); the tokenizer is Qwen2.5's with <extra_0> in slot 151651. What is kept are
token ids and read-out positions, no text.
"""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rfprm_export.families.options import family_from
from rfprm_lite import Trace
from rfprm_lite.text.encoding import Encoder

MOST_TOKENS = 200_000
POOLS_A_SET = 4
CANDIDATES = 16
LONG_TRACES = 3


def rows(path: Path) -> Iterator[dict[str, Any]]:
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    for line in text.split("\n"):
        if line:
            yield json.loads(line)


def leaves(node: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The step texts from below the root to each leaf of a search tree."""
    for child in node["children"]:
        own = (*path, child["text"])
        if child["children"]:
            yield from leaves(child, own)
        elif all(text.strip() for text in own):
            yield own


def main(data: Path, tokenizer: Path) -> None:
    recipe = family_from("reasonflux-prm-7b").resolve(None, {}, ()).recipe
    encoder = Encoder.from_file(tokenizer, recipe, MOST_TOKENS)

    def encode(problem: str, trace: Trace) -> dict[str, list[int]]:
        (sequence,) = encoder.step_sequences(problem, trace)
        return {"ids": sequence.ids.tolist(), "reads": sequence.read_at.tolist()}

    pools = [
        [encode(row["question"], Trace.parse(c["response"])) for c in row["candidates"][:CANDIDATES]]
        for name in ("gsm8k", "math500")
        for row in islice(rows(data / "strictprm-bon" / f"{name}_bon32_qwenprm.jsonl.gz"), POOLS_A_SET)
    ]
    long: list[dict[str, list[int]]] = []
    for row in rows(data / "skythought-longcot" / "aime24_ckpt_pool.jsonl.gz"):
        sequence = encode(row["question"], Trace.parse(row["candidates"][0]["response"]))
        if 4_000 < len(sequence["ids"]) < 9_000 and len(long) < LONG_TRACES:
            long.append(sequence)
    root = next(rows(data / "openr-samples" / "samples_math-aps-tree.jsonl"))
    tree = [encode(root["question"], Trace.from_steps(path)) for path in leaves(root["reasoning_steps"])]
    made = json.dumps({"pools": pools, "long": long, "tree": tree}).encode()
    (Path(__file__).parent / "traces.json.gz").write_bytes(gzip.compress(made, mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
