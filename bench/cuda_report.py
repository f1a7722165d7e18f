"""rfprm-lite on a GPU: is it right, how fast is it, where does its time go. One command for whoever has a card.

    python bench/cuda_report.py                                  all parts, each within 8 minutes
    python bench/cuda_report.py --part tests --part serving      some of them
    python bench/cuda_report.py --dry-run                        without a card: the demo model on the CPU

Parts: prepare (checkpoints and bundles of random weights in real shapes, made on the spot and kept), tests (all that
have a side on a GPU), workloads (W1 to W7 against transformers), serving (best of many, a long trace, many threads),
profile (time by kind of node, against the card's peak). A part that was cut off goes on where it was when it is asked
for again. The report is printed; the JSON goes below bench/results/. A number of a dry run is no number of a GPU, and
none is saved.
"""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import onnxruntime as ort
import torch
from rich.console import Console
from rich.table import Table

import machine
from cuda_contenders import THREADS, run
from models import RECIPE, checkpoint_of
from rfprm_export.checkpoint import source as sources
from rfprm_export.checkpoint.head import load_head
from rfprm_export.checkpoint.tensors import Checkpoint
from rfprm_export.families.options import family_from
from rfprm_export.variants import VARIANTS
from rfprm_export.write.bundle import empty_manifest
from rfprm_export.write.variant import entry, write_tokenizer, write_variant
from rfprm_lite.bundle.manifest import FILE_NAME, Variant, encode
from rfprm_lite.bundle.open import open_bundle
from rfprm_lite.device import DeviceSpec
from rfprm_lite.engine import cuda, session
from rfprm_lite.options import LoadOptions
from rfprm_lite.plan.call import Call
from rfprm_lite.plan.sequence import TokenSequence
from rfprm_lite.scoring.wiring import open_model
from run import CACHE
from workloads import QUICK, WORKLOADS, Workload, best_of_n, long_trace

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
PART_SECONDS = 480
GPU_VARIANTS = ("fp16", "bf16", "int4-fp16")
PEAK = (8192, 3584, 18_944)
"""M, K, N of the product that the card's peak is taken from: the largest of a 7B at the tokens of one run."""
GROUPS = {
    **dict.fromkeys(("Gemm", "FusedGemm", "MatMulNBits", "MatMul"), "products"),
    "PagedAttention": "attention",
    "GroupQueryAttention": "attention",
    "SimplifiedLayerNormalization": "norms",
    "SkipSimplifiedLayerNormalization": "norms",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured. dry: on the CPU, by the demo model."""

    models: tuple[str, ...]
    variants: tuple[str, ...]
    precisions: tuple[str, ...]
    device: str
    cache: Path
    rounds: int
    dry: bool

    @classmethod
    def of(cls, models: Sequence[str], cache: Path, *, dry: bool) -> Setting:
        if dry:
            return cls(("demo",), ("fp32",), ("float32",), "cpu", cache, 1, dry=True)
        return cls(tuple(models), GPU_VARIANTS, ("float16", "bfloat16"), "cuda", cache, 3, dry=False)


Rows = list[dict[str, Any]]


def prepare(setting: Setting, _deadline: float) -> Rows:
    """What the other parts read. It takes most of its time on CPUs."""
    rows: Rows = []
    for model in setting.models:
        begun = time.monotonic()
        checkpoint, bundle = bundle_of(setting, model)
        sizes = {place.name: sum(f.stat().st_size for f in place.rglob("*")) for place in (checkpoint, bundle)}
        rows.append({"model": model, "seconds": time.monotonic() - begun, "bytes": sizes})
    return rows


def tests(setting: Setting, deadline: float) -> Rows:
    """Every test that has a side on a GPU; in a dry run they are collected, and skipped."""
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-q", "-rA", "--no-header", "tests"]
    left = max(1, deadline - time.monotonic())
    try:
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=left)
    except subprocess.TimeoutExpired:
        return [{"failed": f"it took longer than {left:.0f} s", "dry": setting.dry}]
    lines = ended.stdout.splitlines()
    told = [line for line in lines if line.startswith(("PASSED", "FAILED", "ERROR", "SKIPPED"))]
    return [{"exit": ended.returncode, "summary": lines[-1] if lines else "", "tests": told, "dry": setting.dry}]


def workloads(setting: Setting, deadline: float) -> Rows:
    """W1 to W7, where each shape is known; rewards are compared with the first contender's that was run."""
    known = QUICK if setting.dry else WORKLOADS
    return [
        row for model in setting.models for name in known for row in _contest(setting, model, known[name](), deadline)
    ]


def serving(setting: Setting, deadline: float) -> Rows:
    """Best of 16 and of 64 candidates of 512 tokens behind a prompt of 512, one trace of 32k, and a stream of 1,000
    short requests from many threads."""
    sizes = (64, 32, (4, 8), 256, 10) if setting.dry else (512, 512, (16, 64), 32_000, 1000)
    prompt, candidate, counts, length, requests = sizes
    short = best_of_n(requests, 64, 32).calls[0]
    chosen = [
        *(best_of_n(n, prompt, candidate) for n in counts),
        long_trace(length),
        Workload("stream", f"{requests} requests of 96 tokens from {THREADS} threads", [[s] for s in short]),
    ]
    return [
        row
        for model in setting.models
        for workload in chosen
        for row in _contest(setting, model, workload, deadline, THREADS if workload.name == "stream" else None)
    ]


def profile(setting: Setting, deadline: float) -> Rows:
    """Time by kind of node in best of 16, and the products against the card's measured peak."""
    found: Rows = []
    for model in setting.models:
        for variant in setting.variants:
            if time.monotonic() < deadline:
                found.append(_profile(setting, model, variant))
    return found


PARTS: dict[str, Callable[[Setting, float], Rows]] = {
    "prepare": prepare,
    "tests": tests,
    "workloads": workloads,
    "serving": serving,
    "profile": profile,
}


def bundle_of(setting: Setting, model: str) -> tuple[Path, Path]:
    """A checkpoint and its bundle. Weights are rounded to the nearest without calibration, which takes a GPU's time.

    Variants are written side by side, each once.
    """
    checkpoint = checkpoint_of(model, setting.cache)
    folder = setting.cache / "bundles" / f"{checkpoint.name}-cuda{'-dry' if setting.dry else ''}"
    if not (folder / FILE_NAME).exists():
        folder.mkdir(parents=True, exist_ok=True)
        opened = Checkpoint.open(checkpoint)
        spec = family_from(RECIPE).resolve(None, {}, ())
        tokenizer = write_tokenizer(folder, checkpoint, spec.recipe)
        manifest = empty_manifest(str(checkpoint), sources.outline(str(checkpoint), None), spec, tokenizer)
        head = load_head(opened, spec)

        def written(name: str) -> Variant:
            path = folder / name
            if (path / "model.onnx").exists():  # written last
                files = entry(folder, path / "model.onnx"), entry(folder, path / "model.onnx.data")
            else:
                shutil.rmtree(path, ignore_errors=True)
                files = write_variant(folder, VARIANTS[name], opened, spec, head)
            return VARIANTS[name].entry(files, ("not calibrated",))

        with ThreadPoolExecutor() as pool:
            done = tuple(pool.map(written, setting.variants))
        (folder / FILE_NAME).write_bytes(encode(msgspec.structs.replace(manifest, variants=done)))
    return checkpoint, folder


def _contest(
    setting: Setting, model: str, workload: Workload, deadline: float, threads: int | None = None
) -> Iterator[dict[str, Any]]:
    """A row for each contender; whoever failed or came too late has a row that says so."""
    checkpoint, bundle = bundle_of(setting, model)
    ours = [(f"rfprm {v}", "rfprm", {"bundle": str(bundle), "variant": v, "share": "call"}) for v in setting.variants]
    alone = {"bundle": str(bundle), "variant": setting.variants[0], "share": "nothing"}
    ours.append((f"rfprm {setting.variants[0]}, no sharing", "rfprm", alone))
    peers = [
        (f"transformers {dtype}, {way}", "transformers", {"checkpoint": str(checkpoint), "dtype": dtype, "way": way})
        for dtype in setting.precisions
        for way in ("prefix", "batch", "candidate")
    ]
    reference: list[float] | None = None
    for name, who, options in [*ours, *([] if threads else peers)]:
        row: dict[str, Any] = {"model": model, "workload": workload.title, "contender": name}
        left = deadline - time.monotonic()
        if left < 1:
            yield {**row, "failed": "no time was left"}
            continue
        with tempfile.TemporaryDirectory() as folder:
            calls = Path(folder) / "calls.json"
            calls.write_text(json.dumps([[asdict(s) for s in call] for call in workload.calls]), encoding="utf-8")
            asked = {
                "who": who, "with": {**options, "device": setting.device}, "calls": str(calls),
                "rounds": setting.rounds, "threads": threads,
            }  # fmt: skip
            found = run(asked) if setting.dry and not threads else _apart(asked, left)
        rewards = found.pop("rewards", None)
        if rewards is not None:
            reference = reference or rewards
            differences = np.abs(np.array(rewards) - np.array(reference))
            median = statistics.median(found["seconds"])
            row |= {
                "tokens": workload.tokens,
                "seconds": median,
                "tokens_per_second": workload.tokens / median,
                "computed_per_second": found["computed"] / median,
                "from_the_first": float(differences.max()),
            }
        yield row | found


def _apart(asked: dict[str, Any], seconds: float) -> dict[str, Any]:
    """What a contender found in a process of its own, or why it failed."""
    command = [sys.executable, str(Path(__file__).with_name("cuda_contenders.py")), json.dumps(asked)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {"failed": f"it took longer than {seconds:.0f} s"}
    if ended.returncode:
        return {"failed": ended.stderr.strip().splitlines()[-1][:400] if ended.stderr.strip() else "no message"}
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def _profile(setting: Setting, model: str, variant: str) -> dict[str, Any]:
    _, folder = bundle_of(setting, model)
    device = DeviceSpec.parse(setting.device)
    workload = best_of_n(4, 64, 32) if setting.dry else best_of_n(16, 512, 512)
    calls = [[TokenSequence(np.array(s.ids), np.array(s.reads)) for s in call] for call in workload.calls]
    with tempfile.TemporaryDirectory() as temporary, _profiling(Path(temporary) / "profile") as opened:
        loaded = open_model(
            open_bundle(str(folder), LoadOptions(variant=variant, device=setting.device, verify=False)),
            device, None, 0, None,
        )  # fmt: skip
        begun = time.perf_counter()
        for _ in range(2):  # the first is the warm-up
            begun = time.perf_counter()
            for call in calls:
                Call(loaded.engine, budget=loaded.budget).rewards(call)
        seconds = time.perf_counter() - begun
        events = json.loads(Path(opened[0].end_profiling()).read_text(encoding="utf-8"))
    nodes = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    groups: dict[str, float] = defaultdict(float)
    operations = 0
    for node in nodes[len(nodes) // 2 :]:
        kind = node["args"]["op_name"]
        groups[GROUPS.get(kind, "elementwise")] += node["dur"] / 1e6
        if GROUPS.get(kind) == "products":
            (output,) = (shape for typed in node["args"]["output_type_shape"][:1] for shape in typed.values())
            (left,) = (shape for typed in node["args"]["input_type_shape"][:1] for shape in typed.values())
            operations += 2 * int(np.prod(output)) * int(left[-1])
    reached = peak(setting)
    return {
        "model": model,
        "workload": workload.title,
        "variant": variant,
        "seconds": seconds,
        "share": {group: spent / seconds for group, spent in groups.items()},
        "gaps": 1 - sum(groups.values()) / seconds,
        "operations": operations,
        "peak": reached,
        "of_peak": operations / seconds / reached,
    }


class _profiling:  # noqa: N801  # used as a function
    """Sessions that are opened within it are profiled; gives them as a list."""

    def __init__(self, prefix: Path) -> None:
        self._prefix, self._opened = prefix, list[ort.InferenceSession]()

    def __enter__(self) -> list[ort.InferenceSession]:
        self._options = session.session_options

        def options(threads: int | None, **named: bool) -> ort.SessionOptions:
            made = self._options(threads, **named)
            made.enable_profiling, made.profile_file_prefix = True, str(self._prefix)
            return made

        self._session = ort.InferenceSession

        def opening(*arguments: Any, **named: Any) -> ort.InferenceSession:
            self._opened.append(self._session(*arguments, **named))
            return self._opened[-1]

        session.session_options, ort.InferenceSession = options, opening  # type: ignore[assignment,misc]
        return self._opened

    def __exit__(self, *_: object) -> None:
        session.session_options, ort.InferenceSession = self._options, self._session  # type: ignore[misc]


def peak(setting: Setting) -> float:
    """Operations a second of a large product in PyTorch, the best of ten."""
    m, k, n = (256, 512, 512) if setting.dry else PEAK
    dtype = torch.float32 if setting.dry else torch.float16
    left, right = (torch.randn(*shape, device=setting.device, dtype=dtype) for shape in ((m, k), (n, k)))
    best = float("inf")
    for _ in range(10):
        begun = time.perf_counter()
        torch.nn.functional.linear(left, right)
        if not setting.dry:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - begun)
    return 2 * m * k * n / best


def table(part: str, rows: Rows) -> Table:
    """A part for a terminal: the columns that its rows have, but for what is long."""
    shown = Table(title=part, title_justify="left")
    columns = list(dict.fromkeys(key for row in rows for key, value in row.items() if not isinstance(value, list)))
    for column in columns:
        shown.add_column(column.replace("_", " "))
    for row in rows:
        shown.add_row(*(_cell(row.get(column, "")) for column in columns))
    return shown


def _cell(value: object) -> str:
    if isinstance(value, dict):
        shown = (
            f"{key} {number:.0%}" if isinstance(number, float) else f"{key} {number:,}" for key, number in value.items()
        )
        return ", ".join(shown)
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--part", "parts", multiple=True, type=click.Choice(list(PARTS)), help="All by default.")
@click.option("--model", "models", multiple=True, default=("0.5b", "7b"), help="Of random weights.")
@click.option("--dry-run", "dry", is_flag=True, help="Without a card: the demo model on the CPU. Nothing is saved.")
@click.option("--cache", type=click.Path(path_type=Path), default=CACHE)
@click.option("--save", type=click.Path(path_type=Path), help="The JSON, in place of a new file below bench/results/.")
def main(parts: tuple[str, ...], models: tuple[str, ...], dry: bool, cache: Path, save: Path | None) -> None:
    """Measure rfprm-lite on a GPU."""
    setting, console = Setting.of(models, cache, dry=dry), Console(width=200)
    card = None if dry else asdict(cuda.card(0))
    report: dict[str, Any] = {"dry": dry, "card": card, "machine": machine.describe([]), "parts": {}}
    report["driver"] = None if dry else asdict(cuda.driver())
    for part in parts or PARTS:
        begun = time.monotonic()
        rows = PARTS[part](setting, begun + PART_SECONDS)
        report["parts"][part] = {"seconds": time.monotonic() - begun, "rows": rows}
        console.print(table(part, rows))
        if not dry:
            path = save or RESULTS / f"{report['machine']['date']}-cuda.json"
            path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")  # after each part: time may run out
    console.print("dry run: no number here is one of a GPU" if dry else f"{card}")


if __name__ == "__main__":
    main()
