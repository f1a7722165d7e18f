"""docs/benchmarks.md and its plots, from the results that run.py saved.

    python bench/report.py

Of every model's parts (each workload, each growth series, the profile), the newest result on each kind of machine
counts. Ratios alone are claimed: seconds belong to one machine on one day.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import matplotlib as mpl
import numpy as np

mpl.use("svg")
import matplotlib.pyplot as plt  # after the backend is chosen

BENCH = Path(__file__).parent
DOCS = BENCH.parent / "docs"
OWN = "rfprm-lite"
SHARING = (f"{OWN} int8", f"{OWN} fp32")
"""Our contenders as they are used: with prefixes shared."""
FITTED = 3
"""Points at the end of a growth series that the exponent is fitted to."""
AIMS = {"W1": 2.0, "W2": 1.5}
"""The fastest peer's time to ours, at least."""
DEFAULTS = {"2026-11-24-zen4-0.5b-W1-W2.json": {"default": f"{OWN} int8"}}
"""Runs of a bundle that had another default than a checkpoint's own: it was exported with 2 traces, too few to tell
(bench/log/2026-11-24-zen4-w1-w2.md)."""
COMMON = ("avx2", "avx512f", "asimddp")
"""Instructions that do not set a machine apart from others with more."""
_NO_VNNI = "without VNNI our exact u8 x u8 products run at only 1.5 times the speed of FP32's"
_NOTHING_TO_SHARE = "one trace has no prefix to share"
REASONS = {
    ("W1", "transformers bf16 + prefix"): (
        "INT8's peak is only twice BF16's, it computes the prompt once as we do, and INT8 makes neither attention nor "
        "elementwise work faster"
    ),
    ("W2", "transformers bf16 + prefix"): "attention is half of our time, and is computed in FP32",
    ("W1", "ik_llama.cpp q8_0 + prefix"): f"it computes the prompt once as we do, and {_NO_VNNI}",
    ("W2", "ik_llama.cpp q8_0 + prefix"): f"{_NOTHING_TO_SHARE}, and {_NO_VNNI}",
    ("W2", "vllm w8a8"): f"{_NOTHING_TO_SHARE}, and it multiplies in INT8 as we do",
}
"""Why a peer is as near as an aim that is missed allows, by workload and peer."""

plt.rcParams.update({"svg.hashsalt": OWN, "font.size": 8, "axes.spines.top": False, "axes.spines.right": False})

Row = dict[str, Any]


@click.command()
@click.argument("results", nargs=-1, type=click.Path(path_type=Path, exists=True))
@click.option("--docs", type=click.Path(path_type=Path), default=DOCS, show_default=True)
def main(results: tuple[Path, ...], docs: Path) -> None:
    """Write benchmarks.md from RESULTS, JSON files; from all in bench/results by default."""
    paths = results or sorted((BENCH / "results").rglob("*.json"), key=lambda path: path.name)
    runs = [json.loads(path.read_text(encoding="utf-8")) | DEFAULTS.get(path.name, {}) for path in paths]
    folder = docs / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    parts = [HEADER]
    for model in sorted({run["model"] for run in runs}):
        parts += _model(model, by_machine([run for run in runs if run["model"] == model]), folder)
    (docs / "benchmarks.md").write_text("\n".join(parts), encoding="utf-8")


HEADER = """# Benchmarks

`bench/report.py` generates this page from `bench/results/`. `make benchmarks` measures everything again and rewrites
it.

- Every contender does the same work on the same token ids, in a process of its own, with the same number of threads, in
  interleaved rounds after a warm-up. No contender computes an LM head.
- **Ratio**: the contender's median time, divided by that of rfprm-lite's default variant in the same run. Above 1 is
  slower than it. Machines differ and drift, so compare within a table only.
- **Difference**: the largest difference of any reward from the reference's. The reference is PyTorch in FP32, or our
  own FP32 where PyTorch would have taken too long; the other workloads compare our FP32 with PyTorch.
- **Rounds**: a spread of 0 % with one round means that the first round already used the time budget.
- A contender that can't be installed is skipped, and a line says so. One that a table does not list was left out by
  that run's limit or by `--contender`, or was not a contender yet.
- A **?** stands where only medians of a run are known.
- Not in a table yet: torchao INT8, compiled for seven minutes, took 1.27 times INT8's time on W1 on a Zen 4, not
  interleaved ([log](../bench/log/2026-11-27-peers-of-the-same-arithmetic.md)). W1's aim is missed by that, too.
- **Aims**: the fastest peer takes 2.0 times our time on W1 and 1.5 times on W2, on every machine. Where an aim is
  missed, a line says by whom and why.

Was it measured on your machine? `make benchmarks` does it in an hour and a half; a pull request that puts the file of
results into `bench/results/other-machines` puts the machine here.

The 0.5b and 1.5b models have the shapes of Qwen2.5 and mostly random weights: good for time, not for accuracy.
[The log](../bench/LOG.md) says what was tried on the way.
"""


def machine_of(run: Row) -> str:
    """The kind of machine: its processor, and the instructions that set it apart."""
    machine = run["machine"]
    features = machine.get("cpu_features", [])
    special = [feature for feature in features if feature not in COMMON] or [f"{features[0]} only"] if features else []
    instructions = f" ({', '.join(special)})" if special else ""
    return f"{machine['cpu']}, {machine['cpu_count']} cores{instructions}"


def by_machine(runs: list[Row]) -> dict[str, Row]:
    """The newest parts of each kind of machine; the machine of the last run first."""
    kinds = dict.fromkeys(machine_of(run) for run in reversed(runs))
    return {kind: newest([run for run in runs if machine_of(run) == kind]) for kind in kinds}


def newest(runs: list[Row]) -> Row:
    """Each part from the last run that has it, with the machine that it ran on."""
    found: Row = {"workloads": {}, "growth": {}, "profile": None}
    for run in runs:
        origin = {key: run[key] for key in ("machine", "threads", "default")} | {"source": run.get("source")}
        for part in ("workloads", "growth"):
            found[part] |= {name: {**value, **origin} for name, value in run.get(part, {}).items()}
        if run.get("profile"):
            found["profile"] = {**run["profile"], **origin}
    return found


def ours(part: Row) -> Row | None:
    """The row that the ratios are to: the bundle's default variant."""
    return next((row for row in part["contenders"] if row["contender"] == part["default"]), None)


def exponent(sizes: list[float], values: list[float]) -> float | None:
    """p of value ~ size^p, by least squares over the last FITTED points; None where there are too few above zero."""
    pairs = [(s, v) for s, v in zip(sizes, values, strict=True) if s > 0 and v > 0][-FITTED:]
    if len(pairs) < FITTED:
        return None
    x, y = np.log(np.array(pairs)).T
    return float(np.polyfit(x, y, 1)[0])


def _model(model: str, machines: dict[str, Row], folder: Path) -> list[str]:
    lines = [f"\n## {model}\n", *_summary({kind: parts["workloads"] for kind, parts in machines.items()})]
    for kind, parts in machines.items():
        lines += [f"\n### {kind}\n", *_machine(f"{model}-{_slug(kind)}", parts, folder)]
    return lines


def _slug(kind: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", kind.lower()).strip("-")


def _machine(name: str, parts: Row, folder: Path) -> list[str]:
    lines = []
    workloads = dict(sorted(parts["workloads"].items()))
    if workloads:
        lines.append(f"![time by contender](benchmarks/{name}-time.svg)\n")
        _plot_bars(workloads, folder / f"{name}-time.svg")
        for label, workload in workloads.items():
            lines += _workload(label, workload)
    if parts["growth"]:
        lines += _growth(name, parts["growth"], folder)
    if parts["profile"]:
        lines += _profile(parts["profile"])
    return [*lines, *_machines(parts)]


def _summary(machines: dict[str, dict[str, Row]]) -> list[str]:
    """The fastest peer of each workload on each machine, which aims are missed and why, and who was faster than we."""
    lines = [
        "| workload | machine | fastest peer | its time to ours | aim | the authors' recipe to ours |",
        "| --- | --- | --- | --- | ---: | --- |",
    ]
    missed, slower = [], []
    pairs = [(name, kind, parts[name]) for kind, parts in machines.items() for name in parts]
    for name, kind, workload in sorted(pairs, key=lambda pair: pair[0]):
        own, peers = ours(workload), [row for row in workload["contenders"] if not row["contender"].startswith(OWN)]
        if own is None or not peers:
            continue
        peer = min(peers, key=lambda row: row["median"])
        ratio, aim = peer["median"] / own["median"], AIMS.get(name)
        recipe = next((row for row in peers if row["contender"] == "transformers fp32"), None)
        authors = f"{recipe['median'] / own['median']:.1f}" if recipe else "-"
        us, them = own["contender"], peer["contender"]
        lines.append(f"| {name} ({us}) | {kind} | {them} | {_ratio(ratio)} | {aim or '-'} | {authors} |")
        if aim is not None and ratio < aim:
            reason = REASONS.get((name, them), "nobody has looked into it yet")
            missed.append(f"- {name} on {kind}: {them} takes {ratio:.2f} times our time. Why: {reason}.")
        slower += [
            f"{name} on {kind}: {peer['contender']} took {peer['median'] / own['median']:.2f} of the time of "
            f"{own['contender']}"
            for own in workload["contenders"]
            for peer in peers
            if own["contender"] in SHARING and peer["median"] < own["median"]
        ]
    return [
        *lines,
        *(["\nAims that are missed:\n", *missed] if missed else []),
        f"\nWhere a variant of ours was slower than a peer: {'; '.join(slower) or 'nowhere here'}.",
    ]


def _ratio(ratio: float) -> str:
    return f"**{ratio:.2f}** (slower than it)" if ratio < 1 else f"{ratio:.2f}"


def _workload(name: str, workload: Row) -> list[str]:
    own = ours(workload)
    base = own["median"] if own else min(row["median"] for row in workload["contenders"])
    reference = workload["reference"] or "nothing: no reference ran"
    source = f" {workload['source']}" if workload.get("source") else ""
    lines = [
        f"\n#### {name}: {workload['title']}\n",
        (
            f"{workload['tokens']:,} tokens in all, each sequence counted in full. Differences are from {reference}. "
            f"Measured at commit {(workload['machine']['commit'] or 'unknown')[:7]}.{source}\n"
        ),
        "| contender | ratio | spread of rounds | rounds | tokens computed | load s | peak memory, MB | difference |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in sorted(workload["contenders"], key=lambda row: row["median"]):
        spread = f"{(max(row['seconds']) - min(row['seconds'])) / row['median']:.0%}" if row["seconds"] else "?"
        memory = "?" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 1e6:,.0f}"
        load = f"{min(row['load_seconds']):.1f}" if row["load_seconds"] else "?"
        difference = "-" if row["difference"] is None else f"{row['difference']:.1e}"
        note = f" ({row['note']})" if row["note"] else ""
        lines.append(
            f"| {row['contender']}{note} | {row['median'] / base:.2f} | {spread} | {len(row['seconds']) or '?'} | "
            f"{row['computed']:,} | {load} | {memory} | {difference} |"
        )
    return lines


def _growth(name: str, growth: dict[str, Row], folder: Path) -> list[str]:
    """Exponents of time, and of memory above the smallest size's."""
    lines = [
        "\n#### Growth\n",
        f"Time ~ size^p over the last {FITTED} sizes; memory above the smallest size's likewise.",
        "A contender that took longer than the run's time limit for a size was not given the next.\n",
        "| against | contender | sizes | p of time | p of memory | memory at the largest, MB |",
        "| --- | --- | --- | ---: | ---: | ---: |",
    ]
    images = []
    for axis, series in growth.items():
        for contender, points in _by_contender(series).items():
            sizes = [float(size) for size, _ in points]
            memory = [row["peak_bytes"] or 0 for _, row in points]
            times = exponent(sizes, [row["median"] for _, row in points])
            extra = exponent([s - sizes[0] for s in sizes], [float(m - memory[0]) for m in memory])
            covered = f"{sizes[0]:.0f}-{sizes[-1]:.0f}"
            exponents = f"{_shown(times)} | {_shown(extra)}"
            lines.append(f"| {series['axis']} | {contender} | {covered} | {exponents} | {memory[-1] / 1e6:,.0f} |")
        _plot_growth(series, folder / f"{name}-growth-{axis}.svg")
        images.append(f"![growth with {series['axis']}](benchmarks/{name}-growth-{axis}.svg)")
    return [lines[0], *images, "", *lines[1:]]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _by_contender(series: Row) -> dict[str, list[tuple[int, Row]]]:
    found: dict[str, list[tuple[int, Row]]] = {}
    for point in series["points"]:
        for row in point["contenders"]:
            found.setdefault(row["contender"], []).append((point["size"], row))
    return found


def _profile(profile: Row) -> list[str]:
    groups = ("products", "attention", "norms", "mixing", "quantising", "rest")
    peaks = ", ".join(f"{kind.upper()} {speed / 1e9:,.0f}" for kind, speed in profile["peaks"].items())
    lines = [
        "\n#### Where our time goes\n",
        f"The machine's peaks, Gop/s, measured in the same run: {peaks}.\n",
        f"| variant | workload | {' | '.join(groups)} | outside the graph's nodes | products, of the peak |",
        f"| --- | --- | {' | '.join('---:' for _ in groups)} | ---: | ---: |",
    ]
    for run in profile["runs"]:
        shares = " | ".join(f"{run['share'].get(group, 0):.1%}" for group in groups)
        lines.append(
            f"| {run['variant']} | {run['workload']} | {shares} | {run['outside']:.1%} | "
            f"{run['of_peak']:.0%} of {run['peak'].upper()} |"
        )
    return lines


def _machines(parts: Row) -> list[str]:
    found = {}
    for part in (*parts["workloads"].values(), *parts["growth"].values(), *filter(None, [parts["profile"]])):
        machine = part["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        others = "; ".join(f"{name}: {', '.join(found_)}" for name, found_ in machine.get("environments", {}).items())
        commit = f"{(machine['commit'] or '?')[:10]}{' with changes' if machine.get('uncommitted_changes') else ''}"
        features = ", ".join(machine.get("cpu_features", []))
        found[
            f"- {machine['date']}, commit `{commit}`: {machine['cpu']}, {part['threads']} threads of "
            f"{machine['cpu_count']} cores ({features}); {versions}. {others}"
        ] = None
    return ["\n#### Machines and versions\n", *found, ""]


def _plot_bars(workloads: dict[str, Row], path: Path) -> None:
    names = list(dict.fromkeys(row["contender"] for w in workloads.values() for row in w["contenders"]))
    columns = 3
    rows = -(-len(workloads) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(10, 0.6 + rows * (0.5 + 0.17 * len(names))), sharey=True, squeeze=False
    )
    for axis, (name, workload) in zip(axes.flat, workloads.items(), strict=False):
        found = {row["contender"]: row["median"] for row in workload["contenders"]}
        base = (ours(workload) or {"median": 1.0})["median"]
        ratios = [found[n] / base if n in found else 0 for n in names]
        axis.barh(names, ratios, color=["#1f77b4" if n.startswith(OWN) else "#b0b0b0" for n in names])
        for place, ratio in enumerate(ratios):
            axis.text(ratio, place, f" {ratio:.2f}" if ratio else " not run", va="center", fontsize=6)
        axis.axvline(1, color="#1f77b4", linewidth=0.6)
        axis.set_title(name)
        axis.invert_yaxis()
    for axis in axes.flat[len(workloads) :]:
        axis.set_visible(False)
    figure.supxlabel("time to rfprm-lite's (median of a run; shorter is better)")
    _save(figure, path)


def _plot_growth(series: Row, path: Path) -> None:
    figure, (time, memory) = plt.subplots(1, 2, figsize=(9, 2.8))
    for contender, points in _by_contender(series).items():
        sizes = [size for size, _ in points]
        style = {"marker": "o", "markersize": 3, "linewidth": 2 if contender.startswith(OWN) else 1, "label": contender}
        time.plot(sizes, [row["median"] for _, row in points], **style)
        memory.plot(sizes, [(row["peak_bytes"] or 0) / 1e6 for _, row in points], **style)
    for axis, label in ((time, "seconds"), (memory, "peak memory of the process, MB")):
        axis.set_xscale("log", base=2)
        axis.set_xlabel(series["axis"])
        axis.set_ylabel(label)
    time.set_yscale("log")
    memory.set_ylim(bottom=0)
    time.legend(fontsize=6)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
