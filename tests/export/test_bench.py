"""The benchmark's own arithmetic, and that rfprm-lite is the contender that it says it is."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import models
import report
import requirements_of
import roofline
from checkpoints import DEMO_CHECKPOINT
from contender import ENTRIES, GROWTH, REFERENCES, Entry, Environment, ModelPaths, can_load
from contenders.rfprm import Rfprm
from exporting import Exported
from measure import Measured, interleave, largest_difference
from processes import Run, Worker, WorkerError, python_of, write_calls
from rfprm_lite import PRM
from rfprm_lite.bundle.open import DEMO_FOLDER
from run import install_all
from workloads import QUICK, SERIES, WORKLOADS, Sequence, Workload, full_tree


@pytest.fixture
def paths(prm: PRM) -> ModelPaths:
    """The demo model in FP32."""
    return ModelPaths(str(DEMO_CHECKPOINT), str(prm._bundle.folder), "")


@pytest.mark.parametrize("name", QUICK)
def test_sharing_computes_the_distinct_prefixes_and_changes_no_reward(paths: ModelPaths, name: str) -> None:
    workload = QUICK[name]()
    found = {}
    computed: dict[str, int] = {}
    shares: tuple[Literal["nothing", "call", "calls"], ...] = ("nothing", "call", "calls")
    for share in shares:
        contender = Rfprm("fp32", share)
        contender.load(paths, threads=2)
        for _round in range(2):
            contender.begin()
            results = [contender.score(call) for call in workload.calls]
            assert computed.setdefault(share, sum(n for _, n in results)) == sum(n for _, n in results)
        found[share] = [r for rewards, _ in results for sequence in rewards for r in sequence]
    assert (computed["nothing"], computed["call"]) == (workload.tokens, workload.distinct_prefixes)
    assert computed["calls"] == len(
        {tuple(s.ids[:n]) for c in workload.calls for s in c for n in range(1, len(s.ids) + 1)}
    )
    np.testing.assert_allclose(found["call"], found["nothing"], atol=1e-6)
    np.testing.assert_allclose(found["calls"], found["nothing"], atol=1e-6)


def test_the_sizes_that_the_titles_name() -> None:
    w1, w2, w5 = (WORKLOADS[name]() for name in ("W1", "W2", "W5"))
    assert (w1.tokens, w1.distinct_prefixes) == (16 * 384, 256 + 16 * 128)
    assert w2.tokens == w2.distinct_prefixes == 4096
    assert len(w5.calls) == 10
    assert all(len(call) == 32 for call in w5.calls)


def test_real_workloads_read_steps() -> None:
    for name in ("W3", "W4", "W7"):
        workload = WORKLOADS[name]()
        for call in workload.calls:
            for sequence in call:
                assert sequence.reads == sorted(set(sequence.reads))
                assert {sequence.ids[read] for read in sequence.reads} == {151651}  # <extra_0>
                assert sequence.reads[-1] == len(sequence.ids) - 1
        assert workload.distinct_prefixes <= workload.tokens


def test_contenders_have_names_of_their_own() -> None:
    names = [entry.name for entry in ENTRIES]
    assert len(set(names)) == len(names)
    assert {*REFERENCES, *GROWTH} <= {*names}


# --- growth ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SERIES)
def test_series_grow_with_their_size(name: str) -> None:
    series = SERIES[name]
    small = [series.workload(size) for size in series.sizes[:3]]
    assert [w.tokens for w in small] == sorted({w.tokens for w in small})


def test_a_full_tree_shares_its_branches() -> None:
    tree = full_tree(branching=2, depth=3, prompt=10, step=4)
    assert (len(tree.calls[0]), tree.tokens, tree.distinct_prefixes) == (8, 8 * 22, 10 + 4 * (2 + 4 + 8))


@given(st.floats(0.1, 3), st.floats(0.01, 100))
def test_the_exponent_of_a_power_is_found(power: float, factor: float) -> None:
    sizes = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert report.exponent(sizes, [factor * size**power for size in sizes]) == pytest.approx(power, abs=1e-6)
    assert report.exponent(sizes[:2], [1.0, 2.0]) is None
    assert report.exponent(sizes, [0.0, 0.0, 0.0, 1.0, 2.0]) is None


# --- method ------------------------------------------------------------------------------------------------------


def test_rounds_are_interleaved_and_end_with_the_budget() -> None:
    order: list[str] = []

    def contender(name: str, seconds: float):  # type: ignore[no-untyped-def]
        def ask(_calls: Path) -> Run:
            order.append(name)
            return Run(seconds, [], computed=7, peak_bytes=100 + len(order))

        return ask

    asks = {"fast": contender("fast", 1), "fair": contender("fair", 4), "slow": contender("slow", 9)}
    found = {name: Measured(name, "", [0.0]) for name in asks}
    interleave(asks, Path(), found, rounds=4, budget=6)
    assert order == ["fast", "fair", "slow", "fast", "fair", "fast", "fair", "fast", "fast"]
    assert {name: m.seconds for name, m in found.items()} == {"fast": [1] * 4, "fair": [4, 4], "slow": [9]}
    assert found["fast"].peak_bytes == 109


def test_the_largest_difference_is_over_all_rewards() -> None:
    assert largest_difference([[[0.1, 0.2]], [[0.3]]], [[[0.1, 0.25]], [[0.0]]]) == pytest.approx(0.3)
    with pytest.raises(ValueError, match="longer"):
        largest_difference([[[0.1]]], [[[0.1, 0.2]]])


def test_a_worker_scores_warm_and_cold(paths: ModelPaths, tmp_path: Path) -> None:
    workload = Workload("T", "a test", [[Sequence([5, 6, 7], [0, 2])]])
    entry = next(entry for entry in ENTRIES if entry.name == "rfprm-lite fp32")
    calls = write_calls(workload, tmp_path)
    worker = Worker(entry, Path(sys.executable))
    try:
        assert worker.load(paths, threads=1) > 0
        warm = worker.run(calls)
    finally:
        worker.close()
    worker = Worker(entry, Path(sys.executable))
    try:
        cold = worker.cold(paths, 1, calls)
    finally:
        worker.close()
    assert warm.rewards == cold.rewards
    assert cold.load_seconds is not None
    assert cold.seconds > cold.load_seconds + warm.seconds / 2
    assert warm.computed == cold.computed == 3


def test_a_bundle_by_its_path_is_for_our_contenders(tmp_path: Path) -> None:
    paths = models.prepare(str(DEMO_FOLDER), tmp_path)
    assert paths.bundle == str(DEMO_FOLDER.resolve())
    assert {entry.name for entry in ENTRIES if can_load(entry, paths)} == {
        entry.name for entry in ENTRIES if entry.name.startswith("rfprm-lite")
    }


def test_a_worker_that_fails_says_why() -> None:
    worker = Worker(ENTRIES[-1], Path(sys.executable))
    try:
        with pytest.raises(WorkerError, match="nowhere"):
            worker.load(ModelPaths("", "nowhere", ""), threads=1)
    finally:
        worker.close()


# --- profile and report ------------------------------------------------------------------------------------------


def test_the_profile_accounts_for_the_whole_time(
    exported: Callable[[str], Exported], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = exported("reasonflux-prm-7b")
    monkeypatch.setattr(roofline, "SHAPES", ((64, 64, 64),))
    monkeypatch.setattr(roofline, "PEAK_SECONDS", 0.01)
    found = roofline.profile(ModelPaths(str(made.checkpoint), str(made.bundle), ""), 2, [QUICK["W2"]()])
    assert set(found["peaks"]) == {"int8", "bf16", "fp32"}
    assert {run["variant"]: run["peak"] for run in found["runs"]} == {"fp32": "fp32", "int8": "int8"}
    for run in found["runs"]:
        assert sum(run["share"].values()) + run["outside"] == pytest.approx(1)
        assert 0 < run["outside"] < 1
        assert run["share"]["products"] > 0
        assert ("quantising" in run["share"]) == (run["variant"] == "int8")


def test_operations_are_those_of_the_shapes() -> None:
    node = {"args": {"output_type_shape": [{"float": [5, 7]}], "input_type_shape": [{"float": [5, 3]}]}}
    assert roofline._operations(node) == 2 * 5 * 3 * 7


ROWS = [
    {"contender": name, "note": "", "load_seconds": [1.0], "seconds": [s, s], "median": s, "computed": 9,
     "peak_bytes": 5_000_000, "difference": 1e-6}
    for name, s in (("transformers fp32", 8.0), ("openvino int8", 1.5), ("rfprm-lite int8", 2.0))
]  # fmt: skip
MACHINE = {"date": "2026-01-01", "commit": "0" * 40, "cpu": "a CPU", "cpu_count": 2, "versions": {"numpy": "2"}}
PART = {"title": "a title", "tokens": 1234, "reference": "transformers fp32", "contenders": ROWS}
RESULTS = {
    "machine": MACHINE,
    "model": "0.5b",
    "threads": 2,
    "default": "rfprm-lite int8",
    "workloads": {"W1": PART},
    "growth": {"length": {"axis": "tokens", "points": [{"size": s, **PART} for s in (1, 2, 4, 8)]}},
}


def test_the_report_says_what_was_slower(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(json.dumps(RESULTS))
    report.main.main([str(tmp_path / "r.json"), "--docs", str(tmp_path / "docs")], standalone_mode=False)
    text = (tmp_path / "docs" / "benchmarks.md").read_text()
    assert "| W1 (rfprm-lite int8) | a CPU, 2 cores | openvino int8 | **0.75** (slower than it) | 2.0 | 4.0 |" in text
    assert "W1 on a CPU, 2 cores: openvino int8 takes 0.75 times our time. Why: nobody has looked into it yet." in text
    assert "W1 on a CPU, 2 cores: openvino int8 took 0.75 of the time of rfprm-lite int8" in text
    assert "| transformers fp32 | 4.00 | 0% | 2 | 9 | 1.0 | 5 | 1.0e-06 |" in text
    for image in re.findall(r"\]\((benchmarks/[^)]+)\)", text):
        assert (tmp_path / "docs" / image).stat().st_size > 1000


def test_the_newest_result_of_each_part_counts() -> None:
    older = {**RESULTS, "workloads": {"W1": {**PART, "title": "old"}, "W2": PART}}
    found = report.newest([older, RESULTS])
    assert found["workloads"]["W1"]["title"] == "a title"
    assert set(found["workloads"]) == {"W1", "W2"}


def test_each_kind_of_machine_has_its_own_newest_results(tmp_path: Path) -> None:
    other = {**RESULTS, "machine": {**MACHINE, "cpu_features": ["avx2"]}, "source": "From a letter.", "growth": {}}
    medians = [{**row, "seconds": [], "load_seconds": [], "difference": None} for row in ROWS]
    paths = [tmp_path / "1.json", tmp_path / "2.json"]
    paths[0].write_text(json.dumps({**other, "workloads": {"W1": {**PART, "contenders": medians}}}))
    paths[1].write_text(json.dumps(RESULTS))
    report.main.main([*map(str, paths), "--docs", str(tmp_path / "docs")], standalone_mode=False)
    text = (tmp_path / "docs" / "benchmarks.md").read_text()
    for kind in ("a CPU, 2 cores", "a CPU, 2 cores (avx2 only)"):
        assert f"| W1 (rfprm-lite int8) | {kind} | openvino int8 |" in text
        assert f"### {kind}\n" in text
    assert "Measured at commit 0000000. From a letter." in text
    assert "| transformers fp32 | 4.00 | ? | ? | 9 | ? | 5 | - |" in text


def test_every_measured_aim_that_is_missed_has_a_reason() -> None:
    text = (report.DOCS / "benchmarks.md").read_text(encoding="utf-8")
    assert "Why: " in text
    assert "nobody has looked" not in text


# --- environments ------------------------------------------------------------------------------------------------


def test_an_environment_belongs_to_one_set_of_requirements() -> None:
    environments = {entry.environment for entry in ENTRIES if entry.environment}
    assert len({environment.name for environment in environments}) == len(environments)


def test_what_cannot_be_installed_is_a_line_and_no_contender(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = Environment("wrong", (str(tmp_path / "no-such-package.whl"),))
    entry = Entry("a peer", "module:Class", environment=wrong)
    install_all([entry], tmp_path)
    assert re.match("can't install wrong: .*no-such-package.whl", capsys.readouterr().err)
    assert python_of(entry, tmp_path) is None


def test_a_forced_package_gets_what_it_asks_for_and_is_not_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["torch==2.13.0+cpu", "Missing_One>=2; python_version > '3'", "numpy<1", "no.good", "extra; extra == 'a'"]
    monkeypatch.setattr(requirements_of.importlib.metadata, "requires", lambda _: asked)
    requirements_of.main("a-package", "no-good")
    assert capsys.readouterr().out == "Missing_One>=2\n"
