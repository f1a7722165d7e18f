"""What `make cuda` runs, as far as it runs without a card: contenders that agree, and a profile that adds up."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import cuda_report
from checkpoints import DEMO_CHECKPOINT
from cuda_contenders import Rfprm, Transformers, run
from rfprm_lite import PRM
from rfprm_lite.bundle.manifest import FILE_NAME
from workloads import QUICK, best_of_n


@pytest.fixture
def setting(tmp_path: Path) -> cuda_report.Setting:
    return cuda_report.Setting.of((), tmp_path, dry=True)


@pytest.mark.filterwarnings("ignore:.*past_key_values.* is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["W1", "W5"])
def test_all_contenders_give_the_same_rewards(prm: PRM, name: str) -> None:
    """And run as many tokens as their way takes."""
    workload = QUICK[name]()
    bundle = str(prm._bundle.folder)
    contenders = {
        "shared": Rfprm(bundle, "fp32", "cpu", "call"),
        "alone": Rfprm(bundle, "fp32", "cpu", "nothing"),
        **{way: Transformers(str(DEMO_CHECKPOINT), "float32", "cpu", way) for way in ("prefix", "batch", "candidate")},
    }
    computed = {}
    expected: list[float] = []
    for way, contender in contenders.items():
        results = [contender.score(call) for call in workload.calls]
        found = [reward for rewards, _ in results for sequence in rewards for reward in sequence]
        computed[way] = sum(n for _, n in results)
        expected = expected or found
        np.testing.assert_allclose(found, expected, atol=1e-4)
        assert contender.memory() == 0
    assert computed["alone"] == computed["candidate"] == workload.tokens
    assert computed["shared"] == workload.distinct_prefixes <= computed["prefix"] < workload.tokens


def test_a_stream_from_many_threads(prm: PRM, tmp_path: Path) -> None:
    calls = tmp_path / "calls.json"
    sequences = best_of_n(6, 20, 16).calls[0]
    calls.write_text(json.dumps([[asdict(sequence)] for sequence in sequences]), encoding="utf-8")
    options = {"bundle": str(prm._bundle.folder), "variant": "fp32", "device": "cpu", "share": "call"}
    options = {"who": "rfprm", "with": options, "calls": str(calls), "rounds": 2}
    found = [run({**options, "threads": threads}) for threads in (None, 4)]
    np.testing.assert_allclose(found[1]["rewards"], found[0]["rewards"], atol=1e-6)
    assert [one["computed"] for one in found] == [6 * 36] * 2
    assert all(len(one["seconds"]) == 2 for one in found)


def test_bundles_are_made_once_and_go_on_where_they_were(
    setting: cuda_report.Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = cuda_report.prepare(setting, float("inf"))
    checkpoint, bundle = cuda_report.bundle_of(setting, "demo")
    assert row["bytes"].keys() == {checkpoint.name, bundle.name}
    made = (bundle / FILE_NAME).read_bytes()
    (bundle / FILE_NAME).unlink()
    monkeypatch.setattr(cuda_report, "write_variant", None)  # it is not asked again
    cuda_report.bundle_of(setting, "demo")
    assert (bundle / FILE_NAME).read_bytes() == made
    assert "demo" in cuda_report._cell(row["bytes"])


def test_a_profile_adds_up(setting: cuda_report.Setting) -> None:
    (row,) = cuda_report.profile(setting, float("inf"))
    assert set(row["share"]) == {"products", "attention", "norms", "elementwise"}
    assert sum(row["share"].values()) + row["gaps"] == pytest.approx(1)
    assert 0 < row["of_peak"] < 1
    assert "products" in cuda_report._cell(row["share"])
    assert cuda_report.table("profile", [row]).row_count == 1


def test_a_contender_that_fails_is_told_and_the_others_go_on(setting: cuda_report.Setting) -> None:
    assert "failed" in cuda_report._apart({"who": "nobody"}, 60)
    rows = [*cuda_report._contest(setting, "demo", best_of_n(2, 8, 32), deadline=0)]
    assert {row["failed"] for row in rows} == {"no time was left"}
