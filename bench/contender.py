"""What every contender is, and the table of them.

A contender runs in a process of its own (worker.py), in an environment of its own where its peers' versions clash.
Its module is imported there and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from workloads import Sequence

Rewards = list[list[float]]
"""For each sequence of a call, the reward at each of its reads."""


@dataclass(frozen=True, slots=True)
class ModelPaths:
    """checkpoint: a PyTorch folder in the 7B layout. bundle: rfprm-export's. converted: where others keep theirs."""

    checkpoint: str
    bundle: str
    converted: str


class Contender(Protocol):
    """The interface of a contender's module-level class; made with no arguments but those of its `Entry`."""

    def load(self, model: ModelPaths, threads: int) -> None:
        """Make it ready to score; conversions are cached below `model.converted`."""

    def score(self, call: list[Sequence]) -> tuple[Rewards, int]:
        """Rewards, and how many tokens were run through the model."""


@dataclass(frozen=True, slots=True)
class Entry:
    """target: `module:Class` below contenders/. arguments: of the class. environment: a name below the cache, or None
    for the runner's own. requirements: what that environment needs. note: what the table must say of it."""

    name: str
    target: str
    arguments: dict[str, str | bool] = field(default_factory=dict)
    environment: str | None = None
    requirements: tuple[str, ...] = ()
    note: str = ""


OPTIMUM = ("torch==2.13.0", "optimum-onnx==0.1.0", "transformers<4.58", "onnxruntime", "safetensors")

ENTRIES = (
    Entry(
        "transformers fp32", "transformers_full:TransformersFull", {"dtype": "float32"}, note="a candidate at a time"
    ),
    Entry(
        "transformers bf16", "transformers_full:TransformersFull", {"dtype": "bfloat16"}, note="a candidate at a time"
    ),
    Entry("transformers fp32 + prefix", "transformers_prefix:TransformersPrefix", {"dtype": "float32"}),
    Entry("transformers bf16 + prefix", "transformers_prefix:TransformersPrefix", {"dtype": "bfloat16"}),
    Entry("optimum-onnx fp32", "optimum_onnx:OptimumOnnx", {}, "optimum", OPTIMUM, "plain graph, head in numpy"),
    Entry("rfprm-lite fp32, no sharing", "rfprm:Rfprm", {"variant": "fp32", "share": False}),
    Entry("rfprm-lite fp32", "rfprm:Rfprm", {"variant": "fp32", "share": True}),
)

REFERENCE = "transformers fp32"


def environment_folder(cache: Path, entry: Entry) -> Path | None:
    return None if entry.environment is None else cache / "environments" / entry.environment
